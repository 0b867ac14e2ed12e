"""Names of the strategies. They are apart from the study file's model, so that `--help` needs no
pydantic."""

from __future__ import annotations

from typing import Literal, get_args

StrategyName = Literal["gp", "tpe", "random"]
STRATEGY_NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
