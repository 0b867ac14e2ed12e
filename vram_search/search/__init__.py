"""Optuna: what to try next, when to prune. Optuna is imported in this room alone."""

from vram_search.search.study import Proposal, Search

__all__ = ["Proposal", "Search"]
