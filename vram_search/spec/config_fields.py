"""Reads and checks a model's `config.json`. Each error names the field and its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.typed_fields import FieldError, TypedFields

MAX_LAYERS = 10_000

ALIASES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "layer_types": ("layers_block_type",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("moe_topk", "moe_k", "num_experts_per_token"),
    "vocab_size": ("padded_vocab_size",),
    "num_key_value_heads": ("multi_query_group_num",),
    "head_dim": ("kv_channels",),
    "n_shared_experts": ("moe_num_shared_experts",),
    "text_config": ("llm_config", "language_config"),
}
"""Other names of a field: `attribute_map` of transformers' `models/*/configuration_*.py`, and the
feed-forward sizes of GPT-2 (`n_inner`), OPT and XGLM (`ffn_dim`) and Falcon (`ffn_hidden_size`);
the last are ChatGLM's, InternVL's and DeepSeek-VL's, of their publishers' code."""

CONFIG_EXPECTED = "a Hugging Face config.json of a causal language model is expected"


@dataclass(frozen=True)
class ConfigFields(TypedFields):
    """The fields of one configuration, under any of their names, with its family's defaults."""

    defaults: Mapping[str, Any] = field(default_factory=dict)

    def with_defaults(self, defaults: Mapping[str, Any]) -> ConfigFields:
        return replace(self, defaults=defaults)

    def found(self, key: str) -> tuple[str, Any]:
        for name in (key, *ALIASES.get(key, ())):
            if name in self.values:
                return name, self.values[name]
        return key, self.defaults.get(key)

    def fault(self, message: str, remedy: str = CONFIG_EXPECTED) -> InputError:
        return InputError(f"{self.place}: {message}", remedy)

    def refused(self, key: str, problem: str, remedy: str = CONFIG_EXPECTED) -> FieldError:
        return super().refused(key, problem, CONFIG_EXPECTED)

    def missing(self, key: str, remedy: str = CONFIG_EXPECTED) -> FieldError:
        return super().missing(key, CONFIG_EXPECTED)

    def count(self, name: str) -> int:
        """Returns a whole number of at least 0; 0 if the field is null or missing."""
        return self.size_or_none(name, least=0) or 0

    def per_layer(self, name: str, layers: int, kind: type) -> list[Any] | None:
        """Returns one value of a kind for each layer; None if the field is null or missing."""
        values = self.list_of(kind, name)
        if values is not None and len(values) != layers:
            raise self.fault(
                f"{name} has {len(values)} entries, but num_hidden_layers is {layers}",
                "the two contradict each other; take the file from the model's publisher",
            )
        return values

    def layer_numbers(self, name: str) -> frozenset[int]:
        """Returns layer numbers, counted from 0; empty if the field is null or missing."""
        return frozenset(self.list_of(int, name) or ())


def load_config(file: Path) -> dict[str, Any]:
    """Loads the mapping from a `config.json`.

    Raises:
        InputError: there is no such file, it cannot be read, it is not JSON or not a mapping, or a
            field occurs twice.
    """
    try:
        config = parse_json(file.read_bytes(), pairs=lambda pairs: _without_repeats(pairs, file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file", "give the folder of a model") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except ParseError as error:
        raise InputError(f"{file}: not JSON ({error})", "is the download complete?") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: not a config.json (it holds no mapping)")
    return config


def _without_repeats(pairs: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file}: the field {repeated!r} occurs twice", "keep one of them")
    return mapping
