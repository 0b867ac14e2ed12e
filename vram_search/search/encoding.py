"""Hyperparameters as numbers for the sampler, and back.

Rank, cutoff and batch size become their index in the ascending list of values (for powers of two
that is their logarithm), the learning rate its logarithm, optimizer and targets stay categories. A
pinned hyperparameter is not shown to the sampler.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from vram_search.spec import Hyperparameters, SearchSpace

ORDERED = ("lora_rank", "cutoff_len", "batch_size")
CATEGORIES = ("optim", "lora_target")


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's view of the space: everything that is not pinned."""
    found: dict[str, BaseDistribution] = {}
    for name in CATEGORIES:
        values = getattr(space, name)
        if len(values) > 1:
            found[name] = optuna.distributions.CategoricalDistribution(values)
    for name in ORDERED:
        values = getattr(space, name)
        if len(values) > 1:
            found[f"{name}_index"] = optuna.distributions.IntDistribution(0, len(values) - 1)
    if not space.is_learning_rate_pinned:
        found["learning_rate"] = optuna.distributions.FloatDistribution(
            space.learning_rate.min, space.learning_rate.max, log=True
        )
    return found


def decode(params: dict[str, Any], space: SearchSpace, alpha_ratio: int) -> Hyperparameters:
    """Hyperparameters of Optuna's parameters; pinned ones come from the space."""
    values: dict[str, Any] = {
        name: params.get(name, getattr(space, name)[0]) for name in CATEGORIES
    }
    for name in ORDERED:
        values[name] = getattr(space, name)[params.get(f"{name}_index", 0)]
    values["learning_rate"] = params.get("learning_rate", space.learning_rate.min)
    return Hyperparameters(lora_alpha=alpha_ratio * values["lora_rank"], **values)


def encode(hyperparameters: Hyperparameters, space: SearchSpace) -> dict[str, Any]:
    """Optuna's parameters of a point of the space.

    Raises:
        ValueError: it is no point of the space.
    """
    if not space.contains(hyperparameters):
        raise ValueError(f"{hyperparameters} is not in the search space")
    params: dict[str, Any] = {}
    for name in distributions(space):
        if name.endswith("_index"):
            plain = name.removesuffix("_index")
            params[name] = getattr(space, plain).index(getattr(hyperparameters, plain))
        else:
            params[name] = getattr(hyperparameters, name)
    if "learning_rate" in params:
        low, high = space.learning_rate.min, space.learning_rate.max
        params["learning_rate"] = min(max(params["learning_rate"], low), high)
    return params
