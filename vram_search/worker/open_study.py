"""Creates or continues a study in the database, or refuses it because its file has changed."""

from __future__ import annotations

from typing import Any

from vram_search.errors import InputError
from vram_search.shown_text import without_secrets_in
from vram_search.spec import StudySpec
from vram_search.spec.objective import EVAL_LOSS
from vram_search.store import Store, StudyRecord
from vram_search.store.faults import describe
from vram_search.worker.identity import LOADED
from vram_search.worker.lease import refuse_if_worked_on
from vram_search.worker.prepare import Prepared

ACCEPTABLE = ("search_space.", "card.", "plan.", "enqueue_priors", "constraints.")
"""Parts of a study that may change with --accept-changes: losses stay comparable."""


def open_study(store: Store, prepared: Prepared, *, accept_changes: bool) -> StudyRecord:
    """Returns the study's record, new or continued.

    Raises:
        InputError: the study file differs from that of recorded trials (the message shows the
            difference), or the recorded study holds imported runs.
    """
    study = prepared.study
    known = store.study(study.study)
    spec = without_secrets_in(study.model_dump(mode="json"))
    if study.database is not None and "://" in study.database:
        spec["database"] = describe(study.database)
    spec["identity"] = without_secrets_in(study.identity())
    spec["strategies"] = _strategies(store, known, study)
    parts: dict[str, Any] = {
        "spec": spec,
        "data_hash": prepared.rows.data_hash,
        "card": study.card.model_dump(mode="json"),
        "model": prepared.model_record(),
    }
    if known is not None and LOADED in known.spec:
        spec[LOADED] = known.spec[LOADED]
    if known is None:
        return store.create_study(study.study, **parts)
    if known.is_imported:
        raise InputError(
            f"study {study.study} holds imported runs: it cannot be run",
            "give the study file another name (key `study`)",
        )
    changes = differences(known, study, prepared.rows.data_hash)
    if not changes:
        # Its files may have moved, and its budget may have changed.
        return store.refresh_study(known.id, spec)
    refuse_if_worked_on(store, known, "end them before you change the study")
    if not store.trials(known.id):
        # It failed before its first trial, for a fault of its file perhaps: no loss is there yet.
        return store.revise_study(known.id, **parts)
    shown = "\n".join(f"  {key}: {old!r} -> {new!r}" for key, (old, new) in changes.items())
    fatal = [key for key in changes if not key.startswith(ACCEPTABLE)]
    if fatal:
        verb = "changes" if len(fatal) == 1 else "change"
        raise InputError(
            f"study {study.study} is in the database with other settings:\n{shown}",
            f"{', '.join(fatal)} {verb} what a loss means: give the study another name"
            + (
                f", or set training.eval_cutoff_len: {changes['eval_cutoff_len'][0]}"
                if fatal == ["eval_cutoff_len"]
                else ""
            ),
        )
    if not accept_changes:
        raise InputError(
            f"study {study.study} has changed since it was started:\n{shown}",
            "continue with --accept-changes, or give the study another name",
        )
    return store.revise_study(known.id, **parts)


def _strategies(store: Store, known: StudyRecord | None, study: StudySpec) -> list[list[Any]]:
    """Returns `StudyRecord.strategies` with the strategy that chooses from now on."""
    if known is None:
        return [[0, study.strategy]]
    earlier = known.strategies
    if earlier[-1][1] == study.strategy:
        return earlier
    following = max((trial.number for trial in store.trials(known.id)), default=-1) + 1
    return [*earlier, [following, study.strategy]]


def differences(known: StudyRecord, study: StudySpec, data_hash: str) -> dict[str, tuple[Any, Any]]:
    """Returns the changed settings as key -> (recorded, now).

    Settings that the record does not know are new in this version and count as unchanged, except
    for hyperparameters that are searched now and were not before.
    """
    now = without_secrets_in(study.identity())
    before = known.spec.get("identity", {})
    changes = {key: (before[key], now.get(key)) for key in before if before[key] != now.get(key)}
    changes |= {
        key: (None, value)
        for key, value in now.items()
        if key.startswith(("search_space.", "constraints."))
        and key not in before
        and value is not None
        and before
    }
    if "objective" not in before and now["objective"] != EVAL_LOSS and before:
        changes["objective"] = (EVAL_LOSS, now["objective"])
    # The cutoff that counts is `eval_cutoff_len`: spelling out what it was is no change.
    changes.pop("training.eval_cutoff_len", None)
    if known.data_hash != data_hash:
        changes["dataset (rows)"] = (known.data_hash, data_hash)
    return changes
