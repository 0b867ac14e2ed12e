"""Answers `db check`: is the database whole, and does everything that belongs to it agree?"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from sqlalchemy import text

from vram_search.answers.base import Answer, AnswerPart
from vram_search.errors import InputError, reason_of
from vram_search.search import Problem
from vram_search.search.agreement import Disagreement, disagreements
from vram_search.search.optuna_tables import OptunaTables, read_optuna
from vram_search.search.storage import optuna_name
from vram_search.spec.study import TrainingSpec
from vram_search.store import Store, StudyRecord
from vram_search.store.database import KNOWN_REVISIONS, VERSION_TABLE, reading
from vram_search.store.faults import describe
from vram_search.store.location import StudyFolder
from vram_search.upkeep.leftovers import leftovers, lost_adapters
from vram_search.worker.lease import living_workers
from vram_search.worker.lock_file import lock_is_held
from vram_search.worker.recorded_study import recorded_space

MOST_FAULTS = 100
"""Faults of one kind that are listed; SQLite stops its check there, too."""


class DamagedRow(AnswerPart):
    """A row of the record with values that cannot be read."""

    study: str
    trial: int | None = Field(description="None: the study's own row.")
    values: list[str] = Field(description="Names of the damaged values.")


class DeadTrial(AnswerPart):
    """A trial that the record marks as running although no process runs its study."""

    study: str
    trial: int
    stage: str | None


class LeftoverFolder(AnswerPart):
    """A folder that a killed training left and that no trial keeps."""

    study: str
    path: str
    size_bytes: int


class MissingAdapter(AnswerPart):
    """An adapter that the record names and that is not on this disk."""

    study: str
    trial: int
    path: str
    is_foreign: bool = Field(description="True: its path is outside the database's folder.")


class OptunaDifference(AnswerPart):
    """A trial of which the record and Optuna's tables differ."""

    study: str
    trial: int
    recorded: str
    in_optuna: str
    is_pending: bool = Field(description="True: the next run reports it to Optuna.")


class CheckAnswer(Answer):
    """The state of a database, of its folder of files and of Optuna's tables in it."""

    database: str
    files: str = Field(description="The folder of the database's files.")
    version: str = Field(description="Revision of its tables.")
    newest_version: str = Field(description="Revision that this program writes.")
    studies: int
    trials: int
    integrity: list[str] = Field(description="Faults that SQLite's integrity check finds.")
    foreign_keys: list[str] = Field(description="Rows that refer to a row that is missing.")
    damaged: list[DamagedRow]
    dead: list[DeadTrial]
    leftovers: list[LeftoverFolder]
    missing_adapters: list[MissingAdapter]
    optuna_problem: str = Field(
        description="Why the installed Optuna cannot use its tables; empty if it can."
    )
    optuna_foreign: list[str] = Field(
        description="Studies of which Optuna's tables hold another one of the same name: it does "
        "not minimise one value."
    )
    optuna: list[OptunaDifference]
    files_problem: str = Field(
        description="Why the folder of the database's files cannot be read; empty if it can."
    )

    @property
    def disagreements(self) -> list[OptunaDifference]:
        """Differences that no run corrects by itself."""
        return [one for one in self.optuna if not one.is_pending]

    @property
    def is_whole(self) -> bool:
        """True if nothing is to be repaired; a trial that was cut off is no damage."""
        return not (
            self.integrity
            or self.foreign_keys
            or self.damaged
            or self.leftovers
            or self.missing_adapters
            or self.optuna_problem
            or self.optuna_foreign
            or self.files_problem
            or self.disagreements
        )


def check_database(store: Store) -> CheckAnswer:
    """Checks a database; it writes nothing and may run beside a search.

    Raises:
        StoreError: the database cannot be read.
    """
    studies = store.studies()
    trials = {study.id: store.trials(study.id) for study in studies}
    searches = [study for study in studies if not study.is_imported and trials[study.id]]
    alive = {study.id: {worker.id for worker in living_workers(store, study)} for study in searches}
    tables = read_optuna(store.engine) if searches else OptunaTables({})
    in_folder = _compare_files(store)
    return CheckAnswer(
        database=describe(store.engine.url),
        files=str(store.files),
        version=_version(store),
        newest_version=KNOWN_REVISIONS[-1],
        studies=len(studies),
        trials=sum(map(len, trials.values())),
        integrity=_integrity(store),
        foreign_keys=[f"{table}, row {row}" for table, row in broken_references(store)],
        damaged=[
            *(
                DamagedRow(study=study.name, trial=None, values=list(study.damaged))
                for study in studies
                if study.damaged
            ),
            *(
                DamagedRow(study=study.name, trial=trial.number, values=list(trial.damaged))
                for study in studies
                for trial in trials[study.id]
                if trial.damaged
            ),
        ],
        dead=[
            DeadTrial(study=study.name, trial=trial.number, stage=trial.stage)
            for study in searches
            for trial in trials[study.id]
            if trial.outcome is None and "outcome" not in trial.damaged
            if trial.worker_id not in alive[study.id]
            if trial.worker_id is not None
            or not lock_is_held(StudyFolder(store.files, study.name).lock)
        ],
        leftovers=in_folder.leftovers,
        missing_adapters=in_folder.missing_adapters,
        files_problem=in_folder.problem,
        optuna_problem=tables.problem,
        optuna_foreign=[
            study.name
            for study in searches
            if optuna_name(study.name, study.revision) in tables.foreign
        ],
        optuna=[
            OptunaDifference(
                study=study.name,
                trial=one.number,
                recorded=one.recorded,
                in_optuna=one.in_optuna,
                is_pending=one.is_pending,
            )
            for study in searches
            for one in study_disagreements(store, study, tables)
        ],
    )


@dataclass(frozen=True)
class _Folder:
    """The folder of the database's files beside the record."""

    leftovers: list[LeftoverFolder]
    missing_adapters: list[MissingAdapter]
    problem: str = ""


def _compare_files(store: Store) -> _Folder:
    """Compares the folder with the record, as far as this user may read it."""
    try:
        return _Folder(
            [
                LeftoverFolder(study=one.study, path=str(one.path), size_bytes=one.size_bytes)
                for one in leftovers(store)
            ],
            [
                MissingAdapter(
                    study=one.study,
                    trial=one.trial.number,
                    path=str(one.path),
                    is_foreign=one.is_foreign,
                )
                for one in lost_adapters(store)
            ],
        )
    except OSError as error:
        return _Folder([], [], f"{error.filename or store.files}: {reason_of(error)}")


def study_disagreements(
    store: Store, study: StudyRecord, tables: OptunaTables
) -> list[Disagreement]:
    """Trials of a search of which the record and Optuna's tables differ."""
    name = optuna_name(study.name, study.revision)
    problem = problem_of(study)
    if tables.problem or name in tables.foreign or problem is None:
        return []
    stored = tables.trials.get(name, {})
    return disagreements(store.trials(study.id), stored, problem)


def problem_of(study: StudyRecord) -> Problem | None:
    """The search problem of a recorded study; None if its specification is damaged."""
    try:
        rungs = TrainingSpec.model_validate(study.spec["training"]).rungs
        return Problem(recorded_space(study), rungs)
    except (InputError, KeyError, TypeError, ValueError):
        return None


def broken_references(store: Store) -> list[tuple[str, int]]:
    """Table and rowid of each row that refers to a missing row (SQLite alone allows them)."""
    if store.engine.dialect.name != "sqlite":
        return []
    with reading(store.engine) as connection:
        found = connection.execute(text("PRAGMA foreign_key_check")).fetchmany(MOST_FAULTS)
    return [(str(row[0]), int(row[1])) for row in found if row[1] is not None]


def _integrity(store: Store) -> list[str]:
    if store.engine.dialect.name != "sqlite":
        return []
    with reading(store.engine) as connection:
        lines = connection.scalars(text(f"PRAGMA integrity_check({MOST_FAULTS})")).all()
    return [] if list(lines) == ["ok"] else [str(line) for line in lines]


def _version(store: Store) -> str:
    with reading(store.engine) as connection:
        return str(connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")))
