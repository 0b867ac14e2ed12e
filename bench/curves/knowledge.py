"""Writes vram_search/search/knowledge.json from the tables: what a new search knows of others.

python -m bench.curves.knowledge
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.curves.rows import read_rows
from bench.curves.table import TABLES
from vram_search.resources import shipped
from vram_search.search.gp import transfer
from vram_search.spec import load_shape
from vram_search.spec.hyperparameters import DEFAULT_ALPHA, DIMENSIONS, MAIN

MODEL = "smollm2-135m"
KNOWN = ("toolcalls", "triz")
"""The search learns nothing from the other tables: it is judged on them."""
FIELDS = [dimension.name for dimension in DIMENSIONS if dimension in MAIN]


def main() -> None:
    """A row a configuration: the mean over its seeds of the best evaluated loss."""
    shape = load_shape(shipped("configs", "models", MODEL))
    tasks = []
    for file in (TABLES / f"{name}.jsonl" for name in KNOWN):
        by_config: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in read_rows(file):
            by_config[row["config"]].append(row)
        rows = []
        for runs in by_config.values():
            losses = [min(x for x in run["eval_loss"] if x is not None) for run in runs]
            first = runs[0]
            alpha = DEFAULT_ALPHA.of(int(str(first["lora_rank"])))
            rows.append(
                [*(first[name] for name in FIELDS), alpha, round(statistics.fmean(losses), 5)]
            )
        tasks.append(
            {
                "name": file.stem,
                "model": "SmolLM2-135M-Instruct",
                "hidden_size": shape.hidden_size,
                "fields": [*FIELDS, "lora_alpha"],
                "rows": rows,
            }
        )
    text = json.dumps({"source": "python -m bench.curves.knowledge", "tasks": tasks})
    text = text.replace("], [", "],\n[")
    Path(transfer.__file__).with_name("knowledge.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.curves.knowledge", description=__doc__)
    parser.parse_args()
    main()
