"""Seconds of an optimizer step: measured, and fitted."""
