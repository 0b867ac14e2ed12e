"""Which trainings make the table, in which order, and how long they take."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vram_search.protocol import LoadJob, TrialJob
from vram_search.search.gp.candidates import random_point
from vram_search.spec import Hyperparameters, MemoryPlan, StudySpec
from vram_search.worker.prepare import Prepared

INTERVALS = 9
"""Equal parts of a run, with an evaluation after each: the rungs at 1/9 and 1/3 are among them."""
EVAL_BATCH = 50
"""Rows. An evaluation of 100 rows is two forward passes."""
SEEDS = 3
"""Seeds of a repeated configuration; the others have only seed 0."""
CONFIGURATION_SEED = 2407
SHARED_CONFIGS = 60
"""The first configurations are those of every task; further ones are a task's own, so that what one
task knows of another is no table of the same points."""
STEP_SECONDS, EVAL_SECONDS, SETUP_SECONDS = 0.45, 0.6, 1.5
"""Guesses for one of 16 processes on an H200, until finished runs correct them; alone, an optimizer
step takes about 0.25 s there (`bench/step_time/step_times.jsonl`)."""

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Run:
    """One training: a configuration of a task with a seed."""

    task: str
    config: str
    seed: int
    job: TrialJob
    steps: int

    @property
    def key(self) -> Key:
        return self.task, self.config, self.seed

    @property
    def labels(self) -> dict[str, Any]:
        """The fields of its row that are known beforehand."""
        hp = self.job.hyperparameters
        return {
            "task": self.task,
            "config": self.config,
            "seed": self.seed,
            "learning_rate": hp.learning_rate,
            "lora_rank": hp.lora_rank,
            "lora_target": hp.lora_target,
            "cutoff_len": hp.cutoff_len,
            "batch_size": hp.batch_size,
            "optim": hp.optim,
            "steps": self.steps,
        }

    @property
    def guessed_seconds(self) -> float:
        evaluations = len(eval_points(self.steps))
        return self.steps * STEP_SECONDS + evaluations * EVAL_SECONDS + SETUP_SECONDS


def eval_points(steps: int) -> tuple[int, ...]:
    """Optimizer steps after which a run is evaluated: the start, eight between, the end."""
    return tuple(sorted({round(i * steps / INTERVALS) for i in range(INTERVALS + 1)}))


def configurations(study: StudySpec, count: int) -> list[Hyperparameters]:
    """Independent random points of the study's space; a larger count begins with the same ones."""
    shared = _drawn(study, random.Random(CONFIGURATION_SEED), min(count, SHARED_CONFIGS))
    own = random.Random(f"{CONFIGURATION_SEED} {study.study}")
    return shared + _drawn(study, own, max(0, count - SHARED_CONFIGS))


def _drawn(study: StudySpec, drawn: random.Random, count: int) -> list[Hyperparameters]:
    return [random_point(study.space, drawn) for _ in range(count)]


def task_runs(prepared: Prepared, configs: int, repeated: int) -> list[Run]:
    """A task's runs: the repetitions of the first configurations lie evenly among the others, so
    that the beginning of the list is a smaller table of the same make-up."""
    points = configurations(prepared.study, configs)
    every = configs // max(1, repeated)
    runs = []
    for index in range(configs):
        runs.append(_run(prepared, points, index, 0))
        done, rest = divmod(index + 1, every)
        if rest == 0 and done <= repeated:
            runs += [_run(prepared, points, done - 1, seed) for seed in range(1, SEEDS)]
    return runs


def _run(prepared: Prepared, points: Sequence[Hyperparameters], index: int, seed: int) -> Run:
    study, hp = prepared.study, points[index]
    job = TrialJob(
        number=index,
        hyperparameters=hp,
        target_modules=tuple(prepared.shape.target_modules(hp.lora_target)),
        plan=MemoryPlan(
            per_device_train_batch_size=hp.batch_size,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            per_device_eval_batch_size=EVAL_BATCH,
        ),
        training=study.training,
        eval_cutoff_len=study.eval_cutoff_len,
        seed=seed,
        adapter_folder="none is kept",
    )
    per_epoch = math.ceil(len(prepared.rows.train) / hp.batch_size)
    steps = study.training.max_steps or math.ceil(study.training.epochs * per_epoch)
    return Run(study.study, f"c{index:03}", seed, job, steps)


def interleaved(tasks: Iterable[Sequence[Run]]) -> list[Run]:
    """In turn, one run of each task."""
    turns = itertools.zip_longest(*tasks)
    return [run for turn in turns for run in turn if run is not None]


def load_job(prepared: Prepared) -> LoadJob:
    """What a worker loads for the task."""
    study = prepared.study
    return LoadJob(
        model_name_or_path=prepared.model_name_or_path,
        random_weights=study.base.weights == "random",
        tokenizer=prepared.tokenizer,
        dataset=study.dataset,
        seed=study.seed,
        cutoff_lens=study.search_space.cutoff_len,
        eval_cutoff_len=study.eval_cutoff_len,
    )


def budget_words(runs: Sequence[Run], workers: int) -> str:
    """The arithmetic of the whole, for a person."""
    steps = sum(run.steps for run in runs)
    evaluations = sum(len(eval_points(run.steps)) for run in runs)
    minutes = sum(run.guessed_seconds for run in runs) / workers / 60
    return (
        f"{len(runs)} runs to go: {steps} optimizer steps x {STEP_SECONDS:g} s + {evaluations} "
        f"evaluations x {EVAL_SECONDS:g} s + {SETUP_SECONDS:g} s each, {workers} at a time: "
        f"about {minutes:.1f} minutes"
    )
