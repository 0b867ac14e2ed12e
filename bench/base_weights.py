"""Compares predicted base weights with the classes of all causal families of transformers.

    python -m bench.base_weights [--family NAME ...]

Each family is built with its default configuration on the meta device and quantised in NF4 by
transformers' own code; its bytes are counted module by module. Beside them stand the estimator's:
by formula where the family is modelled, by the module tree otherwise. Exit code 1 if a family is
more than 1 % off, or the 95th percentile more than 0.5 %. A family that transformers itself cannot
build is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import transformers
from transformers import AutoModelForCausalLM

from vram_search.errors import InputError
from vram_search.estimate.memory.persistent import base_bytes
from vram_search.model_code.build import auto_class, build, load_config
from vram_search.model_code.read import read_tree
from vram_search.models.tree import with_tree
from vram_search.spec.filled_shape import parse_filled
from vram_search.spec.shape import load_shape
from vram_search.units import format_bytes

WORST = 0.01
PERCENTILE_95 = 0.005
BLOCK = 512
"""Bytes that torch's allocator rounds up to."""


@dataclass(frozen=True)
class Row:
    """A family's base weights."""

    model_type: str
    by: str
    predicted: int
    counted: int

    @property
    def error(self) -> float:
        return self.predicted / self.counted - 1


def counted_bytes(model: Any) -> int:
    """Returns the bytes of a built model by its modules, counted without the estimator; the
    allocator rounds each tensor up to BLOCK."""
    quantized = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, bnb.nn.Linear4bit)
    }
    others = [p for p in model.parameters() if id(p) not in quantized]
    kept = sum(rounded(tensor.numel() * tensor.element_size()) for tensor in others)
    kept += sum(rounded(tensor.numel() * tensor.element_size()) for tensor in model.buffers())
    return kept + sum(map(nf4_bytes, quantized.values()))


def nf4_bytes(weights: int) -> int:
    """Returns bytes of weights in NF4 with double quantisation (bitsandbytes `quantize_4bit`):
    packed weights, their codes, the scale of each 64, and those scales' own scales and codes."""
    scales = math.ceil(weights / 64)
    parts = (math.ceil(weights / 2), 64, scales, 4 * math.ceil(scales / 256), 1024, 4)
    return sum(map(rounded, parts))


def rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def compare(model_type: str) -> Row:
    """Returns a family's row.

    Raises:
        InputError: transformers cannot build the family with its default configuration.
    """
    values = load_config({"model_type": model_type}, model_type).to_diff_dict()
    values = json.loads(json.dumps({**values, "model_type": model_type}, default=str))
    config = load_config(values, model_type)
    model = build(config)
    tree = read_tree(model, auto_class(config).__name__, values)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(tree.filled_config, encoding="utf-8")
        try:
            shape = load_shape(file)
        except InputError:
            shape = parse_filled(tree, model_type)
    by = "tree" if shape.not_modelled else "formula"
    shape = shape if by == "formula" else with_tree(shape, tree)
    return Row(model_type, by, base_bytes(shape), counted_bytes(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", help="model_types; without it all")
    arguments = parser.parse_args()
    families = arguments.family or sorted(
        {config.model_type for config in AutoModelForCausalLM._model_mapping}
    )
    rows, refused = [], {}
    for family in families:
        try:
            rows.append(compare(family))
        except InputError as error:
            refused[family] = error.message
        except Exception as error:  # a defect of ours: it is listed, and the others are measured
            refused[family] = f"CRASH {type(error).__name__}: {error}"
    rows.sort(key=lambda row: -abs(row.error))
    for row in rows:
        predicted, counted = format_bytes(row.predicted), format_bytes(row.counted)
        print(f"{row.model_type:28} {row.by:8} {predicted:>12} {counted:>12} {row.error:9.4%}")
    for family, reason in refused.items():
        print(f"{family:28} refused: {reason}")
    errors = sorted(abs(row.error) for row in rows)
    percentile = errors[max(0, math.ceil(0.95 * len(errors)) - 1)]
    print(
        f"transformers {transformers.__version__}: {len(rows)} families, {len(refused)} refused; "
        f"95th percentile {percentile:.4%}, worst {errors[-1]:.4%}"
    )
    sys.exit(1 if errors[-1] > WORST or percentile > PERCENTILE_95 else 0)


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)
    main()
