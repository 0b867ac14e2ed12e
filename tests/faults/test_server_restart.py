"""A PostgreSQL server that is restarted while workers search: nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.postgres import restarted_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_search_goes_on_after_restarts_of_its_server() -> None:
    with restarted_server() as (url, restart):
        options = ("--workers", "2", "--kills", "0", "--trials", "40", "--step", "0.05")
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.workers.stress", *options, "--database", url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seconds in (12, 5, 5):  # 40 trainings take 25 s at least
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(seconds)
            restart()
        printed, errors = process.communicate(timeout=240)
    found = json.loads(printed)
    assert found["details"] == [], errors
    assert found["trials"] >= 40
