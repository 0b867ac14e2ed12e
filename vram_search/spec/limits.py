"""The largest numbers of a budget; a larger one could be neither reached nor shown as a date."""

MOST_HOURS = 24 * 366
MOST_TRIALS = 1_000_000
