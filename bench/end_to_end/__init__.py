"""Ours against what people do today, on a real card, for equally many minutes."""
