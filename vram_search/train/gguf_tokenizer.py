"""Writes a byte-level BPE tokenizer into a GGUF file, as llama.cpp reads it
(`convert_hf_to_gguf.py`, `get_vocab_base`)."""

from __future__ import annotations

import json
from typing import Any

from gguf import GGUFWriter, TokenType

from vram_search.errors import InputError
from vram_search.train.tokenizer import adds_begin_token

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_QWEN2: "qwen2", _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}
"""llama.cpp's names of pre-tokenizers by the expression that splits a text."""
NEEDS_LLAMA_CPP = (
    "install llama.cpp (git clone https://github.com/ggml-org/llama.cpp) and name it: "
    "--llama-cpp FOLDER"
)


def pre_tokenizer_name(pre_tokenizer: dict[str, Any] | None) -> str:
    """Returns llama.cpp's name of a pre-tokenizer in tokenizer.json.

    Raises:
        InputError: it is not one that is known here.
    """
    steps = (pre_tokenizer or {}).get("pretokenizers") or [pre_tokenizer or {}]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        expression = steps[0].get("pattern", {}).get("Regex", "")
        if name := _SPLITS.get(expression):
            return name
    shown = ", ".join(map(str, kinds))
    raise InputError(
        f"the tokenizer splits texts in a way that is not known here ({shown})", NEEDS_LLAMA_CPP
    )


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, words: int) -> None:
    """Adds a tokenizer's vocabulary, merges and special tokens.

    Args:
        words: rows of the embedding; those without a token are padded.

    Raises:
        InputError: it is no byte-level BPE tokenizer, or splits texts in an unknown way.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise InputError(
            f"the tokenizer is of the type {model['type']}, which is not written here",
            NEEDS_LLAMA_CPP,
        )
    names = {index: name for name, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for index in range(words):
        if index not in names:
            tokens.append(f"[PAD{index}]")
            types.append(TokenType.UNUSED)
        elif index in added:
            tokens.append(names[index])
            is_special = added[index].special
            types.append(TokenType.CONTROL if is_special else TokenType.USER_DEFINED)
        else:
            tokens.append(names[index])
            types.append(TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(content["pre_tokenizer"]))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    writer.add_token_merges(merges)
    for add, index in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if index is not None:
            add(index)
    writer.add_add_bos_token(adds_begin_token(tokenizer))  # runtimes' defaults differ
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
