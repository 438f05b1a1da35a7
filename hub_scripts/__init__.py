"""The `labelfusion` command and what it takes to publish a model."""
