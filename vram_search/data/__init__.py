"""Rows of a data set: read, checked, split and hashed. No tokenizer, no torch."""

from vram_search.data.example import Example
from vram_search.data.rows import Rows, load_rows

__all__ = ["Example", "Rows", "load_rows"]
