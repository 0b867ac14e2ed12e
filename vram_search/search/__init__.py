"""Optuna: what to try next, when to prune. Optuna is imported in this room alone."""

from vram_search.search.initial_points import priors
from vram_search.search.study import Proposal, Search

__all__ = ["Proposal", "Search", "priors"]
