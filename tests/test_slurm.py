"""The example job for SLURM: its syntax, and the commands that its tasks run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

JOB = Path(__file__).parents[1] / "configs" / "slurm" / "workers.sh"
pytestmark = pytest.mark.skipif(
    os.name == "nt" or shutil.which("bash") is None, reason="SLURM runs on Linux"
)
ENVIRONMENT = {"STUDY": "a study.yaml", "NAME": "a", "VRAM_SEARCH_DATABASE": "postgresql://m@s/d"}


def tasks(folder: Path, task: int, codes: str = "0", **environment: str) -> list[str]:
    """Runs the job's script for one task, and returns the commands of ours that it has run.

    Args:
        codes: exit codes of our commands, in their order.
    """
    log, rest = folder / "commands", folder / "codes"
    log.write_text("")
    rest.write_text(codes.replace(" ", "\n") + "\n")
    programs = {
        "vram-search": f'echo "$*" >> "{log}"\n'
        f'code=$(head -1 "{rest}"); sed -i 1d "{rest}"; exit $code',
        "srun": 'shift; exec "$@"',
        "sleep": "exit 0",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", JOB],
        env={"PATH": path, "SLURM_PROCID": str(task), **ENVIRONMENT, **environment},
        check=False,
        capture_output=True,
    )
    return log.read_text().splitlines()


def test_job_file_is_valid_bash_and_asks_for_a_gpu_for_each_task() -> None:
    subprocess.run(["bash", "-n", JOB], check=True)
    assert re.search(r"^#SBATCH --gpus-per-task=1$", JOB.read_text(), re.MULTILINE)


def test_first_task_runs_the_study_and_the_others_join_it(tmp_path: Path) -> None:
    assert tasks(tmp_path, 0) == ["run a study.yaml --hours 9.8"]
    assert tasks(tmp_path, 1) == ["worker --study a --hours 9.8"]
    assert tasks(tmp_path, 0, RUN="0") == ["worker --study a --hours 9.8"]


def test_worker_waits_until_the_study_is_recorded_and_no_longer(tmp_path: Path) -> None:
    assert len(tasks(tmp_path, 1, "2 2 0")) == 3
    assert len(tasks(tmp_path, 1, "1 0")) == 1, "an error is not tried again"


def test_job_without_a_database_runs_nothing(tmp_path: Path) -> None:
    assert tasks(tmp_path, 1, VRAM_SEARCH_DATABASE="") == []
