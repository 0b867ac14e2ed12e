"""Bytes of an element by its data type."""

BF16 = 2
FP32 = 4
