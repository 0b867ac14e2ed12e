"""Predicted bytes against figures that other people measured: writes docs/accuracy.md."""
