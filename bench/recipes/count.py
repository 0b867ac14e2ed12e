"""Counts how many training files of a folder are read, and lists the reasons for the others.

    python -m bench.recipes.count ../axolotl/examples
    python -m bench.recipes.count ../LLaMA-Factory/examples --model qwen2.5-0.5b

The folder is a checkout of the tool; none of its files are part of this project. Files with an
adapter (LoRA, QLoRA or OFT) are counted, with `--all` every file of a tool that is read. A file
whose model is not found is read, and listed apart: `estimate` says what it trains. With
HF_HUB_OFFLINE=1 the hub is not asked for a model's config.json.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vram_search.errors import InputError, ModelNotFoundError
from vram_search.estimate.recipes.find_training import load_mapping
from vram_search.estimate.recipes.load import load_recipe, load_without_model
from vram_search.tools.detect import READ, tool_of

MODEL_KEYS = ("base_model", "model_name_or_path", "model")
SUFFIXES = (".yaml", ".yml", ".json")
WITHOUT_MODEL = "its model is not found"
"""The answer for a file that is read, but not its model."""


def files_of_tools(
    folder: Path, *, with_all: bool = False
) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """The training files in a folder that train an adapter, or all of a tool, and their keys."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        try:
            values = load_mapping(path)
        except InputError:  # a file with tags, or a list
            continue
        if tool_of(values) in READ if with_all else trains_adapter(values):
            yield path, values


def trains_adapter(values: dict[Any, Any]) -> bool:
    """Tells whether a file is Axolotl's with an adapter, or LLaMA-Factory's with LoRA or OFT."""
    if "base_model" in values:
        return values.get("adapter") in ("lora", "qlora")
    peft_config = values.get("peft_config")  # of LLaMA-Factory's v1 trainer
    if isinstance(peft_config, dict):
        return peft_config.get("name") == "lora"
    return "model_name_or_path" in values and values.get("finetuning_type") in ("lora", "oft")


def refusal(path: Path, values: dict[Any, Any], model: str | None) -> str:
    """The message with which a file is refused; WITHOUT_MODEL or empty if it is read.

    Args:
        model: a model that is put in the place of the file's own.
    """
    if model is None:
        return _refusal(path)
    replaced = {key: model if key in MODEL_KEYS else value for key, value in values.items()}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "recipe.yaml"
        copy.write_text(yaml.safe_dump(replaced, sort_keys=False), encoding="utf-8")
        return _refusal(copy)


def _refusal(path: Path) -> str:
    try:
        try:
            load_recipe(path)
        except ModelNotFoundError:
            load_without_model(path)
            return WITHOUT_MODEL
    except InputError as error:
        return error.message.removeprefix(f"{path}: ")
    return ""


def kind_of(message: str) -> str:
    """A refusal without its values, so that equal kinds are counted together."""
    return re.sub(r"'[^']*'|\[[^\]]*\]", "...", message)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a tool's folder of examples")
    parser.add_argument("--model", help="put this model in the place of every file's own")
    parser.add_argument("--all", action="store_true", help="every file of a tool that is read")
    arguments = parser.parse_args()
    kinds: Counter[str] = Counter()
    refused: dict[str, list[str]] = defaultdict(list)
    for path, values in files_of_tools(arguments.folder, with_all=arguments.all):
        message = refusal(path, values, arguments.model)
        kind = kind_of(message)
        kinds[kind] += 1
        if message:
            name = next((str(values[key]) for key in MODEL_KEYS if values.get(key)), "")
            refused[kind].append(
                f"{path.relative_to(arguments.folder).as_posix()}: {name}: {message}"
            )
    total = kinds.total()
    which = "files" if arguments.all else "files with an adapter"
    print(f"{kinds[''] + kinds[WITHOUT_MODEL]} of {total} {which} are read")
    for kind, count in kinds.most_common():
        if kind:
            print(f"\n{count} x {kind}")
            print("\n".join(f"  {line}" for line in refused[kind]))


if __name__ == "__main__":
    main()
