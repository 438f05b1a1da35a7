"""The unit of work on clusters: an Arrow table in and out; and its workers on Ray."""
