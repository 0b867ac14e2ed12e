"""Checked reading of a model's `config.json`: each fault names its field and value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vram_search.errors import InputError

MAX_SIZE = 2**31
MAX_LAYERS = 10_000

ALIASES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "layer_types": ("layers_block_type",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("moe_topk", "moe_k", "num_experts_per_token"),
    "n_shared_experts": ("moe_num_shared_experts",),
}
"""Other names of a field: `attribute_map` of transformers' `models/*/configuration_*.py`, and the
feed-forward sizes of GPT-2 (`n_inner`), OPT and XGLM (`ffn_dim`) and Falcon (`ffn_hidden_size`)."""

_CONFIG_EXPECTED = "a Hugging Face config.json of a causal language model is expected"


class Fields:
    """The fields of one configuration, with its family's defaults."""

    def __init__(
        self, config: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.config, self.source = config, source
        self.defaults = defaults or {}

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        return Fields(self.config, self.source, defaults)

    def fault(self, message: str, remedy: str = _CONFIG_EXPECTED) -> InputError:
        return InputError(f"{self.source}: {message}", remedy)

    def _named(self, name: str) -> tuple[str, Any]:
        """The first of the field's names that is there, and its value."""
        for key in (name, *ALIASES.get(name, ())):
            if key in self.config:
                return key, self.config[key]
        return name, self.defaults.get(name)

    def size(self, name: str, *, largest: int = MAX_SIZE) -> int:
        """A whole number from 1; required.

        Raises:
            InputError: it is missing or anything else.
        """
        key, value = self._named(name)
        if value is None and key not in self.config:
            raise self.fault(f"the field {name!r} is missing")
        return self._checked(key, value, largest)

    def size_or_none(self, name: str) -> int | None:
        """As `size`; None where it is null or missing and the family has no default."""
        key, value = self._named(name)
        return None if value is None else self._checked(key, value, MAX_SIZE)

    def count(self, name: str) -> int:
        """A whole number from 0; 0 where it is null or missing."""
        key, value = self._named(name)
        return 0 if value is None or value == 0 else self._checked(key, value, MAX_SIZE)

    def _checked(self, key: str, value: object, largest: int) -> int:
        if type(value) is not int or value <= 0:
            raise self.fault(f"{key} is {_shown(value)}, not a whole number above 0")
        if value > largest:
            raise self.fault(f"{key} is {_shown(value)}: absurd, above {largest:,}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is null or missing and the family has no default."""
        key, value = self._named(name)
        if value is not None and type(value) is not bool:
            raise self.fault(f"{key} is {_shown(value)}, neither true nor false")
        return bool(value)

    def number(self, name: str) -> float:
        """A number from 0; 0 where it is null or missing and the family has no default."""
        key, value = self._named(name)
        if value is None:
            return 0.0
        if type(value) not in (int, float) or not 0 <= value < MAX_SIZE:
            raise self.fault(f"{key} is {_shown(value)}, not a number from 0")
        return float(value)

    def text(self, name: str) -> str:
        """Text; required."""
        key, value = self._named(name)
        if not isinstance(value, str) or not value:
            what = "missing" if value is None else f"not a text: {_shown(value)}"
            raise self.fault(f"the field {key!r} is {what}")
        return value

    def section(self, name: str) -> Mapping[str, Any] | None:
        """A mapping; None where it is null or missing."""
        key, value = self._named(name)
        if value is not None and not isinstance(value, dict):
            raise self.fault(f"{key} is {_shown(value)}, not a mapping")
        return value

    def per_layer(self, name: str, layers: int, kind: type) -> list[Any] | None:
        """One value of a kind for each layer; None where it is null or missing."""
        key, value = self._named(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
            raise self.fault(f"{key} is {_shown(value)}, not a list of {kind.__name__}")
        if len(value) != layers:
            raise self.fault(
                f"{key} has {len(value)} entries, but num_hidden_layers is {layers}",
                "the two contradict each other: is the file from the model's publisher?",
            )
        return value

    def layer_numbers(self, name: str) -> frozenset[int]:
        """Layers by number, from 0; none where it is null or missing."""
        key, value = self._named(name)
        if value is None:
            return frozenset()
        if not isinstance(value, list) or not all(type(entry) is int for entry in value):
            raise self.fault(f"{key} is {_shown(value)}, not a list of layer numbers")
        return frozenset(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def load_config(file: Path) -> dict[str, Any]:
    """The mapping in a `config.json`.

    Raises:
        InputError: no such file, not readable, not JSON, no mapping, or a field that stands twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file", "give the folder of a model") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})", "is the download complete?") from None
    except RecursionError:
        raise InputError(f"{file}: too deeply nested", _CONFIG_EXPECTED) from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: not a config.json (it holds no mapping)")
    return config


def _without_repeats(pairs: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file}: the field {repeated!r} stands there twice", "keep one of them")
    return mapping
