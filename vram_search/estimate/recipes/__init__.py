"""Reads configurations of other tools and JSON lines into workloads."""
