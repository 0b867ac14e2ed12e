"""Records runs made elsewhere, each once, in a study that holds no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from vram_search.errors import StoreError
from vram_search.store.records import (
    UNKNOWN_DATA,
    UNKNOWN_SEED,
    ImportedTrial,
)
from vram_search.store.tables import evaluations, step_losses, studies, trials


class Imported(NamedTuple):
    """Numbers of the trials that an import added and updated."""

    added: list[int]
    updated: list[int]


def import_trials(connection: Connection, study: str, runs: Sequence[ImportedTrial]) -> Imported:
    """As `Store.import_trials`, within the connection's transaction."""
    study_id = _study(connection, study)
    rows = list(connection.execute(select(trials).where(trials.c.study_id == study_id)))
    known = {row.fingerprint: row for row in rows}
    models = {row.provenance["model"]["name"] for row in rows}
    number = max((row.number for row in rows), default=-1)
    added, updated = [], []
    for run in {run.fingerprint: run for run in runs}.values():
        models.add(run.provenance["model"]["name"])
        if (row := known.get(run.fingerprint)) is not None:
            updated += [row.number] if _update(connection, row, run) else []
            continue
        number += 1
        _insert(connection, study_id, number, run)
        added.append(number)
    if added or updated:
        name = models.pop() if len(models) == 1 else "several models"
        change = update(studies).where(studies.c.id == study_id)
        connection.execute(change.values(model={"name": name}, updated_at=datetime.now(UTC)))
    return Imported(added, updated)


def _update(connection: Connection, row: Row[Any], run: ImportedTrial) -> bool:
    """Replaces what another version read from the same files. Path and name stay as they were."""
    places = {key: row.provenance[key] for key in ("path", "run", "files")}
    values = {
        **run.result.columns(),
        "hyperparameters": run.hyperparameters,
        "provenance": run.provenance | places,
        "other_training": run.other_training,
    }
    if all(row._mapping[name] == value for name, value in values.items()):
        return False
    connection.execute(update(trials).where(trials.c.id == row.id).values(**values))
    return True


def _study(connection: Connection, name: str) -> int:
    query = select(studies.c.id, studies.c.spec).where(studies.c.name == name)
    found = connection.execute(query).one_or_none()
    if found is not None and "imported" not in found.spec:
        raise StoreError(
            f"study {name} is a search: runs made elsewhere would mix with its trials",
            "name a study for imported runs alone with --study",
        )
    if found is not None:
        return int(found.id)
    now = datetime.now(UTC)
    row = insert(studies).values(
        name=name,
        created_at=now,
        updated_at=now,
        revision=1,
        spec={"imported": True},
        data_hash=UNKNOWN_DATA,
        card={"name": "unknown", "title": "unknown card"},
        model={},
    )
    return int(connection.execute(row.returning(studies.c.id)).scalar_one())


def _insert(connection: Connection, study_id: int, number: int, run: ImportedTrial) -> None:
    result = run.result
    row = insert(trials).values(
        **result.columns(),
        study_id=study_id,
        number=number,
        hyperparameters=run.hyperparameters,
        seed=UNKNOWN_SEED if run.seed is None else run.seed,
        data_hash=UNKNOWN_DATA,
        started_at=datetime.now(UTC),
        fingerprint=run.fingerprint,
        provenance=run.provenance,
        other_training=run.other_training,
    )
    trial_id = connection.execute(row.returning(trials.c.id)).scalar_one()
    for table, items in ((step_losses, result.step_losses), (evaluations, result.evaluations)):
        if items:
            rows = [{"trial_id": trial_id, **asdict(item)} for item in items]
            connection.execute(insert(table), rows)
