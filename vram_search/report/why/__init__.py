"""Explains why a trial ended as it did."""
