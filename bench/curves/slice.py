"""Writes a GGUF with some layers of a model and the embeddings of the tokens that rows use.

    python -m bench.curves.slice SOURCE.gguf TARGET.zip --layers 0-8 28-29 --rows FILE.jsonl

For machines that take only small files: embeddings of other tokens are zero, which a zip does not
keep, and the tokenizer stays whole. A model without most of its layers writes no text before it is
trained: it is a base of its own, not the model it came from.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from transformers import AutoTokenizer

from vram_search.worker.gguf_base import converted_gguf

EMBEDDINGS = "token_embd.weight"
CHAT_WORDS = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n<|im_start|>assistant\n<|im_end|><|endoftext|>"  # noqa: E501


def main() -> None:
    """Reads the arguments and writes the slice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--layers", nargs="+", required=True, help="numbers or ranges: 0-8 29")
    parser.add_argument("--rows", type=Path, action="append", required=True)
    arguments = parser.parse_args()
    layers = [layer for part in arguments.layers for layer in _range(part)]
    tokens = used_tokens(arguments.source, arguments.rows)
    gguf = arguments.target.with_suffix(".gguf")
    write_slice(arguments.source, gguf, layers, tokens)
    with zipfile.ZipFile(arguments.target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        out.write(gguf, gguf.name)
    size = arguments.target.stat().st_size
    print(f"{arguments.target}: {len(layers)} layers, {len(tokens)} tokens, {size} bytes")


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def used_tokens(source: Path, files: list[Path]) -> list[int]:
    """Ids of the tokens in the rows and in the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(converted_gguf(source, print))
    found: set[int] = set(tokenizer.all_special_ids) | set(tokenizer(CHAT_WORDS)["input_ids"])
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            messages = [
                {"role": "user", "content": f"{row['instruction']}\n{row['input']}"},
                {"role": "assistant", "content": row["output"]},
            ]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            found |= set(tokenizer(text)["input_ids"])
    return sorted(found)


def write_slice(source: Path, target: Path, layers: list[int], tokens: list[int]) -> None:
    """Copies metadata and tensors; the layers are numbered from 0."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for name, one in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = len(layers) if name == "llama.block_count" else one.contents()
        kind = one.types[0]
        inner = one.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, inner)
    for name, data, dtype in _tensors(reader, layers, tokens):
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(reader: GGUFReader, layers: list[int], tokens: list[int]) -> list[tuple[Any, ...]]:
    found = []
    for tensor in reader.tensors:
        name, data = tensor.name, np.array(tensor.data)
        if name == EMBEDDINGS:
            kept = np.zeros_like(data)
            kept[tokens] = data[tokens]
            data = kept
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            if int(layer) not in layers:
                continue
            name = f"blk.{layers.index(int(layer))}.{rest}"
        found.append((name, data, tensor.tensor_type))
    return found


if __name__ == "__main__":
    main()
