"""The HTML report: one file with its charts, readable from disk, in print and without colour."""
