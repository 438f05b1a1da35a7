"""The HTTP server of `labelfusion serve`."""
