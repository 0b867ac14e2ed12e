"""Asks the training stack in its own process for its device and compute dtype."""

from __future__ import annotations

import json
import os
import subprocess
import sys

COMMAND = (sys.executable, "-m", "vram_search.train.device")
_SECONDS = 120.0
"""Seconds after which the process counts as hung."""


def training_device() -> dict[str, str]:
    """Returns `device`, `compute_dtype` and `reason` as in `train/device.py`; if torch cannot be
    loaded, only `fault`."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            COMMAND,
            capture_output=True,
            encoding="utf-8",
            timeout=_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"fault": f"torch was not loaded within {_SECONDS:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"fault": lines[-1] if lines else f"it ended with code {done.returncode}"}
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found
