"""Writes the model card (README.md) of an adapter or a merged model, as the Hub reads it.

The head is YAML (https://huggingface.co/docs/hub/model-cards#model-card-metadata). A licence is
left out: it is the base model's and the data's, which are not known here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import yaml

from vram_search import __version__
from vram_search.answers.adapter import KeptAdapter
from vram_search.report.words import hyperparameter_words, plan_words
from vram_search.resources import shell_word
from vram_search.spec.hub_names import HUB_NAME
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store.adapter_files import CONFIG, WEIGHTS
from vram_search.units import format_bytes, format_duration

Kind = Literal["adapter", "merged"]
CARD = "README.md"
_MARKDOWN = re.compile(r"[\\`*<\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Characters that Markdown does not show; an underscore inside a word is shown."""


def write_adapter(
    adapter: KeptAdapter, untuned: float | None, folder: Path, base: str | None = None
) -> None:
    """Copies a kept adapter into an empty folder, with its card.

    The copy names the base model as the Hub knows it, if it does.

    Args:
        base: hub name of the base model; None: the one that was loaded by it, if it was.
    """
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(adapter.folder / name, folder / name)
    base = base or base_model(adapter)
    if base is not None:
        file = folder / CONFIG
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / CARD).write_text(model_card(adapter, "adapter", untuned, base=base), "utf-8")


def write_card(
    adapter: KeptAdapter,
    kind: Kind,
    untuned: float | None,
    folder: Path,
    merged_loss: float | None = None,
) -> None:
    """Writes the card into a folder."""
    text = model_card(adapter, kind, untuned, merged_loss)
    (folder / CARD).write_text(text, encoding="utf-8")


def upload_line(folder: Path, name: str) -> str:
    """Returns the command that uploads a folder to the Hub."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    name = re.sub(r"([.-])\1+", r"\1", name)  # the Hub refuses `--` and `..`
    return f"hf upload YOUR-NAME/{name} {shell_word(folder)}"


def base_model(adapter: KeptAdapter) -> str | None:
    """Returns the base model's name on the Hub; None if it was read from a file or folder."""
    named = adapter.study.spec["model"].get("model_name_or_path")
    is_hub_name = named is not None and HUB_NAME.fullmatch(named) and not Path(named).exists()
    return str(named) if is_hub_name else None


def model_card(
    adapter: KeptAdapter,
    kind: Kind,
    untuned: float | None,
    merged_loss: float | None = None,
    *,
    base: str | None = None,
) -> str:
    """Returns the card as Markdown with a YAML head.

    Args:
        untuned: eval_loss of the base model without the adapter; None if unknown.
        merged_loss: eval_loss of the merged model; None if it was not measured.
        base: hub name of the base model; None: the one that was loaded by it, if it was.
    """
    base = base or base_model(adapter)
    head = yaml.safe_dump(metadata(adapter, kind, base), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---\n",
        f"# {adapter.name}\n",
        f"{_first_sentence(adapter, kind, base)}\n",
        f"## Use\n\n{_usage(adapter, kind)}\n",
        "## Evaluation\n",
        "eval_loss is the mean loss per answer token (nats) on rows that were held out; lower is "
        "better.\n",
        _table(("model", "eval_loss"), _losses(adapter, untuned, merged_loss)),
        "## Training\n",
        _table(("setting", "value"), _settings(adapter)),
        "## How to reproduce\n",
        _reproduce(adapter),
    ]
    return "\n".join(parts)


def metadata(adapter: KeptAdapter, kind: Kind, base: str | None = None) -> dict[str, Any]:
    """Returns the head of the card; `base` as in `model_card`."""
    base = base or base_model(adapter)
    found: dict[str, Any] = {}
    if base is not None:
        found["base_model"] = base
        found["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    found["library_name"] = "peft" if kind == "adapter" else "transformers"
    found["pipeline_tag"] = "text-generation"
    found["tags"] = ["lora", "qlora", "sft", "vram-search"]
    if datasets := _hub_datasets(adapter):
        found["datasets"] = datasets
    return found


def _hub_datasets(adapter: KeptAdapter) -> list[str]:
    train = adapter.study.spec["dataset"]["train"]
    entries = [train] if isinstance(train, str) else train
    names = [entry if isinstance(entry, str) else str(entry.get("path")) for entry in entries]
    return [n for n in names if HUB_NAME.fullmatch(n) and "/" in n and not Path(n).exists()]


def _first_sentence(adapter: KeptAdapter, kind: Kind, base: str | None) -> str:
    base = base or _escaped(str(adapter.study.model.get("name", "its base model")))
    if kind == "adapter":
        return f"A LoRA adapter for {base}, trained with QLoRA (the base in NF4)."
    return f"{base} with a LoRA adapter merged into its 16-bit weights."


def _usage(adapter: KeptAdapter, kind: Kind) -> str:
    if kind == "merged":
        return (
            "```python\nfrom transformers import pipeline\n\n"
            'chat = pipeline("text-generation", model=".")\n'
            'print(chat([{"role": "user", "content": "..."}], max_new_tokens=200))\n```\n'
        )
    return (
        "```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import "
        "BitsAndBytesConfig\n\nquantized = BitsAndBytesConfig(\n    load_in_4bit=True, "
        'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True\n)\n'
        'model = AutoPeftModelForCausalLM.from_pretrained(".", quantization_config=quantized)\n'
        "```\n"
    )


def _losses(
    adapter: KeptAdapter, untuned: float | None, merged_loss: float | None
) -> Iterator[tuple[str, str]]:
    if untuned is not None:
        yield "base model, untuned (NF4)", f"{untuned:.4f}"
    if adapter.eval_loss is not None:
        yield "base model in NF4 with this adapter", f"{adapter.eval_loss:.4f}"
    if merged_loss is not None:
        yield "merged model (bf16)", f"{merged_loss:.4f}"


def _settings(adapter: KeptAdapter) -> Iterator[tuple[str, str]]:
    trial, run, study = adapter.trial, adapter.run, adapter.study
    hp = trial.hyperparameters
    for dimension in DIMENSIONS:
        value = dimension.value_in(hp)
        if not dimension.is_optional or value != dimension.default:
            yield dimension.name, str(value)
    if run is None:
        yield "optimizer steps", f"{trial.eval_loss_step} of {trial.steps_total} (best checkpoint)"
    else:
        yield "optimizer steps", f"{run.eval_loss_step} of {run.steps_total} (best checkpoint)"
        if run.epochs is not None:
            yield "epochs", f"{run.epochs:g}"
    training = study.spec.get("training", {})
    kind, warmup = (
        training.get(name) if hp.get(name) is None else hp[name]
        for name in ("lr_scheduler_type", "warmup_ratio")
    )
    yield "schedule", f"{kind}, warm-up {warmup}"
    yield "seed", str(adapter.seed)
    source = trial if run is None else run
    yield "memory plan", plan_words(source.plan)
    for name, figures in (("predicted", source.predicted), ("measured", source.measured)):
        size = (figures or {}).get("allocated_bytes")
        if size is not None:
            yield f"peak allocated bytes, {name}", format_bytes(size)
    yield "device", str(source.device)
    seconds = sum((source.seconds or {}).values())
    yield "training time", format_duration(seconds)
    names = [_escaped(_file_name(name)) for name in _entries(adapter)]
    yield "data", f"{', '.join(names)}; hash {source.data_hash}"
    yield "versions", ", ".join(f"{n} {v}" for n, v in (source.versions or {}).items())


def _file_name(entry: str) -> str:
    """Returns a file's name without its folder, also of a study that Windows recorded, and a data
    set's whole name on the Hub."""
    return entry if HUB_NAME.fullmatch(entry) else PureWindowsPath(entry).name or entry


def _entries(adapter: KeptAdapter) -> list[str]:
    train = adapter.study.spec["dataset"]["train"]
    entries = [train] if isinstance(train, str) else train
    return [entry if isinstance(entry, str) else str(entry.get("path")) for entry in entries]


def _reproduce(adapter: KeptAdapter) -> str:
    number, name = adapter.trial.number, adapter.study.name
    return (
        f"Found by [vram-search](https://pypi.org/project/vram-search/) {__version__}, study "
        f"{name}, trial {number} ({hyperparameter_words(adapter.trial.hyperparameters)}). With the "
        "study's database:\n\n"
        f"```sh\nvram-search export {number} --study {name}   # YAML for LLaMA-Factory; --to "
        f"axolotl, trl, unsloth, peft\nvram-search train {number} --study {name}    # trains it "
        "again\n```\n"
    )


def _escaped(name: str) -> str:
    """Returns a name that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", name)


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
