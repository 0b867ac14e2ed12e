"""Writes a copy of a model folder with fewer layers: a smaller base model that needs no download.

    python -m bench.pruned_copy SOURCE TARGET --layers 20

SOURCE is a folder or package:NAME/FILE.gguf. The first and the last layers stay, so that the copy
still writes text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vram_search.spec.model import ModelSpec
from vram_search.worker.gguf_base import converted_gguf


def main() -> None:
    """Reads the arguments and writes the copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--layers", type=int, required=True)
    arguments = parser.parse_args()
    named = ModelSpec(model_name_or_path=arguments.source).model_name_or_path
    assert named is not None, "ModelSpec holds this"
    source = converted_gguf(Path(named), print) if named.endswith(".gguf") else Path(named)
    print(f"source: {source}")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    layers = model.model.layers
    first = arguments.layers - arguments.layers // 3
    kept = [*layers[:first], *layers[len(layers) - arguments.layers // 3 :]]
    for place, layer in enumerate(kept):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    types = getattr(model.config, "layer_types", None)
    if types is not None:
        model.config.layer_types = types[: len(kept)]
    model.save_pretrained(arguments.target)
    AutoTokenizer.from_pretrained(source).save_pretrained(arguments.target)
    print(f"{arguments.target}: {len(kept)} of {len(layers)} layers")


if __name__ == "__main__":
    main()
