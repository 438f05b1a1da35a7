"""The `labelfusion` command, and the code that publishes models."""
