"""Without torch, transformers, peft, Optuna and numpy: estimates and queries answer, and commands
that train name what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

BLOCKED = """
import contextlib, importlib.abc, io, json, sys
from vram_search import extras

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in extras._PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
extras.find_spec = lambda name: None
from vram_search.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["vram-search", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue()]))
"""


def light(*commands: list[str]) -> list[tuple[int, str]]:
    """Runs commands in one process where the packages of the extra `train` cannot be imported;
    returns exit code and output of each."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(code, text) for code, text in map(json.loads, done.stdout.splitlines())]


def test_estimates_and_queries_answer_and_training_names_what_to_install(
    vram_search_without_training: Cli, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    file, report = str(write_study()), tmp_path / "report.html"
    assert vram_search_without_training("run", file, "--trials", 2).returncode == 0
    card = ["--model", "qwen2.5-3b", "--card", "rtx-5060-ti-16gb"]
    queries = [
        ["estimate", *card],
        ["estimate", file],
        ["fit", *card],
        *(["best"], ["top", "--all"], ["show", "0"], ["why", "0"], ["compare", "0", "1"]),
        *(["pareto"], ["report", "-o", str(report)]),
    ]
    training = [["run", file], ["train", "best"], ["samples", "best"], ["demo"]]
    found = light(*queries, *training, ["doctor"])
    for (code, text), command in zip(found, queries, strict=False):
        assert code == 0, (command, text)
    _, report_of_doctor = found.pop()
    assert report_of_doctor.startswith("vram-search ") and "database" in report_of_doctor
    for code, text in found[len(queries) :]:
        assert code == 2 and "needs the package" in text, text
        assert "remedy: pip install 'vram-search[train]'" in text
    assert "Use trial" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--batch", "1"], 0), (["--batch", "8"], 1)],
)
def test_estimate_check_refuses_what_does_not_fit(
    vram_search_without_training: Cli, options: list[str], code: int
) -> None:
    card = ["--card", "rtx-5060-ti-16gb"]
    done = vram_search_without_training("estimate", "--model", "qwen2.5-3b", *card, *options)
    assert done.returncode == 0
    done = vram_search_without_training(
        "estimate", "--model", "qwen2.5-3b", *card, *options, "--check", "--json"
    )
    assert done.returncode == code


def test_fit_check_refuses_a_card_on_which_nothing_fits(vram_search_without_training: Cli) -> None:
    fits = ["fit", "--model", "qwen2.5-3b", "--card", "rtx-5060-ti-16gb", "--check"]
    assert vram_search_without_training(*fits).returncode == 0
    too_large = ["fit", "--model", "llama-3.1-70b", "--card", "rtx-3060-12gb", "--check"]
    assert vram_search_without_training(*too_large).returncode == 1
