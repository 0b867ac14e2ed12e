"""Strategies of search replayed on tables of real loss curves: `python -m bench.search`."""
