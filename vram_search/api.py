"""The functions of the Python API; `import vram_search` offers them.

Sizes are bytes, times are seconds, losses are nats per token. All errors are `VramSearchError`s,
with a message and a remedy; wrong input is an `InputError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vram_search.answers.estimate import estimate, estimate_file
from vram_search.answers.fit import fit

if TYPE_CHECKING:
    from vram_search.answers.dry_run import DryRunAnswer
    from vram_search.answers.results import Results
    from vram_search.answers.run import RunAnswer
    from vram_search.spec import StudySpec
    from vram_search.store import TrialRecord

__all__ = [
    "ExportTarget",
    "estimate",
    "estimate_file",
    "export",
    "fit",
    "load_study",
    "open_store",
    "plan_study",
    "run_study",
]

ExportTarget = Literal["llama-factory", "axolotl", "trl", "unsloth", "peft"]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Reads and checks a study file.

    Args:
        path: the file; "demo" means the shipped `studies/demo.yaml`.
        overrides: texts such as "search_space.lora_rank=[8,16]", as of `--set`.

    Raises:
        InputError: the file cannot be read, or values are wrong; all faults are named at once.
    """
    from vram_search.gpu.this_card import card_here
    from vram_search.spec import load_study as load

    return load(Path(path), overrides, card_here=card_here)


def plan_study(study: StudySpec, *, trials: int | None = None) -> DryRunAnswer:
    """Plans a study's published configurations as a run would here, and runs nothing.

    Args:
        study: as `load_study` returns it.
        trials: the budget of trials, instead of the study's own.

    Raises:
        InputError: rows, model or card cannot be used as written.
    """
    from vram_search.answers.dry_run import dry_run
    from vram_search.answers.run import stop_rule
    from vram_search.worker.prepare import prepare

    return dry_run(prepare(study, _ignore), stop_rule(study, trials))


def run_study(
    study: StudySpec,
    *,
    trials: int | None = None,
    hours: float | None = None,
    database: str | None = None,
    accept_changes: bool = False,
    note: Callable[[str], None] | None = None,
) -> RunAnswer:
    """Runs a study to the end of its budget, or continues it. Trainings run in another process.

    If another study holds the card, it waits in the queue for its end.

    On Windows and macOS call it under `if __name__ == "__main__":`. After a KeyboardInterrupt all
    finished trials are kept, and the same call continues.

    Args:
        study: as `load_study` returns it.
        trials: stop at so many finished trials, those of earlier runs included.
        hours: stop after so many hours. Without `trials` and `hours` the study's budget holds.
        database: a URL or an SQLite file; None: as the study says.
        accept_changes: continue although the study file has changed.
        note: receives a line for each event of the run.

    Raises:
        InputError: the study, the database or the card cannot be used as they are.
        StoreError: the database cannot be written.
        VramSearchError: the model could not be loaded, or several trials in a row were lost.
    """
    # The surrogate's matrices are small: BLAS threads would wait for each other and the training's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vram_search.answers.run import run_answer, stop_rule
    from vram_search.store import open_store as open_record
    from vram_search.store.faults import search_errors
    from vram_search.store.location import database_url
    from vram_search.worker import run
    from vram_search.worker.prepare import prepare

    if database is not None:
        study = study.model_copy(update={"database": database})
    url = database_url(study.database)
    prepared = prepare(study, note or _ignore)
    with search_errors(url):
        stopped = run.run_study(
            prepared,
            stop_rule(study, trials, hours=hours),
            _Notes(note or _ignore),
            accept_changes=accept_changes,
        )
    store = open_record(url, create=False)
    try:
        record = store.study(study.study)
        assert record is not None, "run_study recorded it"
        return run_answer(store, record, stopped=stopped, report=None)
    finally:
        store.close()


def open_store(database: str | Path | None = None) -> Results:
    """Opens the record of all trials for reading; use it in a `with` statement.

    Args:
        database: a URL or an SQLite file; None: $VRAM_SEARCH_DATABASE, else the one in your data
            folder.

    Raises:
        StoreError: no database exists there, or vram-search did not write it.
    """
    from vram_search.answers.results import Results

    return Results.open(None if database is None else str(database))


def export(
    study: str | None = None,
    trial: int | str = "best",
    *,
    to: ExportTarget = "llama-factory",
    folder: str | Path | None = None,
    template: str | None = None,
    force: bool = False,
    database: str | Path | None = None,
) -> list[Path]:
    """Writes a trial as files for the tool that trains it.

    Args:
        study: its name; None: the study with the latest activity.
        trial: its number, or "best".
        to: the tool.
        folder: where to write; None: ./exports/STUDY.
        template: LLaMA-Factory's template; None: found by the model.
        force: replace files that exist.
        database: as in `open_store`.

    Returns:
        The files; the training YAML or script comes first.

    Raises:
        InputError: the trial does not exist or was imported, its rows have changed, or a file
            exists already.
        StoreError: the database cannot be read.
    """
    from vram_search.answers.lookup import find_study, find_trial
    from vram_search.export.recorded import write_recorded

    with open_store(database) as results:
        record = find_study(results.store, study)
        found = find_trial(results.store, record, str(trial))
    target = Path("exports") / record.name if folder is None else Path(folder)
    return write_recorded(record, found, target, to=to, template=template, force=force)


class _Notes:
    """A run's listener that passes its notes on."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def run_started(self, finished: int, best: TrialRecord | None) -> None: ...
    def untuned_evaluated(self, eval_loss: float | None) -> None: ...

    def trial_started(self, proposal: Any, planned: Any) -> None: ...

    def trial_event(self, event: Any, sample: Any) -> None: ...

    def others_running(self, trials: Any) -> None: ...
    def trial_ended(self, record: Any) -> None:
        loss = "" if record.eval_loss is None else f", eval_loss {record.eval_loss:.4f}"
        self.note(f"trial {record.number}: {record.outcome}{loss}")


def _ignore(text: str) -> None:
    """Drops a note."""
