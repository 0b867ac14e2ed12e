"""The largest values of hyperparameters and budgets. This module imports nothing."""

from __future__ import annotations

MAX_RANK = 1024
MAX_CUTOFF_LEN = 1_048_576
MAX_ALPHA_RATIO = 1024
MAX_DROPOUT = 0.99
MAX_LORAPLUS_RATIO = 1024
MAX_NEFTUNE_ALPHA = 1000
MOST_EPOCHS = 10_000
"""More is a typing error."""

MOST_HOURS = 24 * 366
MOST_TRIALS = 1_000_000
"""A larger budget could be neither reached nor shown as a date."""
