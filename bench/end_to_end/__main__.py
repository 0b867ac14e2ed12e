"""Ours against plain Optuna on this machine's GPU: real training, equal minutes, several seeds.

    python -m bench.end_to_end --out FOLDER [--study bench/curves/triz.yaml] [--minutes 6]
    python -m bench.end_to_end --from FOLDER [--markdown]

`ours` is `vram-search run` as it is; `tpe` is Optuna's TPESampler by default, without pruning, and
a fresh Hugging Face Trainer process per trial. Task after task, all seeds of both arms run side by
side. `FOLDER/records.jsonl` gets a line per trial as it ends. Without a GPU it trains on the CPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench.curves.__main__ import STUDIES, progress
from bench.end_to_end.arms import Ours, Search, Tpe
from bench.end_to_end.processes import shared_environment
from bench.end_to_end.race import race
from bench.end_to_end.records import Record, Run, RunFolder
from bench.end_to_end.table import render
from bench.end_to_end.task import Task, open_task
from vram_search.errors import VramSearchError
from vram_search.gpu import open_reader
from vram_search.train.channel import silence_libraries

SEEDS, MINUTES = 3, 6.0


def compare(
    studies: Sequence[Path], model: Path | None, seeds: int, minutes: float, out: Path
) -> None:
    """Every task's searches, one task after another.

    Raises:
        InputError: a study cannot be run, or `out` holds a run already.
        VramSearchError: a search has failed.
    """
    folder = RunFolder(out)
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as temporary:
        tasks = open_tasks(studies, model, Path(temporary))
        run = Run(tuple(task.name for task in tasks), seeds, minutes, tasks[0].device)
        folder.begin(run)

        def add(record: Record) -> None:
            folder.add(record)
            loss = "" if record.eval_loss is None else f" {record.eval_loss:.4f}"
            progress(
                f"{record.elapsed_seconds:5.0f} s {record.task} {record.arm} seed {record.seed} "
                f"trial {record.number}: {record.outcome}{loss}"
            )

        for task in tasks:
            race(start_searches(task, run, Path(temporary), out), run.seconds, add)
            run = run.with_finished(task.name)
            folder.write_run(run)


def open_tasks(studies: Sequence[Path], model: Path | None, folder: Path) -> list[Task]:
    """The tasks, with their rows in `folder`.

    Raises:
        InputError: a study, its rows, its model or its card cannot be used.
    """
    reader = open_reader()
    return [open_task(study, model, folder, reader, progress) for study in studies]


def start_searches(task: Task, run: Run, folder: Path, logs: Path) -> list[Search]:
    """Both arms with every seed, started one right after the other."""
    environment = shared_environment(run.searches)
    searches: list[Search] = []
    for seed in range(run.seeds):
        log = f"{task.name}-{seed}.log"
        searches += [
            Tpe(task, seed, logs / f"tpe-{log}", environment),
            Ours(task, seed, run.minutes / 60, folder, logs / f"ours-{log}", environment),
        ]
    return searches


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.end_to_end", description=(__doc__ or "").splitlines()[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder of a new run's records and logs")
    what.add_argument("--from", type=Path, dest="earlier", help="folder of an earlier run")
    parser.add_argument(
        "--study", type=Path, action="append", help="tasks; default: both of bench/curves"
    )
    parser.add_argument("--model", type=Path, help="folder or .gguf, in place of the studies'")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="searches of each arm")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each search")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.minutes <= 0:
        parser.error("--seeds and --minutes are above 0")
    return arguments


def main() -> int:
    """Exit code 2 for wrong input, 1 where a search failed, 130 where it was interrupted."""
    arguments = parse_arguments()
    silence_libraries()  # the searches inherit it
    signal.signal(signal.SIGTERM, _interrupt)
    code = 0
    folder = arguments.out or arguments.earlier
    try:
        if arguments.out:
            studies = arguments.study or STUDIES
            compare(studies, arguments.model, arguments.seeds, arguments.minutes, arguments.out)
        print(render(*RunFolder(folder).read(), markdown=arguments.markdown))
    except KeyboardInterrupt:
        progress(f"interrupted; `python -m bench.end_to_end --from {folder}` prints what ended")
        code = 130
    except VramSearchError as error:
        progress(f"error: {error.message}\nremedy: {error.remedy}")
        code = error.exit_code
    return code


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
