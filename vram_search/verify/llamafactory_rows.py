"""Encodes rows with LLaMA-Factory: `python -P llamafactory_rows.py ANSWER.json FILE.yaml ...`.

The tool's own Python runs this file; it has none of our packages.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IGNORED = -100
"""The label of tokens without loss (LLaMA-Factory `extras/constants.py`, IGNORE_INDEX)."""


def describe(input_ids: Sequence[int], labels: Sequence[int]) -> list[Any]:
    """Returns a row's summary: hash of tokens and loss mask, tokens, tokens with a loss."""
    text = json.dumps([list(input_ids), list(labels)])
    answer_tokens = sum(label != IGNORED for label in labels[1:])
    return [hashlib.sha256(text.encode()).hexdigest()[:16], len(input_ids), answer_tokens]


def main() -> None:
    """Reads the rows as `run_sft` does (LLaMA-Factory `train/sft/workflow.py`)."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    answer = Path(sys.argv.pop(1))
    model_args, data_args, training_args, *_ = get_train_args()
    tokenizer = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
    found = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizer)
    rows = {
        split: [describe(row["input_ids"], row["labels"]) for row in found[f"{split}_dataset"]]
        for split in ("train", "eval")
    }
    answer.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
