"""Writes a tiny model of several parts (Gemma 3), a tiny hybrid (LFM2) and a tiny Llama with
tokenizers and rows, and a study of each, so that `vram-search verify` can train their exports fast:

    python -m bench.verify_tiny FOLDER
    vram-search run FOLDER/gemma3/study.yaml && vram-search verify best --with llama-factory ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from bench.tiny import TINY_VISION
from vram_search.model_code.build import auto_class
from vram_search.train.tokenizer import byte_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
GEMMA_TOKENS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")
IMAGE = "<image_soft_token>"
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def main() -> None:
    """Writes them into the folder that the first argument names."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify_tiny", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    torch.manual_seed(1)
    write_gemma3(folder / "gemma3")
    write_lfm2(folder / "lfm2")
    write_llama(folder / "llama")


def write_gemma3(folder: Path) -> None:
    """Writes Gemma 3 with a vision tower, and the processor that LLaMA-Factory's template reads."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [*GEMMA_TOKENS, IMAGE],
            "eos_token": "<end_of_turn>",
            "bos_token": "<bos>",
        }
    )
    tokenizer.chat_template = GEMMA_TEMPLATE
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    values = {
        "model_type": "gemma3",
        "mm_tokens_per_image": 4,
        "image_token_index": image,
        "image_token_id": image,
        "text_config": {**SIZES, "model_type": "gemma3_text", "sliding_window": 64},
        "vision_config": TINY_VISION,
    }
    _write(folder, values, tokenizer)
    size = {"height": 32, "width": 32}
    kind = {"image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor"}
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps({**kind, "size": size}))
    processor = {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    (folder / "model" / "processor_config.json").write_text(json.dumps(processor))
    file = folder / "model" / "tokenizer_config.json"
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": IMAGE,
        "extra_special_tokens": {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": IMAGE,
        },
        "processor_class": "Gemma3Processor",
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))


def write_lfm2(folder: Path) -> None:
    """Writes LFM2: convolutions in two of four layers."""
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    values = {
        **SIZES,
        "model_type": "lfm2",
        "layer_types": kinds,
        "block_ff_dim": 128,
        "block_auto_adjust_ff_dim": False,
    }
    _write(folder, values, byte_tokenizer())


def write_llama(folder: Path) -> None:
    """Writes a Llama, which every tool trains (Axolotl and Unsloth know no LFM2)."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    _write(folder, {**SIZES, **sizes, "model_type": "llama"}, byte_tokenizer())


def _write(folder: Path, values: dict[str, Any], tokenizer: Any) -> None:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = values.get("text_config", values)
    text |= {"pad_token_id": tokenizer.pad_token_id, **ids}
    config = AutoConfig.for_model(**values)
    model = auto_class(config).from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"instruction": f"What is {n} plus {n}?", "output": f"{n} plus {n} is {2 * n}."}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    study = {
        "study": f"tiny-{folder.name}",
        "model": {"model_name_or_path": "model"},
        "dataset": {"train": "rows.jsonl", "val_size": 8},
        "card": "rtx-5060-ti-16gb",
        "search_space": {
            "optim": ["adamw_torch"],
            "lora_target": ["all"],
            "lora_rank": [8],
            "cutoff_len": [128],
            "batch_size": [4],
            "learning_rate": {"min": 1e-3, "max": 1e-2},
        },
        "training": {"max_steps": 6, "rungs": [0.5]},
        "budget": {"trials": 1},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


if __name__ == "__main__":
    main()
