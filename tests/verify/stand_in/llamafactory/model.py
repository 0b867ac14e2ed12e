"""The model's own tokenizer."""

from transformers import AutoTokenizer


def load_tokenizer(args):
    return {"tokenizer": AutoTokenizer.from_pretrained(args.model_name_or_path), "processor": None}
