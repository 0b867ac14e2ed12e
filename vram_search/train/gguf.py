"""Converts a GGUF file to safetensors: `python -m vram_search.train.gguf FILE FOLDER`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from vram_search.train.channel import silence_libraries


def convert(gguf: Path, target: Path) -> None:
    """Writes the model of `gguf` to the folder `target` in bf16, completely or not at all.

    The quantised tensors are dequantised (transformers `modeling_gguf_pytorch_utils`).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vram_search.train.patches import forget_quantization

    parts = target.with_name(f"{target.name}.{os.getpid()}.part")
    shutil.rmtree(parts, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, trust_remote_code=False
    )
    forget_quantization(model)
    model.save_pretrained(parts, safe_serialization=True)
    AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    ).save_pretrained(parts)
    if not target.exists():
        parts.replace(target)


if __name__ == "__main__":
    silence_libraries()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
