"""HEBO, as it is by default: a GP on warped losses, three acquisition functions at once."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from bench.search.peers.adapter import Asked, FullRuns, play
from bench.search.replay import Replay
from vram_search.search.encoding import distributions
from vram_search.spec import SearchSpace


def hebo(replay: Replay) -> None:
    """HEBO on full runs."""
    random.seed(replay.seed)
    np.random.seed(replay.seed)
    torch.manual_seed(replay.seed)
    play(replay, _Hebo(replay.table.space, replay.seed))


class _Hebo(FullRuns):
    def __init__(self, space: SearchSpace, seed: int) -> None:
        parts = [_parameter(name, one) for name, one in distributions(space).items()]
        self._hebo = HEBO(DesignSpace().parse(parts), scramble_seed=seed)

    def ask(self) -> Asked:
        """Proposes a new configuration."""
        return Asked(self._hebo.suggest(1).iloc[0].to_dict())

    def take(self, params: dict[str, Any], name: str) -> None:
        """Puts what is trained in the place of the proposal."""
        self._trained = params

    def tell(self, loss: float, ninths: int) -> None:
        """Gives the loss."""
        self._hebo.observe(pd.DataFrame([self._trained]), np.array([[loss]]))


def _parameter(name: str, one: BaseDistribution) -> dict[str, Any]:
    if isinstance(one, CategoricalDistribution):
        return {"name": name, "type": "cat", "categories": list(one.choices)}
    kind = "pow" if isinstance(one, FloatDistribution) else "int"
    return {"name": name, "type": kind, "lb": one.low, "ub": one.high}  # type: ignore[attr-defined]
