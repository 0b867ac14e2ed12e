"""The short form of `make faults`: a search that is killed loses and doubles nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_thirty_kills_lose_nothing_double_nothing_and_leave_nothing_behind() -> None:
    options = ("--kills", "25", "--fake", "0", "--real", "0", "--soak", "0", "--seed", "5")
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", *options, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["details"] == []
    assert done.returncode == 0
    assert found["kills"] >= 30
    assert found["trials"] > 0
