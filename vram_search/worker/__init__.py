"""Runs the search: each trial is planned, probed and trained in a subprocess under watch."""
