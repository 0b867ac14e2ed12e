"""Prints the end of a search: table, winner, its export, the report and the next command.

A search that Ctrl-C ends prints the same as one whose time is used up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vram_search.cli.console import echo, echo_styled, styled
from vram_search.cli.options import print_json
from vram_search.errors import VramSearchError
from vram_search.resources import replace_text
from vram_search.shown_text import shown

if TYPE_CHECKING:
    from vram_search.store import Store, StudyRecord, TrialRecord

INTERRUPTED_BY_USER = "interrupted by Ctrl-C"


def print_ending(url: str, name: str, why: str, *, as_json: bool) -> None:
    """Writes the winner's YAML and the report, and prints the answer.

    Args:
        url: the database.
        name: of the study.
        why: the reason why no further trial was started.
    """
    from vram_search.answers.run import run_answer
    from vram_search.cli.last_night import night_lines
    from vram_search.search.study_constraints import best_trials
    from vram_search.store import open_store
    from vram_search.store.location import study_folder

    store = open_store(url, create=False)
    try:
        record = store.study(name)
        assert record is not None, "the run recorded it"
        trials, top = store.trials(record.id), best_trials(store, record, limit=1)
        folder = study_folder(url, name).exports
        report = _write_report(store, record, folder / f"{name}-report.html")
        answer = run_answer(
            store, record, stopped=why, report=None if report is None else str(report)
        )
        if as_json:
            print_json(answer.as_dict())
            return
        _print_table(trials, record, why)
        if top:
            _print_winner(store, record)
            _export(record, top[0], folder)
        else:
            echo("\nno trial is complete yet: nothing to export")
        if answer.night is not None:
            echo("\n".join(["", *night_lines(answer.night, "this run", answer.next)]))
    finally:
        store.close()
    if report is not None:
        echo(f"report, to open in a browser: {report}")


def _print_table(trials: list[TrialRecord], record: StudyRecord, why: str) -> None:
    from vram_search.report.tables import table_lines

    title = f"study {record.name}: {why}"
    echo_styled("\n".join(["", *table_lines(trials, record, title, styled, shown)]))


def _print_winner(store: Store, record: StudyRecord) -> None:
    from vram_search.answers.best import best
    from vram_search.cli.best import answer_lines
    from vram_search.report.limits import Limits

    echo("\n" + "\n".join(answer_lines(best(store, record, Limits()))) + "\n")


def _export(record: StudyRecord, trial: TrialRecord, folder: Path) -> None:
    from vram_search.export.recorded import write_recorded

    try:
        paths = write_recorded(record, trial, folder, force=True)
    except VramSearchError as error:
        echo(f"not exported: {error.message}\nremedy: {error.remedy}", err=True)
        return
    echo(f"exported for LLaMA-Factory: {paths[0]}")


def _write_report(store: Store, record: StudyRecord, file: Path) -> Path | None:
    """Writes the report and returns its path; a failure is shown and does not fail the search."""
    try:
        from vram_search.report.page.html import render
        from vram_search.report.page.report_data import load_report_data

        page = render(load_report_data(store, record), datetime.now(UTC))
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, page)
    except Exception as error:
        echo(f"no report was written: {type(error).__name__}: {error}", err=True)
        return None
    return file
