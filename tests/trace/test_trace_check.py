"""`python -m bench.trace_check`: the real training code on fake tensors against the formulas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTHING_TOLERATED = """
import sys
from bench import trace_check
trace_check.TOLERANCE = trace_check.TOLERANCE_WIDE = -1
trace_check.quick_cases = lambda: [trace_check.plain("llama-3.2-1b")]
sys.argv = ["trace_check", "--quick", "--jobs", "1"]
trace_check.main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_formulas_agree_with_the_real_code_within_their_tolerance() -> None:
    done = run("-m", "bench.trace_check", "--quick", "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("torch ")
    assert done.stdout.endswith("\n4 cases, 0 beyond tolerance\n")


def test_difference_beyond_tolerance_is_marked_and_fails() -> None:
    done = run("-c", NOTHING_TOLERATED)
    assert done.returncode == 1, done.stderr
    assert "<--\n1 cases, 1 beyond tolerance" in done.stdout
