"""The subcommands of `labelfusion`: each file has `add_arguments` and `run`."""
