"""Searches one model of each of many families on the GPU: predicted bytes beside measured bytes.

    python -m bench.gpu_families [--seconds 500] [--out FILE.json] [NAME ...]
    python -m bench.gpu_families qwen3.5-0.8b qwen3.5-0.8b+liger

Each model has random weights of its shipped shape, so its bytes are those of the real weights. The
search is `vram-search run` with one trial; a name that ends in `+liger` trains with Liger's
kernels, any other without. The seconds are those from the start of the command to the start of the
trial (imports, trace, plan, loading), and of the whole command. It also compares the adapter's
modules with those that LLaMA-Factory's `all` finds in the model's own code. Needs a GPU; on a CPU
it only shows that a model trains.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from vram_search.resources import shipped

FAMILIES = (
    "lfm2-1.2b",
    "falcon-h1-0.5b",
    "granite-4.0-h-350m",
    "stablelm-2-1.6b",
    "starcoder2-3b",
    "phi-2",
    "pythia-1b",
    "ernie-4.5-0.3b",
    "gemma-3-4b",
    "gemma-4-e2b",
    "qwen3.5-4b",
    "qwen2.5-vl-3b",
    "qwen3-vl-2b",
    "smolvlm2-500m",
    "ministral-3-3b",
    "olmoe-1b-7b",
    "granite-3.1-1b-a400m",
)
"""Shapes without a formula, and models with several parts."""
WITH_LIGER = "+liger"
SECONDS_A_MODEL = 280
FORBIDDEN = (
    "lm_head",
    "visual",
    "vision_tower",
    "vision_model",
    "audio_tower",
    "multi_modal_projector",
    "connector",
    "embed_vision",
    "embed_audio",
)
"""Names of heads, towers and projectors (LLaMA-Factory 0.9.5, `model_utils/misc.py` and
`visual.py`)."""
_WORDS = "memory of a card is full when many long rows are trained at once "


def study(name: str, folder: Path) -> dict[str, Any]:
    """Returns a study of one trial with rows longer than its cutoff."""
    slug = name.removesuffix(WITH_LIGER)
    rows = [{"instruction": f"Say {n}.", "output": _WORDS * 10} for n in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {
        "study": slug,
        "model": {"weights": "random", "shape": slug},
        "dataset": {"train": "rows.jsonl", "val_size": 4},
        "card": "24GB",
        "search_space": {
            "optim": ["adamw_8bit"],
            "lora_target": ["all"],
            "lora_rank": [16],
            "cutoff_len": [512],
            "batch_size": [2],
            "learning_rate": {"min": 1e-4, "max": 2e-4},
        },
        "training": {"max_steps": 4, "rungs": [0.5]},
        "plan": {"enable_liger_kernel": name.endswith(WITH_LIGER)},
        "budget": {"trials": 1},
    }


def found_by_llamafactory(name: str) -> set[str]:
    """Returns the modules of LLaMA-Factory's `find_all_linear_modules`, from transformers' class.

    torch and transformers are imported here, so that the table alone needs neither.
    """
    import torch
    from transformers import AutoConfig

    from vram_search.model_code.build import auto_class

    config = AutoConfig.from_pretrained(shipped("configs", "models", name))
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    return {
        within_text(module_name)
        for module_name, module in model.named_modules()
        if "Linear" in type(module).__name__
        and "Embedding" not in type(module).__name__
        and not any(forbidden in module_name for forbidden in FORBIDDEN)
    }


def within_text(module_name: str) -> str:
    """Returns a module's name from its layer on: wrappers put other names before it."""
    where = module_name.find("layers.")
    return module_name[where:] if where >= 0 else module_name.rpartition(".")[2]


def adapted(folder: Path) -> set[str]:
    """Returns the modules that an adapter's file has matrices for."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    return {within_text(key.removesuffix(".lora_A.weight")) for key in keys if ".lora_A." in key}


def compare_modules(name: str, adapter: str | None) -> dict[str, Any]:
    """Returns how many modules got an adapter, and which differ from LLaMA-Factory's."""
    if adapter is None:
        return {}
    trained, expected = adapted(Path(adapter)), found_by_llamafactory(name)
    return {
        "count": len(trained),
        "missing": sorted(expected - trained),
        "additional": sorted(trained - expected),
    }


def measure(name: str) -> dict[str, Any]:
    """Runs the search of one model and returns its first trial with the end of its output."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as text:
        folder = Path(text)
        file = folder / "study.yaml"
        file.write_text(yaml.safe_dump(study(name, folder)))
        environment = {**os.environ, "VRAM_SEARCH_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "vram_search"]
        began, start = time.monotonic(), datetime.now(UTC)
        try:
            run = subprocess.run(
                [*command, "run", str(file)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS_A_MODEL,
            )
            output, code = run.stdout, run.returncode
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
            code = 124
        seconds = round(time.monotonic() - began, 1)
        shown = subprocess.run(
            [*command, "show", "0", "--json"], env=environment, capture_output=True, text=True
        )
        trial = json.loads(shown.stdout)["trial"] if shown.returncode == 0 else {}
        modules = compare_modules(name.removesuffix(WITH_LIGER), trial.get("adapter_path"))
        trial_start = trial.get("started_at")
    return {
        "model": name,
        "exit_code": code,
        "seconds": seconds,
        "seconds_to_trial": None
        if trial_start is None
        else round((datetime.fromisoformat(trial_start) - start).total_seconds(), 1),
        "seconds_by_phase": trial.get("seconds"),
        "outcome": trial.get("outcome"),
        "predicted": trial.get("predicted", {}),
        "measured": trial.get("measured", {}),
        "plan": trial.get("plan"),
        "modules": modules,
        "output": output[-3000:],
    }


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the table as Markdown; bytes in GiB."""
    yield "| model | outcome | predicted | measured | difference | modules | to trial | seconds |"
    yield "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |"
    for row in rows:
        predicted = row["predicted"].get("allocated_bytes")
        measured = (row["measured"] or {}).get("allocated_bytes")
        cells = [row["model"], str(row["outcome"] or f"exit code {row['exit_code']}")]
        cells += ["?" if each is None else f"{each / 2**30:.3f}" for each in (predicted, measured)]
        known = predicted and measured
        cells.append(f"{(predicted / measured - 1) * 100:+.2f} %" if known else "")
        cells += [_module_words(row["modules"]), str(row["seconds_to_trial"]), str(row["seconds"])]
        yield f"| {' | '.join(cells)} |"


def _module_words(modules: dict[str, Any]) -> str:
    if not modules:
        return "no adapter"
    missing, additional = len(modules["missing"]), len(modules["additional"])
    equal = not missing and not additional
    words = "equal" if equal else f"{missing} missing, {additional} additional"
    return f"{modules['count']}, {words}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=FAMILIES, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=500, help="start no model after this time")
    parser.add_argument("--out", type=Path, help="JSON with everything that was recorded")
    arguments = parser.parse_args()
    began, rows = time.monotonic(), []
    for name in arguments.names:
        if time.monotonic() - began > arguments.seconds:
            break
        rows.append(measure(name))
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=1))
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
