"""The model's own tokenizer."""

from typing import Any

from transformers import AutoTokenizer


def load_tokenizer(args: Any) -> dict[str, Any]:
    return {"tokenizer": AutoTokenizer.from_pretrained(args.model_name_or_path), "processor": None}
