"""Reads and writes the record of every trial: settings, plan and results.

    store = open_store(sqlite_url(path), create=True)
    study = store.create_study("demo", spec, data_hash, card, model)
    trial_id = store.start_trial(study.id, 0, hyperparameters, seed=1, data_hash=data_hash)
    store.finish_trial(trial_id, TrialResult("complete", eval_loss=1.31))

Every method is one transaction. All raise StoreError when the database is locked, read-only, full
or damaged; those that change a row raise RuntimeError when it is missing or finished.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Case,
    Connection,
    Engine,
    Select,
    Table,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from vram_search.errors import StoreError
from vram_search.store.database import reading, writing
from vram_search.store.events import append_event
from vram_search.store.imports import Imported, import_trials
from vram_search.store.kept_files import actual_path, delete_kept, recorded_path
from vram_search.store.location import files_folder
from vram_search.store.read_rows import error_with_damage, raw_columns, read_row, read_table
from vram_search.store.recorded_values import recorded_values
from vram_search.store.records import (
    OUTCOMES,
    Evaluation,
    ImportedTrial,
    Outcome,
    StepLoss,
    StudyRecord,
    TrialRecord,
    TrialResult,
)
from vram_search.store.tables import (
    evaluations,
    metadata,
    progress,
    step_losses,
    studies,
    trials,
)

_T = TypeVar("_T")
_SETTINGS = ("spec", "card", "model")
"""Columns of a study with mappings in mappings."""
LARGE = ("plan", "predicted", "measured", "versions")
"""Columns of a trial that make up most of it, and that lists and counts do not need."""
_NEWEST_FIRST = (studies.c.updated_at.desc(), studies.c.id.desc())


class TrialEndedError(RuntimeError):
    """The trial has an outcome already, or was never started."""


class Store:
    """Reads and writes studies and trials; `engine` comes from `open_database`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._began: dict[int, tuple[datetime, float]] = {}
        """Start of the trials that this process has started, by both clocks."""

    @property
    def files(self) -> Path:
        """The folder of the files that belong to the database."""
        return files_folder(self.engine.url)

    def close(self) -> None:
        """Closes the connections; SQLite then folds its write-ahead log into the file."""
        self.engine.dispose()

    # Studies

    def studies(self) -> list[StudyRecord]:
        """All studies, newest activity first."""
        return self._studies(select(studies).order_by(*_NEWEST_FIRST))

    def study(self, name: str) -> StudyRecord | None:
        """The study of that name."""
        return _first(self._studies(select(studies).where(studies.c.name == name)))

    def latest_study(self) -> StudyRecord | None:
        """The search with the newest activity; imported runs only if there is no search."""
        found = self.studies()
        return next((study for study in found if not study.is_imported), _first(found))

    def create_study(
        self,
        name: str,
        spec: dict[str, Any],
        data_hash: str,
        card: dict[str, Any],
        model: dict[str, Any],
    ) -> StudyRecord:
        """Records a new study at revision 1.

        Raises:
            StoreError: a study of that name exists.
        """
        now = datetime.now(UTC)
        row = insert(studies).values(
            name=name,
            created_at=now,
            updated_at=now,
            revision=1,
            spec=spec,
            data_hash=data_hash,
            card=card,
            model=model,
        )
        try:
            with writing(self.engine) as connection:
                created = connection.execute(row.returning(studies)).one()
                append_event(connection, "study_created", name)
                return StudyRecord(**created._mapping)
        except IntegrityError as error:
            raise StoreError(f"a study named {name!r} exists", "choose another name") from error

    def revise_study(
        self,
        study_id: int,
        spec: dict[str, Any],
        data_hash: str,
        card: dict[str, Any],
        model: dict[str, Any],
    ) -> StudyRecord:
        """Replaces a study's specification and increases its revision."""
        change = (
            update(studies)
            .where(studies.c.id == study_id)
            .values(
                revision=studies.c.revision + 1,
                spec=spec,
                data_hash=data_hash,
                card=card,
                model=model,
            )
        )
        with writing(self.engine) as connection:
            _touch(connection, study_id)
            connection.execute(change)
            return StudyRecord(**read_table(connection, studies, studies.c.id == study_id)[0])

    def refresh_study(self, study_id: int, spec: dict[str, Any]) -> StudyRecord:
        """Replaces the specification where it says the same: moved files, another budget."""
        change = update(studies).where(studies.c.id == study_id).values(spec=spec)
        with writing(self.engine) as connection:
            _touch(connection, study_id)
            connection.execute(change)
            return StudyRecord(**read_table(connection, studies, studies.c.id == study_id)[0])

    def delete_study(self, study_id: int) -> None:
        """Deletes a study with all of its trials and losses."""
        own = select(trials.c.id).where(trials.c.study_id == study_id).scalar_subquery()
        name = select(studies.c.name).where(studies.c.id == study_id)
        with writing(self.engine) as connection:
            append_event(connection, "study_deleted", str(connection.scalar(name)))
            for table in reversed(metadata.sorted_tables):  # first the tables that refer to others
                if "trial_id" in table.c:
                    connection.execute(delete(table).where(table.c.trial_id.in_(own)))
                elif "study_id" in table.c:
                    connection.execute(delete(table).where(table.c.study_id == study_id))
            connection.execute(delete(studies).where(studies.c.id == study_id))

    def report_point(self, study: str, hyperparameters: dict[str, Any]) -> None:
        """Writes the event of a point that a person has added to a search."""
        with writing(self.engine) as connection:
            append_event(connection, "point_added", study, hyperparameters=hyperparameters)

    # A trial's life

    def start_trial(
        self,
        study_id: int,
        number: int,
        hyperparameters: dict[str, Any],
        seed: int,
        data_hash: str,
        retry_of: int | None = None,
        worker_id: int | None = None,
        host: str | None = None,
    ) -> int:
        """Records a running trial and returns its row id.

        Args:
            number: Optuna's number of the trial, unique within the study.
            retry_of: the number of the trial that this one repeats.
            worker_id, host: the worker that runs it, and its machine.
        """
        started_at = datetime.now(UTC)
        row = insert(trials).values(
            study_id=study_id,
            number=number,
            hyperparameters=hyperparameters,
            seed=seed,
            data_hash=data_hash,
            retry_of=retry_of,
            steps_done=0,
            steps_total=0,
            started_at=started_at,
            worker_id=worker_id,
            host=host,
        )
        with writing(self.engine) as connection:
            _touch(connection, study_id)
            trial_id = int(connection.execute(row.returning(trials.c.id)).scalar_one())
            _report(connection, "trial_started", study_id, number)
        self._began[trial_id] = started_at, time.monotonic()
        return trial_id

    def record_plan(self, trial_id: int, plan: dict[str, Any], predicted: dict[str, Any]) -> None:
        """Writes a running trial's memory plan and predicted bytes; a later plan replaces it."""
        with writing(self.engine) as connection:
            required = predicted.get("required_bytes")
            study_id, number = _change_running(
                connection,
                trial_id,
                plan=plan,
                predicted=predicted,
                predicted_required_bytes=required,
            )
            _report(connection, "trial_planned", study_id, number, required_bytes=required)

    def record_stage(self, trial_id: int, stage: str) -> None:
        """Writes the stage of a running trial."""
        with writing(self.engine) as connection:
            study_id, number = _change_running(connection, trial_id, stage=stage)
            _report(connection, "trial_stage", study_id, number, stage=stage)

    def record_resumed(self, trial_id: int, step: int) -> None:
        """Writes that a running trial goes on from a checkpoint of this optimizer step."""
        with writing(self.engine) as connection:
            study_id, number = _change_running(connection, trial_id, resumed_step=step)
            _report(connection, "trial_resumed", study_id, number, step=step)

    def finish_trial(self, trial_id: int, result: TrialResult) -> None:
        """Writes all results of a trial in one transaction, or nothing if any of it is refused.

        Raises:
            TrialEndedError: the trial is finished already; another worker took it over perhaps.
            sqlalchemy.exc.IntegrityError: an unknown outcome, or two losses of one step.
        """
        kept = recorded_path(self.files, result.adapter_path)
        losses = [{"trial_id": trial_id, **asdict(loss)} for loss in result.step_losses]
        evaluated = [{"trial_id": trial_id, **asdict(item)} for item in result.evaluations]
        with writing(self.engine) as connection:
            study_id, number = _change_running(
                connection,
                trial_id,
                **replace(result, adapter_path=kept).columns(),
                finished_at=self._now_of(trial_id),
            )
            connection.execute(delete(progress).where(progress.c.trial_id == trial_id))
            # An empty list would insert one row of defaults.
            if losses:
                connection.execute(insert(step_losses), losses)
            if evaluated:
                connection.execute(insert(evaluations), evaluated)
            _touch(connection, study_id)
            loss = result.eval_loss
            _report(
                connection, "trial_ended", study_id, number, outcome=result.outcome, eval_loss=loss
            )

    def _now_of(self, trial_id: int) -> datetime:
        """The time by the clock of the trial's start: its duration is right although somebody sets
        the machine's clock meanwhile."""
        if trial_id not in self._began:
            return datetime.now(UTC)
        started_at, began = self._began[trial_id]
        return started_at + timedelta(seconds=time.monotonic() - began)

    # Runs made elsewhere

    def import_trials(self, study: str, runs: Sequence[ImportedTrial]) -> Imported:
        """Records runs in a study for imported runs, which is created if it is missing.

        Returns:
            The numbers of the new trials, and of those that the study has and that now read
            otherwise; a run whose fingerprint the study has adds none.

        Raises:
            StoreError: the study is a search.
        """
        with writing(self.engine) as connection:
            return import_trials(connection, study, runs)

    # Trials as recorded

    def delete_adapter(self, trial: TrialRecord) -> None:
        """Deletes a trial's adapter and records it. A folder that does not belong to this database
        is left alone; the record forgets it."""
        if trial.adapter_path is not None:
            delete_kept(self.files, trial.adapter_path)
        self.forget_adapter(trial.id)

    def forget_adapter(self, trial_id: int) -> None:
        """Records that a trial's adapter is no longer kept."""
        change = update(trials).where(trials.c.id == trial_id).values(adapter_path=None)
        with writing(self.engine) as connection:
            connection.execute(change)

    def running_trials(self, study_id: int) -> list[TrialRecord]:
        """Trials without an outcome, in number order."""
        running = _trials_of(study_id).where(trials.c.outcome.is_(None))
        return self._trials(running.order_by(trials.c.number))

    def trials(
        self,
        study_id: int,
        outcomes: Collection[Outcome] | None = None,
        first: int = 0,
        *,
        numbers: Collection[int] | None = None,
        without: Collection[str] = (),
    ) -> list[TrialRecord]:
        """Trials in number order: all of them, or those with one of the outcomes.

        Args:
            first: lowest number.
            numbers: of the trials; None for all.
            without: columns that are not read and become None, to save time and memory; see LARGE.
        """
        query = _trials_of(study_id).where(trials.c.number >= first).order_by(trials.c.number)
        if outcomes is not None:
            query = query.where(trials.c.outcome.in_(outcomes))
        if numbers is not None:
            query = query.where(trials.c.number.in_(numbers))
        return self._trials(query, without)

    def each_trial(
        self, study_id: int, first: int = 0, *, without: Collection[str] = ()
    ) -> Iterator[TrialRecord]:
        """Reads trials one after the other in number order, without holding all of them.

        Args:
            first, without: as of `trials`.
        """
        query = _trials_of(study_id).where(trials.c.number >= first).order_by(trials.c.number)
        return self._each_trial(query, without)

    def trial(self, study_id: int, number: int) -> TrialRecord | None:
        """The study's trial of that number."""
        return _first(self._trials(_trials_of(study_id).where(trials.c.number == number)))

    def top_trials(
        self,
        study_id: int,
        limit: int | None = None,
        max_required_bytes: int | None = None,
    ) -> list[TrialRecord]:
        """Complete trials with a finite objective, lowest first; no `other_training` among them.

        Args:
            limit: how many at most.
            max_required_bytes: only trials that need no more; measured bytes decide, or predicted
                ones where none were measured; a trial with neither is left out.
        """
        ranking = ranking_value()
        query = (
            _trials_of(study_id)
            .where(trials.c.outcome == "complete", ranking.is_not(None))
            .where(trials.c.other_training.is_(None))
            .order_by(ranking, trials.c.number)
            .limit(limit)
        )
        if max_required_bytes is not None:
            required = func.coalesce(
                trials.c.measured_required_bytes, trials.c.predicted_required_bytes
            )
            query = query.where(required <= max_required_bytes)
        # SQLite sorts a text that stands in the column after all numbers.
        return [trial for trial in self._trials(query) if trial.value is not None]

    def outcome_counts(self, study_id: int) -> dict[str, int]:
        """Counts the trials of each outcome, 0 included; "running" counts those without one."""
        query = (
            select(trials.c.outcome, func.count())
            .where(trials.c.study_id == study_id)
            .group_by(trials.c.outcome)
        )
        with reading(self.engine) as connection:
            found = {outcome or "running": count for outcome, count in connection.execute(query)}
        return {outcome: found.get(outcome, 0) for outcome in (*OUTCOMES, "running")}

    def step_losses(self, trial_id: int) -> list[StepLoss]:
        """Logged training losses of a finished trial, in step order."""
        query = select(step_losses).where(step_losses.c.trial_id == trial_id)
        rows = self._rows(query.order_by(step_losses.c.step), step_losses, without=("trial_id",))
        return [StepLoss(**values) for values, _ in rows]

    def evaluations(self, trial_id: int) -> list[Evaluation]:
        """Evaluations of a finished trial, in step order."""
        query = select(evaluations).where(evaluations.c.trial_id == trial_id)
        rows = self._rows(query.order_by(evaluations.c.step), evaluations, without=("trial_id",))
        return [Evaluation(**values) for values, _ in rows]

    def _studies(self, query: Select[Any]) -> list[StudyRecord]:
        return [
            StudyRecord(
                **values | {name: recorded_values(values[name]) for name in _SETTINGS},
                damaged=damaged,
            )
            for values, damaged in self._rows(query, studies)
        ]

    def _trials(self, query: Select[Any], without: Collection[str] = ()) -> list[TrialRecord]:
        return list(self._each_trial(query, without))

    def _each_trial(
        self, query: Select[Any], without: Collection[str] = ()
    ) -> Iterator[TrialRecord]:
        files, missing = self.files, dict.fromkeys(without)
        for values, damaged in self._rows(query, trials, without):
            changed = {
                "adapter_path": actual_path(files, values["adapter_path"]),
                "error": error_with_damage(values["error"], damaged),
            }
            yield TrialRecord(**missing | values | changed, damaged=damaged)

    def _rows(
        self, query: Select[Any], table: Table, without: Collection[str] = ()
    ) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
        """The values of each row by column, and what is damaged in it (`read_rows`)."""
        columns = [column for column in table.c if column.name not in without]
        chosen = query.with_only_columns(*raw_columns(columns)).select_from(table)
        with reading(self.engine) as connection:
            for row in connection.execute(chosen):
                yield read_row(row, columns)


def _first(items: list[_T]) -> _T | None:
    return items[0] if items else None


def _trials_of(study_id: int) -> Select[Any]:
    return select(trials).where(trials.c.study_id == study_id)


def ranking_value() -> Case[Any]:
    """The figure by which trials are ranked, as SQL (`TrialRecord.value`)."""
    return case((trials.c.objective.is_(None), trials.c.eval_loss), else_=trials.c.objective_value)


def _touch(connection: Connection, study_id: int) -> None:
    now = datetime.now(UTC)
    touch = update(studies).where(studies.c.id == study_id).values(updated_at=now)
    if not connection.execute(touch).rowcount:
        raise RuntimeError(f"study {study_id} is not in the database")


def _change_running(connection: Connection, trial_id: int, **values: Any) -> tuple[int, int]:
    """Updates a trial that has no outcome yet; returns its study's id and its number."""
    change = update(trials).where(trials.c.id == trial_id, trials.c.outcome.is_(None))
    changed = change.values(**values).returning(trials.c.study_id, trials.c.number)
    row = connection.execute(changed).one_or_none()
    if row is None:
        raise TrialEndedError(f"trial with id {trial_id} is finished already, or was never started")
    return int(row.study_id), int(row.number)


def _report(connection: Connection, kind: str, study_id: int, number: int, **data: Any) -> None:
    """Writes an event of a trial within the connection's transaction."""
    name = connection.scalar(select(studies.c.name).where(studies.c.id == study_id))
    append_event(connection, kind, str(name), number, **data)
