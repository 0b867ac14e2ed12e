"""Exports of generated trials through the parsers of the tools that train them.

`make export-check` calls it. Each tool gets an environment of its own under build/export-check, or
under the folder given as the first argument. Nothing is trained and no GPU is needed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vram_search.data import Example, Rows
from vram_search.export import TOOLS, Tool, parse_export, write_export
from vram_search.export.fields import LORA_MODULES
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.study import StudySpec
from vram_search.store import StudyRecord, TrialRecord

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 240

TORCH = "torch==2.13.0"  # asked for by name, since a range may pull CUDA's gigabytes
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # Each a `pip install`; --no-deps leaves out what compiles or brings CUDA and no parser imports.
    "llama-factory": (
        (TORCH,),
        (
            *("transformers==5.6.0", "datasets==4.0.0", "accelerate==1.11.0", "peft==0.18.1"),
            *("trl==0.24.0", "torchdata==0.11.0", "gradio", "matplotlib", "tyro<0.9.0", "einops"),
            *("numpy", "pandas", "scipy", "sentencepiece", "tiktoken", "modelscope", "hf-transfer"),
            *("safetensors", "av", "fire", "omegaconf", "packaging", "protobuf", "pyyaml"),
            *("pydantic", "uvicorn", "fastapi", "sse-starlette", "bitsandbytes"),
        ),
        ("--no-deps", "llamafactory==0.9.5"),
    ),
    "axolotl": (
        (TORCH,),
        (
            *("transformers==5.16.1", "peft==0.20.0", "accelerate==1.13.0", "datasets==4.8.4"),
            *("trl==1.9.0", "pydantic==2.12.5", "typer==0.25.1", "posthog==6.7.11", "addict"),
            *("requests", "fire", "pyyaml", "python-dotenv", "colorama", "bitsandbytes==0.50.2"),
            *("nvidia-ml-py", "psutil", "art", "scipy", "einops", "numba", "pillow"),
        ),
        ("--no-deps", "axolotl==0.19.0", "liger-kernel==0.8.1", "axolotl-contribs-lgpl==0.0.7"),
    ),
    "trl": ((TORCH,), ("trl==1.16.0", "peft==0.21.2", "bitsandbytes==0.50.2")),
    # Importing it needs a GPU: its source is read instead.
    "unsloth": (("--no-deps", "unsloth==2026.10.9", "pyyaml"),),
}
"""peft is checked with the environment that runs this."""

MODELS = (
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen3-4B",
    "meta-llama/Llama-3.2-1B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "google/gemma-2-2b-it",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
)

WRONG: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("lora_rank", "lora_r", "lora.r"), -8),
    (("lora_alpha", "lora.lora_alpha"), 0),
    (("lora_target", "lora_target_modules", "lora.target_modules"), "nonexistent"),
    (
        (
            *("per_device_train_batch_size", "micro_batch_size"),
            "training.per_device_train_batch_size",
        ),
        0,
    ),
    (("gradient_accumulation_steps", "training.gradient_accumulation_steps"), -1),
    (("cutoff_len", "sequence_len", "max_length", "rows.cutoff_len"), 0),
    (("learning_rate", "training.learning_rate"), -1.0),
    (("max_steps", "training.max_steps"), 0),
    (("warmup_steps", "training.warmup_steps"), -5),
    (("optim", "optimizer", "training.optim"), "adam_of_the_moon"),
    (("unheard_of",), 1),
)
"""Keys, of which each tool has one, and a value that no training makes sense with."""


@dataclass(frozen=True)
class Answer:
    """What a tool's parser said: file name -> fault, empty where it accepts the file."""

    generated: dict[str, str]
    wrong: dict[str, str]


def main(environments: Path) -> int:
    """Prints a table; 1 where a parser refuses an export or our schema lets a wrong value pass."""
    print("| format | generated | accepted | wrong values | the parser refuses | ours refuses |")
    print("| --- | --- | --- | --- | --- | --- |")
    failures = []
    for name, tool in TOOLS.items():
        with tempfile.TemporaryDirectory(prefix="export-check-") as folder:
            target = Path(folder)
            generated = generate(name, target)
            wrong = write_wrong(target, generated[0])
            ours = {file.name: bool(checked(tool, file)) for file in wrong}
            answer = ask_parser(name, environments, target, generated, wrong)
        refused = {file: fault for file, fault in answer.generated.items() if fault}
        passed = [file for file, is_refused in ours.items() if not is_refused]
        by_parser = sum(bool(fault) for fault in answer.wrong.values())
        print(
            f"| {tool.title} | {len(generated)} | {len(generated) - len(refused)} | {len(wrong)} "
            f"| {by_parser} | {len(wrong) - len(passed)} |",
            flush=True,
        )
        failures += [f"{name}: {file}: {fault}" for file, fault in list(refused.items())[:5]]
        failures += [f"{name}: our schema accepts {file}" for file in passed]
        failures += [] if generated else [f"{name}: nothing was generated"]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def checked(tool: Tool, file: Path) -> list[Any]:
    return tool.check(yaml.safe_load(file.read_text(encoding="utf-8")), LORA_MODULES)


def generate(name: str, target: Path) -> list[Path]:
    """Exports in `target`, each of which reads back as the trial it came from."""
    files = []
    for study, trial, rows in trials(target):
        paths = write_export(study, trial, rows, target, to=name)
        back = parse_export(TOOLS[name], paths[0].read_text(encoding="utf-8"))
        assert trial.plan is not None
        size = back["plan"]["per_device_eval_batch_size"]  # smaller where the tool's would not fit
        assert size <= trial.plan["per_device_eval_batch_size"], paths[0]
        assert back == {
            "hyperparameters": trial.hyperparameters,
            "plan": trial.plan | {"per_device_eval_batch_size": size},
            "seed": trial.seed,
        }, paths[0]
        files.append(paths[0])
    return files


def trials(folder: Path) -> Iterator[tuple[StudyRecord, TrialRecord, Rows]]:
    """Points of the whole space, the same ones on every call."""
    conftest = _load_conftest()
    rows = _rows()
    draw = random.Random(7)
    (folder / "rows.json").write_text("[]", encoding="utf-8")
    for number in range(TRIALS):
        old_card = number % 7 == 3
        card = conftest.CARD | ({"compute_capability": "7.5"} if old_card else {})
        spec = StudySpec.model_validate(
            {
                "study": f"s{number}",
                "model": {"model_name_or_path": MODELS[number % len(MODELS)]},
                "dataset": {"train": str(folder / "rows.json")},
                "card": card,
                "search_space": {"cutoff_len": [256, 1024]},
                "training": {
                    "lr_scheduler_type": draw.choice(
                        ["cosine", "linear", "constant", "constant_with_warmup"]
                    ),
                    "warmup_ratio": draw.choice([0.0, 0.03, 0.1]),
                    "weight_decay": draw.choice([0.0, 0.01]),
                    "max_grad_norm": draw.choice([0.3, 1.0]),
                },
            }
        ).model_dump(mode="json")
        trial = conftest.recorded_trial()
        when = trial.started_at
        study = StudyRecord(1, f"s{number}", when, when, 1, spec, "d1", spec["card"], {})
        steps = draw.choice([2, 7, 90, 97, 100, 1000])
        micro_batch, accumulation = draw.choice([1, 2, 3, 8]), draw.choice([1, 2, 5, 16])
        trial = replace(
            trial,
            number=number,
            seed=draw.randrange(2**31),
            steps_total=steps,
            eval_loss_step=draw.choice([steps, max(1, round(steps / 3))]),
            hyperparameters={
                "optim": draw.choice(sorted(OPTIMIZERS)),
                "lora_target": draw.choice([*LORA_TARGET_SETS, "down_proj", "k_proj,up_proj"]),
                "lora_rank": draw.choice([1, 4, 7, 64, 1024]),
                "lora_alpha": draw.choice([1, 8, 128]),
                "cutoff_len": draw.choice([16, 256, 1000]),
                "batch_size": micro_batch * accumulation,
                "learning_rate": 10 ** draw.uniform(-6, -2),
            },
            plan={
                "per_device_train_batch_size": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "gradient_checkpointing": draw.random() < 0.5,
                "enable_liger_kernel": draw.random() < 0.3,
                "per_device_eval_batch_size": draw.choice([1, 8]),
                "expandable_segments": draw.random() < 0.5,
            },
        )
        yield study, trial, rows


def _load_conftest() -> Any:
    """The record that the tests of the exports share."""
    spec = importlib.util.spec_from_file_location("c", ROOT / "tests" / "export" / "conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows() -> Rows:
    def ask(number: int) -> Example:
        question = f"What is {number} + {number}?"
        return Example((("user", question), ("assistant", f"{2 * number}, voilà.")))

    return Rows(tuple(ask(n) for n in range(20)), tuple(ask(n) for n in range(20, 25)), "d1")


def write_wrong(folder: Path, good: Path) -> list[Path]:
    """Copies of an export, each with one value that makes no sense."""
    files = []
    for keys, value in WRONG:
        config = yaml.safe_load(good.read_text(encoding="utf-8"))
        key = next((key for key in keys if _holder(config, key) is not None), keys[0])
        holder, last = _holder(config, key) or config, key.rpartition(".")[2]
        holder[last] = [value] if isinstance(holder.get(last), list) else value
        files.append(folder / f"wrong-{last}.yaml")
        files[-1].write_text(yaml.safe_dump(config), encoding="utf-8")
    return files


def _holder(config: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The mapping that has a dotted key's last part."""
    outer, _, last = key.rpartition(".")
    holder = config.get(outer) if outer else config
    return holder if isinstance(holder, dict) and last in holder else None


def ask_parser(
    name: str, environments: Path, folder: Path, generated: list[Path], wrong: list[Path]
) -> Answer:
    """Runs `export_parsers/<tool>.py` in the tool's environment."""
    python = environment(name, environments) if name in ENVIRONMENTS else Path(sys.executable)
    answers = folder / "answers.json"
    files = [path.name for path in (*generated, *wrong)]
    (folder / "files.json").write_text(json.dumps(files), encoding="utf-8")
    script = ROOT / "tests" / "export_parsers" / f"{name.replace('-', '')}.py"
    done = subprocess.run(
        [str(python), str(script)],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hub"),
            "AXOLOTL_DO_NOT_TRACK": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    said = json.loads(answers.read_text(encoding="utf-8"))
    assert set(said) == set(files), "the parser left files out"
    return Answer({f.name: said[f.name] for f in generated}, {f.name: said[f.name] for f in wrong})


def environment(name: str, environments: Path) -> Path:
    """The tool's interpreter; installed once."""
    folder = environments / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True)
        for requirements in ENVIRONMENTS[name]:
            install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
            subprocess.run(install, check=True)
        (folder / "installed").touch()
    return python


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "export-check")))
