"""Answers for training files that people reported, of an earlier version and of this one.

    python -m bench.recipes.cases FOLDER [--before CHECKOUT]

FOLDER holds a folder for each case, with a `cmd.txt` whose first line is
`vram-search estimate FILE --card CARD`, run from FOLDER. CHECKOUT is a checkout of the earlier
version. Prints a Markdown table: required bytes and the card's context, and the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.units import GIB

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reported:
    """A training that somebody reported, and what became of it."""

    what: str
    source: str
    gib: float | None = None
    """None if only the outcome is known."""
    outcome: str = ""
    is_reserved: bool = False
    """The size is torch's reserved memory (Axolotl's log), without the card's context."""


def _axolotl(what: str, example: str, gib: float) -> Reported:
    """A size that the README of one of Axolotl's examples states, from its log."""
    return Reported(what, f"axolotl examples/{example}", gib, is_reserved=True)


REPORTED = {
    "A01": _axolotl("Qwen3-4B QLoRA r32, 2 x 2048, CCE", "plano", 5.1),
    "A04": _axolotl("Hunyuan-0.5B QLoRA, CCE", "hunyuan", 4.7),
    "A05": _axolotl("Ministral-8B QLoRA, CCE", "ministral", 8.76),
    "A06": _axolotl("Devstral-24B QLoRA, CCE", "devstral", 21.0),
    "A08": _axolotl("MiMo-7B QLoRA", "mimo", 17.2),
    "A09": _axolotl("Apertus-8B QLoRA, CCE", "apertus", 8.7),
    "A11": _axolotl("gpt-oss-20b LoRA", "gpt-oss", 44.0),
    "A12": _axolotl("Llama-2-7B QLoRA, 2 x 4096", "llama-2, 2023", 17.0),
    "A14": Reported("Yi-34B QLoRA r32, 1 x 1024", "axolotl#1127", outcome="runs on 24 GB"),
    "A16b": _axolotl("Qwen3-Next-80B, experts in 4 bits", "qwen3-next", 47.0),
    "A20": Reported("Llama-3-70B GPTQ on A10G", "LlamaFactory#4559", outcome="out of memory"),
    "A21": Reported(
        "Llama-3.3-70B AWQ on L40S", "LlamaFactory#6827", outcome="trains, out of memory later"
    ),
    "A23": Reported("8B reward model on T4", "LlamaFactory#5077", outcome="out of memory"),
    "A24": Reported("glm-4-9b-chat, cutoff 10240", "LlamaFactory#4772", 72.0),
    "A25a": Reported("Qwen2-7B bf16 LoRA, 1 x 1024", "LlamaFactory#7409", 17.9),
    "A25b": Reported("the same, 1 x 2048", "LlamaFactory#7409; ms-swift: 22 GB", 20.5),
    "A40": Reported("Qwen2.5-7B int8 LoRA, 2 x 2048", "LlamaFactory#4772, keys", 18.5),
    "A44": Reported("Qwen2.5-7B, trained embeddings", "peft#2376", outcome="does not fit 16 GB"),
}


def answer(folder: Path, case: str, checkout: Path) -> dict[str, Any] | str:
    """The first plan of a version's answer, or its refusal."""
    command = (folder / case / "cmd.txt").read_text(encoding="utf-8").splitlines()[0]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vram_search", *shlex.split(command)[1:], "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == 2:
        return done.stderr.splitlines()[0].removeprefix("error: ")
    result = json.loads(done.stdout)
    plan: dict[str, Any] = result["plans"][0] if "plans" in result else result
    return plan


def words_of(plan: dict[str, Any] | str) -> str:
    """GiB of the process and the verdict: "4.6 GiB, fits"."""
    if isinstance(plan, str):
        return "refused"
    verdict = {True: "fits", False: "does not fit", None: "not known"}[plan["fits"]]
    return f"{(plan['required_bytes'] + plan['context_bytes']) / GIB:.1f} GiB, {verdict}"


def reported_words(reported: Reported) -> str:
    """The reported size and outcome."""
    size = "" if reported.gib is None else f"{reported.gib:g} GiB"
    return ", ".join(words for words in (size, reported.outcome) if words)


def difference(reported: Reported, plan: dict[str, Any] | str) -> str:
    """Of the predicted bytes from the reported ones: reserved, or required and the context."""
    if reported.gib is None or isinstance(plan, str):
        return ""
    required = plan["required_bytes"] + plan["context_bytes"]
    predicted = plan["reserved_bytes"] if reported.is_reserved else required
    return f"{predicted / GIB / reported.gib - 1:+.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the cases")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    arguments = parser.parse_args()
    heads = ["case", "training", "reported", *(["before"] if arguments.before else [])]
    print(f"| {' | '.join([*heads, 'now', 'difference'])} |")
    print("| --- " * (len(heads) + 2) + "|")
    for case, reported in REPORTED.items():
        if not (arguments.folder / case / "cmd.txt").is_file():
            continue
        row = [case, f"{reported.what} ({reported.source})", reported_words(reported)]
        if arguments.before:
            row.append(words_of(answer(arguments.folder, case, arguments.before.resolve())))
        now = answer(arguments.folder, case, ROOT)
        print(f"| {' | '.join([*row, words_of(now), difference(reported, now)])} |")


if __name__ == "__main__":
    main()
