"""Checks that every process uses what the study recorded: rows, tokens, weights and objective.

A training process is replaced after an out-of-memory, a kill or a leak. If a file has changed
meanwhile, the new process would train something else under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from vram_search.errors import InputError
from vram_search.protocol import Ready
from vram_search.spec import StudySpec
from vram_search.spec.answers import objective_identity
from vram_search.store import Store, StudyRecord

LOADED = "loaded"
"""Key of the study's specification under which the record keeps what was loaded first."""
_OWN_VERSION = "vram-search"
WEIGHTS = ("base weights", "model config")
_ALWAYS = ("rows", "tokens", *WEIGHTS, "compute dtype", "device")
"""Parts that must stay the same between the runs of a study, too."""
_RELEASE_NUMBERS = {
    "torch": 2,
    "transformers": 2,
    "peft": 2,
    "bitsandbytes": 2,
    "accelerate": 2,
    "cuda": 1,
}
"""Packages of which another release must not join a study, and the numbers of a version that name
the release: torch 2.12 and 2.13 are two, 2.13.0 and 2.13.1 are one, and so are CUDA 12.8 and 12.9.
Changes that leave the release alone are noted."""


def loaded_identity(ready: Ready) -> dict[str, str]:
    """Everything that decides a loss, as the training process loaded it, by name."""
    identity = {"rows": ready.data_hash, "device": ready.device, **ready.fingerprints}
    for package, version in ready.versions.items():
        if package != _OWN_VERSION:
            identity["compute dtype" if package == "compute_dtype" else package] = version
    return identity


def loaded_before(record: StudyRecord, model: str | None) -> dict[str, str] | None:
    """Returns what the study's record says was loaded; None if nothing was.

    Args:
        model: short name of the base model, of a study of several.
    """
    loaded: dict[str, Any] = record.spec.get(LOADED) or {}
    return loaded.get(model) if model is not None else loaded or None


def refuse_changed_objective(study: StudySpec, record: StudyRecord) -> None:
    """Refuses a trial whose score would be computed by other code than the study's trials so far.

    Raises:
        InputError: the file of the study's own objective has changed.
    """
    known = record.spec.get("identity", {}).get("objective_code")
    if known is None:
        return
    try:
        now = objective_identity(study.objective_key)["objective_code"]
    except OSError as error:
        now = f"not there ({error.strerror})"
    if known != now:
        raise InputError(
            f"study {record.name}: the code of its objective has changed: {known} -> {now}",
            "restore the file and run again, or give the study another name",
        )


@dataclass(frozen=True)
class SameAsSearch:
    """Checks that a process loads what a finished search has loaded; its card may be another one.

    Args:
        parts: names of what must be equal, if the record knows it.
        rows: hash of the rows that it must load; None allows other rows.
        model: short name of the base model, of a study of several.
    """

    record: StudyRecord
    parts: Collection[str]
    rows: str | None = None
    model: str | None = None

    def __call__(self, ready: Ready) -> None:
        """Compares what a process loaded with what the search loaded.

        Raises:
            InputError: it loaded something else.
        """
        searched = loaded_before(self.record, self.model) or {}
        known = {name: searched[name] for name in self.parts if name in searched}
        if self.rows is not None:
            known["rows"] = self.rows
        if changes := differences(known, loaded_identity(ready)):
            raise InputError(
                f"study {self.record.name}: the training process loaded something else than the "
                f"search: {change_words(changes)}",
                "restore the files of the search",
            )


@dataclass
class IdentityCheck:
    """Compares each process with the study's record and with the first process of this run.

    Args:
        record: of the study, as this run opened it.
        accept_changes: continue with what is loaded now, as a new revision of the study.
        joins: this process joins other workers: its card may be another one, and the record keeps
            what the first worker has loaded.
    """

    store: Store
    record: StudyRecord
    note: Callable[[str], None]
    accept_changes: bool = False
    joins: bool = False
    model: str | None = None
    """Short name of the base model, of a study of several; each has its own first process."""
    _of_this_run: dict[str, str] | None = field(default=None, init=False)

    def __call__(self, ready: Ready) -> None:
        """Compares what a process loaded with the study's trials so far.

        Raises:
            InputError: the process loaded something else than the study's trials so far.
        """
        now = loaded_identity(ready)
        if self._of_this_run is not None:
            self._refuse(differences(self._of_this_run, now))
        else:
            self._compare_with_record(now)
        self._of_this_run = now

    def _compare_with_record(self, now: dict[str, str]) -> None:
        record = self.store.study(self.record.name) or self.record
        known = loaded_before(record, self.model) or {"rows": record.data_hash}
        changes = differences(known, now)
        if self.joins:
            changes.pop("device", None)
        fatal = {name: change for name, change in changes.items() if _is_fatal(name, *change)}
        if fatal and not self.accept_changes:
            self._refuse(fatal)
        if changes:
            self.note(f"this run differs from the study's earlier ones: {change_words(changes)}")
        if self.joins and loaded_before(record, self.model) is not None:
            return
        kept = now if self.model is None else {**record.spec.get(LOADED, {}), self.model: now}
        spec = {**record.spec, LOADED: kept}
        if fatal:
            self.store.revise_study(record.id, spec, now["rows"], record.card, record.model)
        elif known != now:
            self.store.refresh_study(record.id, spec)

    def _refuse(self, changes: dict[str, tuple[str, str]]) -> None:
        if changes:
            raise InputError(
                f"study {self.record.name}: a training process loaded something else than the "
                f"study's trials so far: {change_words(changes)}",
                "restore it and run again, give the study another name, or continue as a new "
                "revision with --accept-changes",
            )


def _is_fatal(name: str, before: str, now: str) -> bool:
    """True if losses before and after the change must not be compared."""
    numbers = _RELEASE_NUMBERS.get(name)
    if numbers is None:
        return name in _ALWAYS
    return before.split(".")[:numbers] != now.split(".")[:numbers]


def differences(known: dict[str, str], now: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Parts that both name and that differ; older records know fewer parts."""
    return {
        name: (known[name], now[name]) for name in known if name in now and known[name] != now[name]
    }


def change_words(changes: dict[str, tuple[str, str]]) -> str:
    """The changes in words: "rows 1a2b -> 3c4d"."""
    return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changes.items())
