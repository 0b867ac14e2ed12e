"""Repairs a database: the record counts, everything else is made to agree with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import Field
from sqlalchemy import text

from vram_search.answers.base import Answer
from vram_search.search import STRATEGIES, Search, open_storage
from vram_search.search.rebuild import drop_optuna_tables, enqueue_points, forget_study
from vram_search.search.storage import optuna_name
from vram_search.store import Store, StudyRecord
from vram_search.store.database import writing
from vram_search.store.kept_files import delete_kept
from vram_search.store.location import StudyFolder
from vram_search.units import counted, format_bytes
from vram_search.upkeep.check import (
    CheckAnswer,
    broken_references,
    check_database,
    problem_of,
)
from vram_search.upkeep.leftovers import leftovers, lost_adapters
from vram_search.upkeep.words import fault_lines, listed
from vram_search.worker.lease import refuse_if_worked_on
from vram_search.worker.queue_place import study_locked
from vram_search.worker.reconcile import reconcile


class RepairAnswer(Answer):
    """The steps of a repair, and what it leaves as it is."""

    database: str
    is_done: bool = Field(description="False: the steps were only listed.")
    steps: list[str]
    remaining: list[str] = Field(description="Faults that no step corrects.")


@dataclass(frozen=True)
class Step:
    """One step of a repair, in words and as a function."""

    words: str
    do: Callable[[], None]


def repair_steps(store: Store, url: str, found: CheckAnswer) -> list[Step]:
    """Lists the steps that correct what a check found; nothing is changed yet.

    Args:
        url: URL of the database, with its password.
    """
    steps = []
    if found.integrity:
        steps.append(Step("build SQLite's indexes again", lambda: _reindex(store)))
    if found.optuna_problem:  # first: SQLite deletes no row that refers to a table that is gone
        steps += _search_steps(store, url, found)
    if found.foreign_keys:
        rows = counted(len(found.foreign_keys), "row", "rows")
        steps.append(
            Step(f"delete {rows} of missing trials or studies", lambda: _delete_broken(store))
        )
    if found.leftovers:
        folders = counted(len(found.leftovers), "folder", "folders")
        size = format_bytes(sum(one.size_bytes for one in found.leftovers))
        paths = listed([one.path for one in found.leftovers])
        steps.append(
            Step(
                f"delete {folders} ({size}) of killed trainings: {paths}",
                lambda: _delete_leftovers(store),
            )
        )
    if missing := [one for one in found.missing_adapters if not one.is_foreign]:
        names = listed([f"trial {one.trial} of {one.study}" for one in missing])
        steps.append(
            Step(f"forget adapters that are gone: {names}", lambda: _forget_adapters(store))
        )
    if not found.optuna_problem:
        steps += _search_steps(store, url, found)
    return steps


def _search_steps(store: Store, url: str, found: CheckAnswer) -> list[Step]:
    """The steps that make Optuna's tables agree with the record."""
    searches = {study.name: study for study in _searches(store)}
    if found.optuna_problem:
        said = f"write Optuna's tables again from the record ({found.optuna_problem})"
        return [Step(said, lambda: _rebuild_all(store, url, list(searches.values())))]
    steps = []
    differing = {one.study for one in found.disagreements} | set(found.optuna_foreign)
    cut_off = {one.study for one in found.dead} | {one.study for one in found.optuna}
    for name, study in searches.items():
        if name in differing:
            said = f"write Optuna's trials of study {name} again from the record"
            steps.append(Step(said, partial(_rebuild, store, url, study)))
        elif name in cut_off:
            said = f"record trials of study {name} that were cut off as lost, also in Optuna"
            steps.append(Step(said, partial(_reconcile, store, url, study)))
    return steps


def repair_database(store: Store, url: str, *, dry_run: bool) -> RepairAnswer:
    """Repairs a database, or only lists the steps.

    Raises:
        InputError: a study is being run.
        StoreError: the database cannot be read or written.
    """
    found = check_database(store)
    steps = repair_steps(store, url, found)
    if not dry_run and steps:
        with all_locked(store):
            for step in steps:
                step.do()
        found = check_database(store)
    remaining = _beyond_repair(found) if dry_run else fault_lines(found)
    return RepairAnswer(
        database=found.database,
        is_done=not dry_run,
        steps=[step.words for step in steps],
        remaining=remaining,
    )


@contextlib.contextmanager
def all_locked(store: Store) -> Iterator[None]:
    """Holds the locks of all studies, so that none runs.

    Raises:
        InputError: one is being run.
    """
    with contextlib.ExitStack() as locks:
        for study in _searches(store):
            locks.enter_context(study_locked(StudyFolder(store.files, study.name)))
            refuse_if_worked_on(store, study, "end them first")
        yield


def _beyond_repair(found: CheckAnswer) -> list[str]:
    """The faults for which there is no step: damaged values."""
    corrected: dict[str, Any] = {"optuna_problem": ""}
    for name in ("integrity", "foreign_keys", "leftovers", "missing_adapters"):
        corrected[name] = []
    corrected |= {"optuna": [], "optuna_foreign": []}
    return fault_lines(found.model_copy(update=corrected))


def _searches(store: Store) -> list[StudyRecord]:
    return [study for study in store.studies() if not study.is_imported]


def _reindex(store: Store) -> None:
    with writing(store.engine) as connection:
        connection.execute(text("REINDEX"))


def _delete_broken(store: Store) -> None:
    """Deletes row after row: one that goes may leave others behind."""
    while broken := broken_references(store):
        with writing(store.engine) as connection:
            for table, row in broken:
                connection.execute(text(f'DELETE FROM "{table}" WHERE rowid = :row'), {"row": row})


def _delete_leftovers(store: Store) -> None:
    for one in leftovers(store):
        delete_kept(store.files, str(one.path))


def _forget_adapters(store: Store) -> None:
    for one in lost_adapters(store):
        if not one.is_foreign:
            store.forget_adapter(one.trial.id)


def _rebuild_all(store: Store, url: str, studies: list[StudyRecord]) -> None:
    drop_optuna_tables(store.engine)
    for study in studies:
        _reconcile(store, url, study)


def _rebuild(store: Store, url: str, study: StudyRecord) -> None:
    name = optuna_name(study.name, study.revision)
    with open_storage(url) as storage:
        points = forget_study(storage, name)
    _reconcile(store, url, study)
    with open_storage(url) as storage:
        enqueue_points(storage, name, points)


def _reconcile(store: Store, url: str, study: StudyRecord) -> None:
    """Does what the start of a run does, without a run."""
    problem = problem_of(study)
    if problem is None:
        return
    seed = study.spec.get("seed", 0)
    with open_storage(url, study.name) as storage:
        search = Search(
            storage, study.name, study.revision, problem, STRATEGIES["random"], int(seed)
        )
        reconcile(store, study, search, lambda text: None)
