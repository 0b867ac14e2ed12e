"""A table of real loss curves: `python -m bench.curves`, its rows in README.md."""
