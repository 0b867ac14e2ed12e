"""Optuna: what to try next, when to prune. Optuna is imported in this room alone."""

from vram_search.search.priors import priors
from vram_search.search.search import Proposal, Search

__all__ = ["Proposal", "Search", "priors"]
