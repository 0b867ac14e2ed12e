"""The exported rows, encoded as vram-search does; STAND_IN=learns-prompts masks no prompt."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vram_search.data import Example
from vram_search.train.examples import cut, encode


def get_template_and_fix_tokenizer(tokenizer: Any, args: Any) -> None:
    return None


def get_dataset(
    template: None,
    model_args: Any,
    data_args: Any,
    training_args: Any,
    stage: str,
    tokenizer: Any,
    processor: None,
) -> dict[str, list[dict[str, Any]]]:
    def rows(name: str) -> Iterator[dict[str, Any]]:
        for found in json.loads(Path(f"{name}.json").read_text(encoding="utf-8")):
            turns = found["messages"]
            example = Example(tuple((turn["role"], turn["content"]) for turn in turns))
            row = cut(encode(example, tokenizer), data_args.cutoff_len)
            labels = row.labels
            if os.environ.get("STAND_IN") == "learns-prompts":
                labels = row.input_ids
            yield {"input_ids": row.input_ids, "labels": labels}

    return {"train_dataset": list(rows("train")), "eval_dataset": list(rows("eval"))}
