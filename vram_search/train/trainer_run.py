"""Runs a tool that trains with transformers' Trainer, and writes down its rows or its log:

    python -P trainer_run.py rows ANSWER.json FIRST TARGET ARGUMENT ...
    python -P trainer_run.py script-rows ANSWER.json FIRST train_trial.py FILE.yaml
    python -P trainer_run.py train LOG.jsonl FIRST TARGET ARGUMENT ...
    python -P trainer_run.py run - FIRST TARGET ARGUMENT ...

`run` leaves the log to the tool.
TARGET is a script or a module, FIRST is "unsloth" if that must be imported before
transformers, otherwise "-".
The tool's own Python runs this file; it has none of our packages.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

SHOWN_ARGUMENTS = ("max_steps", "eval_strategy", "per_device_eval_batch_size")


def main() -> None:
    mode, answer, first, target, *arguments = sys.argv[1:]
    if first == "unsloth":
        importlib.import_module("unsloth")
    if target.endswith(".py"):
        sys.path.insert(0, str(Path(target).resolve().parent))
    if mode == "script-rows":
        script_rows(Path(answer), Path(arguments[0]))
        return
    keep_weights_as_quantised()
    if mode != "run":
        prepare_trainer(mode, Path(answer))
    sys.argv = [target, *arguments]
    if target.endswith(".py"):
        runpy.run_path(target, run_name="__main__")
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)


def keep_weights_as_quantised() -> None:
    """Switches off bitsandbytes' repacking of 4-bit weights on CPUs with AVX512-BF16.

    After an evaluation the gradients through repacked weights are 0, and layers with less than 64
    inputs fail (bitsandbytes 0.50, `nn/modules.py`, `Linear4bit.forward`).
    """
    try:
        from bitsandbytes.nn import modules
    except ImportError:
        return
    if hasattr(modules, "has_avx512bf16"):  # older versions do not repack
        modules.has_avx512bf16 = lambda: False


def prepare_trainer(mode: str, answer: Path) -> None:
    """Makes transformers' Trainer write its rows, or its log."""
    from transformers import Trainer, trainer

    if mode == "rows":
        Trainer.train = lambda self, *_, **__: write_rows(self, answer)
    else:
        trainer.DEFAULT_CALLBACKS.append(log_writer(answer))


def write_rows(trainer: Any, answer: Path) -> None:
    """Writes the rows that a Trainer would train on, as its collator gives them, and ends."""
    splits = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    found: dict[str, Any] = {
        split: [collated(trainer, dataset[i]) for i in range(len(dataset))]
        for split, dataset in splits.items()
        if dataset is not None
    }
    arguments = {name: getattr(trainer.args, name) for name in SHOWN_ARGUMENTS}
    found["arguments"] = {name: getattr(value, "value", value) for name, value in arguments.items()}
    answer.write_text(json.dumps(found), encoding="utf-8")
    sys.exit(0)


def collated(trainer: Any, row: Any) -> tuple[list[int], list[int]]:
    """Returns input_ids and labels of a batch of this row alone, without padding."""
    batch = trainer.data_collator([row])
    tokens = batch["input_ids"].shape[1]
    if "attention_mask" in batch:
        tokens = int(batch["attention_mask"][0].sum())
    return batch["input_ids"][0, :tokens].tolist(), batch["labels"][0, :tokens].tolist()


def script_rows(answer: Path, file: Path) -> None:
    """Writes the rows of an exported script, which needs no model for them."""
    import yaml
    from transformers import AutoTokenizer

    script = importlib.import_module("train_trial")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(config["rows"]["tokenizer"])
    train, evaluation = script.load_rows(config["rows"], tokenizer)
    found = {
        split: [(row["input_ids"], row["labels"]) for row in rows]
        for split, rows in (("train", train), ("eval", evaluation))
    }
    arguments = {name: config["training"][name] for name in SHOWN_ARGUMENTS}
    answer.write_text(json.dumps({**found, "arguments": arguments}), encoding="utf-8")


def log_writer(file: Path) -> Any:
    """Returns a callback that appends every log entry, and torch's peak at the end.

    The peak is read after each step and evaluation batch, for Axolotl resets it at each log entry
    (Axolotl 0.19, `utils/bench.py`).
    """
    import torch
    from transformers import TrainerCallback

    def append(entry: dict[str, Any]) -> None:
        with file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    class LogWriter(TrainerCallback):
        allocated_bytes = 0

        def read_peak(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                peak = torch.cuda.max_memory_allocated()
                self.allocated_bytes = max(self.allocated_bytes, peak)

        on_step_end = on_prediction_step = read_peak

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            numbers = {
                name: float(value)
                for name, value in (logs or {}).items()
                if isinstance(value, int | float)
            }
            append({**numbers, "step": state.global_step, "max_steps": state.max_steps})

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.read_peak()
            if self.allocated_bytes:
                append({"allocated_bytes": self.allocated_bytes})

    return LogWriter()


if __name__ == "__main__":
    main()
