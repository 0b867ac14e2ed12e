"""Trains tiny models of refused families on the CPU, to see that transformers itself cannot.

    python -m bench.trace.refused

Each model has random weights, is loaded in NF4 as a search loads it, gets an adapter on what
`lora_target: all` finds, and runs a forward and backward pass of text, with evaluations after it.
Exit code 1 if one of them trains, so that its refusal in `spec.not_trained` is out of date. The
other families there have no tiny shape here: they were seen to fail in `bench.trace.every_family`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from typing import Any

from vram_search.model_code.light_imports import light_imports
from vram_search.spec.model_tree import name_expression

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "rwkv": {"attention_hidden_size": 64, "rescale_every": 1},
    "gemma3n_text": {
        "vocab_size_per_layer_input": 300,
        "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": 0,
        "head_dim": 16,
        "laurel_rank": 8,
        "intermediate_size": [128, 128],
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
    },
}


def fault(model_type: str) -> str:
    """Trains a step of a tiny model; returns why it fails, empty if it trains."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig

    from vram_search.model_code.build import auto_class, load_config
    from vram_search.model_code.read import read_tree

    values = {"model_type": model_type, **SMALL, **OWN[model_type]}
    config = load_config(values, model_type)
    chosen = auto_class(config)
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
            nf4 = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            model = chosen.from_pretrained(folder, quantization_config=nf4, device_map="cpu")
        tree = read_tree(model, chosen.__name__, values)
        lora = LoraConfig(r=4, target_modules=name_expression(tree.lora_targets))
        model = get_peft_model(model, lora).train()
        ids = torch.arange(3, 35)[None]
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch).loss.backward()
            with torch.no_grad():
                before = model.eval()(**batch).loss
                model.train()(**batch)
                after = model.eval()(**batch).loss
        if not torch.equal(before, after):
            return f"its loss is {after:.3g} after an evaluation, {before:.3g} before"
    except Exception as error:  # the subject: a class may fail in any way
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:150]}"
    return ""


def main() -> None:
    """Prints a line for each family."""
    parser = argparse.ArgumentParser(prog="python -m bench.trace.refused", description=__doc__)
    parser.add_argument("model_types", nargs="*", metavar="MODEL_TYPE", help="only these")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with light_imports():
        import peft  # noqa: F401
    trains = []
    for model_type in options.model_types or OWN:
        words = fault(model_type)
        print(f"{model_type:24} {words or 'TRAINS'}", flush=True)
        trains += [] if words else [model_type]
    sys.exit(1 if trains else 0)


if __name__ == "__main__":
    main()
