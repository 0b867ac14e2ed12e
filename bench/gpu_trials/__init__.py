"""Checks of whole trials that need a CUDA GPU."""
