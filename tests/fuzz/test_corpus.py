"""Inputs that once ended in a traceback or a hang are read or refused in one sentence."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fuzz.mutate import mutate, unpacked
from bench.fuzz.run import Found, fuzz, outcome_of
from bench.fuzz.targets import RefusedError, Target, make_targets
from vram_search.models import tree

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(CORPUS.glob("*/*.json"))

pytestmark = pytest.mark.skipif(os.name == "nt", reason="an alarm ends a reader that hangs")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRAM_SEARCH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(tree, "model_tree", tree.model_tree)  # `make_targets` replaces it
        made = make_targets(tmp_path_factory.mktemp("fuzz"))
        yield {target.name: target for target in made}


def test_kept_inputs_end_in_no_traceback(targets: dict[str, Target], tmp_path: Path) -> None:
    assert KEPT
    for file in KEPT:
        target = targets[file.parent.name]
        outcome, _, said = outcome_of(target, unpacked(file.read_text("utf-8")), tmp_path / "in")
        assert outcome in ("ok", "refused"), f"{file}:\n{said}"


def test_seeds_are_valid_inputs(targets: dict[str, Target], tmp_path: Path) -> None:
    """A reader that refuses its own seeds would be fuzzed at its first line alone."""
    for target in targets.values():
        if target.name == "database":  # its seeds are damages
            continue
        outcomes = {outcome_of(target, files, tmp_path / "in")[0] for files in target.seeds[:3]}
        assert "ok" in outcomes, target.name


def test_a_few_changed_inputs_of_each_reader(targets: dict[str, Target], tmp_path: Path) -> None:
    for target in targets.values():
        found = fuzz(target, 12, seed=1, deadline=float("inf"), folder=tmp_path / "in")
        assert list(found.faults) == [], found.faults


def test_faults_are_counted_and_named(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        if (folder / "a.json").read_bytes() != b"[1, 2]":
            raise TypeError("a bug")

    broken = Target("broken", 1.0, [{"a.json": b"[1, 2]"}], read)
    found: Found = fuzz(broken, 50, seed=1, deadline=float("inf"), folder=tmp_path / "in")
    assert found.counts["traceback"] > 30
    (place,) = found.faults
    assert place.startswith("TypeError at")


def test_refusal_and_hang_are_told_from_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise RefusedError

    def hang(folder: Path) -> None:
        while True:
            pass

    monkeypatch.setattr("bench.fuzz.run.HANG_SECONDS", 1)
    assert outcome_of(Target("r", 1.0, [], refuse), {}, tmp_path / "in")[0] == "refused"
    assert outcome_of(Target("h", 1.0, [], hang), {}, tmp_path / "in")[0] == "hang"


def test_same_seed_makes_the_same_inputs() -> None:
    files = {"a.json": b'{"a": [1, 2, {"b": null}]}', "b.yaml": b"a: 1\nb: [x]\n"}
    first, second = (
        [mutate(random.Random(n), files, [files]) for n in range(40)] for _ in range(2)
    )
    assert first == second
    assert len({str(one) for one in first}) > 30
