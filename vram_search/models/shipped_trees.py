"""The shipped module trees: of the shipped shapes without a formula, for a light installation.

`python -m bench.shipped_trees` reads them from the classes of transformers.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from vram_search.resources import shipped

NOT_THE_MODEL = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})
"""Fields that differ between copies of one model and change no module."""
NO_MODULE = frozenset(
    {"bos_token_id", "eos_token_id", "initializer_range", "pad_token_id", "rope_theta", "use_cache"}
)
"""Further fields that change no module; fine-tuned models often have others."""


PLACE = "{file}"
"""Stands for the path of the configuration in the message of a fault."""


def trees_file() -> Path:
    """A line for each configuration: its key, a tab, and the JSON of its tree or of the fault that
    transformers has with it; compressed."""
    return shipped("configs", "models", "trees.jsonl.gz")


def shipped_tree(values: dict[str, Any], file: str) -> dict[str, Any] | None:
    """Returns the JSON of a configuration's tree or fault; None without a shipped one.

    Args:
        file: the path of the configuration, for the message of a fault.
    """
    found = _lines().get(configuration_key(values).encode())
    data: dict[str, Any] | None = None if found is None else json.loads(found)
    if data is not None and "fault" in data:
        data["fault"] = data["fault"].replace(PLACE, file)
    return data


@lru_cache(maxsize=1)
def _lines() -> dict[bytes, bytes]:
    import gzip

    with gzip.open(trees_file()) as lines:
        return dict(line.split(b"\t", 1) for line in lines)


def configuration_key(values: dict[str, Any]) -> str:
    """Returns what a shipped tree is found by: the fields that may change a module."""
    from hashlib import sha256

    model = {key: value for key, value in values.items() if key not in NOT_THE_MODEL | NO_MODULE}
    return sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()[:32]
