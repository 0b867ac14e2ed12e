"""The strategies by their name in the study file."""

from __future__ import annotations

from vram_search.search.gp.strategy import GpStrategy
from vram_search.search.optuna_strategies import RandomStrategy, TpeStrategy
from vram_search.search.strategy import Strategy

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (GpStrategy(), TpeStrategy(), RandomStrategy())
}
"""Each value of the study's key `strategy` (`spec.strategy_name`)."""
