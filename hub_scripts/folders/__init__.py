"""Runs over folders of files, partition by partition, in this process or on a cluster."""
