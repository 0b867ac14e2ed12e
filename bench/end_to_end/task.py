"""A study as both arms run it: one split of the rows, whatever the seed of a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.curves.__main__ import prepare_tasks
from bench.curves.runs import EVAL_BATCH, load_job
from vram_search.data import Example
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import GpuReader
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec import Hyperparameters, MemoryPlan, StudySpec, load_study
from vram_search.worker.budget import Budget
from vram_search.worker.prepare import Prepared, prepare


@dataclass(frozen=True)
class Task:
    """What the searches of a task share.

    Attributes:
        file: the study.
        overrides: of the study file, as `--set` takes them: its rows as they were split with the
            study's own seed, so that a search's seed changes no evaluation row; and
            its converted model.
        cap_bytes: that an allocator may take, as the product caps it; None without a GPU.
        device: in words, and the card that it plays.
    """

    file: Path
    overrides: tuple[str, ...]
    prepared: Prepared
    cap_bytes: int | None
    device: str

    @property
    def study(self) -> StudySpec:
        return self.prepared.study

    @property
    def name(self) -> str:
        return self.study.study

    def load_job(self, seed: int) -> LoadJob:
        """What a process of plain TPE loads."""
        return load_job(self.prepared).model_copy(
            update={"seed": seed, "cap_bytes": self.cap_bytes}
        )

    def trial_job(self, number: int, hp: Hyperparameters, seed: int) -> TrialJob:
        """A trial of plain TPE: the whole batch at once, no gradient checkpointing."""
        return TrialJob(
            number=number,
            hyperparameters=hp,
            target_modules=tuple(self.prepared.shape.target_modules(hp.lora_target)),
            plan=MemoryPlan(
                per_device_train_batch_size=hp.batch_size,
                gradient_accumulation_steps=1,
                gradient_checkpointing=False,
                per_device_eval_batch_size=EVAL_BATCH,
            ),
            training=self.study.training,
            eval_cutoff_len=self.study.eval_cutoff_len,
            seed=seed,
            adapter_folder="none is kept",
        )


def open_task(
    file: Path,
    model: Path | None,
    folder: Path,
    reader: GpuReader | None,
    note: Callable[[str], None],
) -> Task:
    """The task with its rows in `folder` and its model converted.

    Args:
        model: folder or .gguf, in place of the study's.

    Raises:
        InputError: study, rows, model or card cannot be used.
    """
    [split] = prepare_tasks([file], model)
    values = {"dataset.format": "messages"}
    for part, examples in (("train", split.rows.train), ("eval", split.rows.eval)):
        rows = folder / f"{split.study.study}-{part}.jsonl"
        write_examples(rows, examples, split.study.dataset.columns.messages)
        values[f"dataset.{part}"] = str(rows)
    if split.study.base.weights == "pretrained":
        values["model.model_name_or_path"] = split.model_name_or_path
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
    prepared = prepare(load_study(file, overrides), note)
    limit = MemoryBudget.of(prepared.study.card, prepared.shape)
    budget = Budget.at_start(limit, reader, note)
    device = reader.device().name if reader else "CPU"
    return Task(
        file=file.resolve(),
        overrides=overrides,
        prepared=prepared,
        cap_bytes=budget.first_bytes if reader else None,
        device=budget.emulated or device,
    )


def write_examples(file: Path, examples: Iterable[Example], column: str) -> None:
    """JSONL in messages form."""
    lines = [json.dumps({column: example.turns}) + "\n" for example in examples]
    file.write_text("".join(lines), encoding="utf-8")
