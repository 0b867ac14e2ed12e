"""Optuna: what to try next, when to prune. Optuna is imported in this package alone.

A name's module is imported when the name is first asked for (PEP 562): `vram-search why` asks a
strategy for an explanation and needs no Optuna.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_search.search.problem import Problem as Problem
    from vram_search.search.storage import open_storage as open_storage
    from vram_search.search.strategies import STRATEGIES as STRATEGIES
    from vram_search.search.strategy import Strategy as Strategy
    from vram_search.search.study import Proposal as Proposal
    from vram_search.search.study import Search as Search
else:
    _MODULES = {
        "Problem": "problem",
        "Proposal": "study",
        "STRATEGIES": "strategies",
        "Search": "study",
        "Strategy": "strategy",
        "open_storage": "storage",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"vram_search.search.{_MODULES[name]}"), name)
