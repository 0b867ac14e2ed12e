"""The rows of a study: read, checked, split for good, and hashed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vram_search.data.example import Example
from vram_search.data.findings import Findings, rows_word
from vram_search.data.forms import PREFERENCES, UNKNOWN_FORM
from vram_search.data.source import Source
from vram_search.data.sources import read_source, sources_of
from vram_search.data.templates import template_text
from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.spec.dataset import PUBLISHED_DATE, DatasetSpec, short_name
from vram_search.tools.file_kinds import naming_other_files

FAULTS_SHOWN = 3
BAD_SHARE = 0.01
"""Largest share of bad rows that is skipped if the study does not set `on_bad_row`."""


@dataclass(frozen=True)
class Rows:
    """Training and evaluation examples of a study, in file order, and their hash.

    Attributes:
        notes: what a person should know of the files, a sentence each.
        forms: rows by the fields that hold their texts.
        bad: rows that are skipped.
        empty: of these, rows whose answer is empty.
    """

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    data_hash: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    forms: dict[str, int] = field(default_factory=dict, compare=False)
    bad: int = field(default=0, compare=False)
    empty: int = field(default=0, compare=False)


def load_rows(dataset: DatasetSpec, seed: int, *, all_rows: bool = False) -> Rows:
    """The study's rows; the split depends on the rows' count, `val_size` and `seed` alone.

    Args:
        all_rows: train on the rows that `max_samples` leaves out, too. The evaluation rows are the
            same, and no training row equals one of them.

    Raises:
        InputError: a file is empty or cannot be read, or the split leaves nothing.
        FaultyFileError: more rows are bad than the study allows; the first three are named.
    """
    findings: list[tuple[str, Findings]] = []
    notes: list[str] = []
    examples = _load_examples(dataset, findings, notes, evaluation=False)
    if dataset.eval is not None:
        train = examples
        evaluation = _load_examples(dataset, findings, notes, evaluation=True)
    else:
        train, evaluation = _split(examples, dataset, seed)
    if all_rows:
        findings, notes = [], []
        whole = dataset.model_copy(update={"max_samples": None})
        held_out = {example.hashed() for example in evaluation}
        examples = _load_examples(whole, findings, notes, evaluation=False)
        train = [example for example in examples if example.hashed() not in held_out]
    forms: dict[str, int] = {}
    for name, found in findings:
        notes += [f"{short_name(name)}: {said}" for said in found.notes()]
        for form, count in found.forms.items():
            forms[form] = forms.get(form, 0) + count
    return Rows(
        tuple(train),
        tuple(evaluation),
        _hash(train, evaluation, dataset),
        tuple(notes),
        forms,
        sum(len(found.faults) for _, found in findings),
        sum(found.empty_answers for _, found in findings),
    )


def _split(
    examples: list[Example], dataset: DatasetSpec, seed: int
) -> tuple[list[Example], list[Example]]:
    size = dataset.val_size
    count = max(1, round(size * len(examples))) if size < 1 else int(size)
    if count >= len(examples):
        raise InputError(
            f"{dataset.label}: val_size {size:g} leaves no training row of {len(examples)}",
            "set dataset.val_size lower, or name dataset.eval",
        )
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    return (
        [example for i, example in enumerate(examples) if i not in chosen],
        [example for i, example in enumerate(examples) if i in chosen],
    )


def _hash(train: Sequence[Example], evaluation: Sequence[Example], dataset: DatasetSpec) -> str:
    """Returns a hash of all training and evaluation rows, without file names and layout. A template
    or date that the study names counts, because it is part of every prompt."""
    digest = hashlib.sha256()
    for part in (train, evaluation):
        for example in part:
            digest.update(example.hashed())
        digest.update(b"\0")
    if dataset.template is not None:
        digest.update(json.dumps(["template", template_text(dataset.template)]).encode())
    if dataset.date != PUBLISHED_DATE:
        digest.update(json.dumps(["date", dataset.date]).encode())
    return digest.hexdigest()[:16]


def _load_examples(
    dataset: DatasetSpec,
    findings: list[tuple[str, Findings]],
    notes: list[str],
    *,
    evaluation: bool,
) -> list[Example]:
    examples: list[Example] = []
    for source in sources_of(dataset, evaluation=evaluation):
        notes += [f"{short_name(source.location)}: {note}" for note in source.notes]
        for name, rows in read_source(source, notes):
            found = Findings()
            examples += _examples(source, short_name(name), rows, found, dataset.max_samples)
            if not found.rows:
                raise InputError(f"{name}: the data set is empty", "it needs rows to train on")
            with naming_other_files(Path(name), "rows"):
                _judge(name, found, dataset, notes)
            findings.append((name, found))
    return examples


def _examples(
    source: Source, name: str, rows: list[object], found: Findings, max_samples: int | None
) -> list[Example]:
    limits = [limit for limit in (source.limit, max_samples) if limit is not None]
    examples = []
    for number, row in enumerate(rows[: min(limits)] if limits else rows, start=1):
        example = source.reader.read(row, f"row {number}", found)
        if example is not None:
            examples.append(replace(example, place=f"{name}, row {number}"))
    return examples


def _judge(name: str, found: Findings, dataset: DatasetSpec, notes: list[str]) -> None:
    """Skips or refuses bad rows, as the study says.

    Raises:
        FaultyFileError: they are refused.
    """
    bad = len(found.faults)
    if not bad:
        return
    if bad == found.rows and not found.forms:
        _refuse_form(name, found)
    shown = found.faults[:FAULTS_SHOWN]
    allowed = {"skip": found.rows - 1, "fail": 0, None: int(BAD_SHARE * found.rows)}
    if bad > allowed[dataset.on_bad_row]:
        if bad > len(shown):
            more = bad - len(shown)
            shown.append(Fault("...", f"and {more} more {rows_word(more)}"))
        raise FaultyFileError(
            name,
            shown,
            f"{bad} of {found.rows} rows cannot be used",
            _remedy(found, dataset),
        )
    listed = "; ".join(map(str, shown))
    notes.append(
        f"{short_name(name)}: {bad} of {found.rows} rows cannot be used and are skipped: {listed}"
        + ("; ..." if bad > len(shown) else "")
    )


def _refuse_form(name: str, found: Findings) -> None:
    """Refuses rows that share an unknown or an unsuitable form, with the remedy for it.

    Raises:
        InputError: no row has a form that is known here, and the first one shows why.
    """
    first = found.faults[0]
    if first.message.startswith(PREFERENCES):
        raise InputError(f"{name}: every row {first.message}", found.remedy)
    if first.message.startswith(UNKNOWN_FORM):
        raise InputError(f"{name}, {first}", found.remedy)


def _remedy(found: Findings, dataset: DatasetSpec) -> str:
    if len(found.faults) < found.rows:
        return "correct the rows, or leave them out: --set dataset.on_bad_row=skip"
    return found.remedy or "correct the rows"
