"""Workers of one study that are killed: no trial is lost, and none has two owners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.conftest import BOTH
from tests.store.conftest import postgres as postgres
from tests.store.postgres import new_database

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are forked")


def stress(*options: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers.stress", *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    assert found["details"] == [], done.stderr
    return found


def test_two_workers_of_which_one_is_killed_lose_and_double_nothing() -> None:
    found = stress("--workers", 2, "--kills", 1, "--trials", 4)
    assert found["kills"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("places", [(), ("--apart",)], ids=["one machine", "machines"])
def test_thirty_two_workers_under_random_kills_lose_and_double_nothing(
    backend: str, places: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    options = ("--workers", 32, "--kills", 64, "--trials", 100, *places)
    if backend == "sqlite":
        if places:
            pytest.skip("an SQLite file has one machine")
        found = stress(*options)
    else:
        with new_database(request.getfixturevalue("postgres"), f"many-{len(places)}") as url:
            found = stress(*options, "--database", url)
    assert int(str(found["kills"])) >= 32
