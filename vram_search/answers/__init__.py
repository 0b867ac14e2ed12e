"""Builds what every question is answered with: command line, Python API and report share it."""
