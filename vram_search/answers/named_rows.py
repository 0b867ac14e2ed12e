"""Reads the rows that a training file of LLaMA-Factory, Axolotl or TRL, or a study names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vram_search.data.templates import ALIASES, template_names
from vram_search.errors import InputError
from vram_search.estimate.recipes.find_training import load_mapping
from vram_search.gpu.this_card import card_here
from vram_search.spec import load_study
from vram_search.spec.base import plain_message
from vram_search.spec.dataset import DEFAULT_SEED, DatasetSpec
from vram_search.tools.detect import TITLES, tool_of
from vram_search.tools.file_kinds import naming_other_files

_MODEL, _TOKENIZER_OWN = "model_name_or_path", "tokenizer_default"


@dataclass(frozen=True)
class NamedRows:
    """The rows that a file names, and the settings that shape them.

    Attributes:
        tokenizer: folder or hub name of the model or its tokenizer; None without a name.
        cutoff_lens: none if the file leaves it to the tool.
        notes: sentences about settings that are not followed.
    """

    dataset: DatasetSpec
    seed: int
    tokenizer: str | None
    cutoff_lens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def load_named_rows(path: Path) -> NamedRows:
    """Reads a study, or a training file (YAML) of the tool that its keys belong to.

    Files are relative to the training file or to the working folder.

    Raises:
        InputError: it is not a file of a tool that is read, or names no rows.
        FaultyFileError: a study with faults.
    """
    with naming_other_files(path, "data"):
        return _load_named_rows(path)


def _load_named_rows(path: Path) -> NamedRows:
    values = load_mapping(path)
    tool = tool_of(values)
    if tool is None:
        study = load_study(path, card_here=card_here)
        tokenizer = study.base.tokenizer or study.base.model_name_or_path
        cutoffs = tuple(study.search_space.cutoff_len)
        return NamedRows(study.dataset, study.seed, tokenizer, cutoffs)
    if tool not in _READERS:
        raise InputError(
            f"{path}: this is a file of {TITLES[tool]}; its rows are not found by its keys",
            "name the data files themselves: vram-search data rows.jsonl --model NAME",
        )
    given, tokenizer, cutoff, notes = _READERS[tool](values, path.resolve().parent)
    if not given.get("train"):
        raise InputError(
            f"{path}: names no training rows", "name the data files: vram-search data rows.jsonl"
        )
    dataset = _dataset(given, path)
    seed = values.get("seed")
    return NamedRows(
        dataset,
        seed if isinstance(seed, int) else DEFAULT_SEED,
        tokenizer if isinstance(tokenizer, str) else None,
        (cutoff,) if isinstance(cutoff, int) else (),
        tuple(notes),
    )


_Read = tuple[dict[str, Any], Any, Any, list[str]]
"""Keys of a DatasetSpec, tokenizer, cutoff_len, notes."""


def _dataset(given: dict[str, Any], path: Path) -> DatasetSpec:
    """Files are looked for beside the training file, and then in the working folder.

    Raises:
        InputError: they are in neither.
    """
    faults = []
    for folder in (path.resolve().parent, Path.cwd()):
        try:
            return DatasetSpec.model_validate(
                {key: value for key, value in given.items() if value is not None},
                context={"folder": folder},
            )
        except ValidationError as error:
            faults.append(error.errors()[0])
    place = ".".join(map(str, faults[0]["loc"]))
    raise InputError(
        f"{path}: {place}: {plain_message(faults[0])}",
        "name the data files themselves: vram-search data rows.jsonl --model NAME",
    )


def _llamafactory(values: Mapping[Any, Any], folder: Path) -> _Read:
    stage = values.get("stage") or "sft"
    if stage != "sft":
        raise InputError(
            f"stage {stage}: rows are shown as supervised fine-tuning learns them",
            "name a file with stage: sft, or the data files themselves",
        )
    info = Path(str(values.get("dataset_dir") or "data"))
    near = [info, folder / info, folder.parent / info]
    found = next((one for one in near if (one / "dataset_info.json").is_file()), info)
    template, notes = _template(values.get("template"))
    given = {
        "dataset_dir": str(found.resolve()),
        "train": _names(values.get("dataset")),
        "eval": _names(values.get("eval_dataset")),
        "max_samples": values.get("max_samples"),
        "template": template,
        "val_size": values.get("val_size") or None,
    }
    return given, values.get(_MODEL), values.get("cutoff_len"), notes


def _names(value: Any) -> str | None:
    """LLaMA-Factory takes names with commas, or a list of them."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _axolotl(values: Mapping[Any, Any], _folder: Path) -> _Read:
    if values.get("rl"):
        raise InputError(
            f"rl {values['rl']}: rows are shown as supervised fine-tuning learns them",
            "name the data files themselves",
        )
    template, notes = _template(values.get("chat_template"))
    given = {
        "train": values.get("datasets") or values.get("pretraining_dataset"),
        "eval": values.get("test_datasets"),
        "template": template,
        "val_size": values.get("val_set_size") or None,
    }
    tokenizer = values.get("tokenizer_config") or values.get("base_model")
    return given, tokenizer, values.get("sequence_len"), notes


def _trl(values: Mapping[Any, Any], _folder: Path) -> _Read:
    entries = values.get("datasets")
    split, name = values.get("dataset_train_split"), values.get("dataset_name")
    entry = {"path": name, "name": values.get("dataset_config"), "split": split}
    given: dict[str, Any] = {"train": entries if entries else [_without_none(entry)]}
    if entries is None and name is None:
        given["train"] = None
    cutoff = values.get("max_length") or values.get("max_seq_length")
    return given, values.get(_MODEL), cutoff, []


def _script(values: Mapping[Any, Any], _folder: Path) -> _Read:
    """Our exports for peft and Unsloth."""
    rows = values.get("rows") or {}
    given = {"train": rows.get("train"), "eval": rows.get("eval"), "date": rows.get("date")}
    return given, rows.get("tokenizer"), rows.get("cutoff_len"), []


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _template(name: Any) -> tuple[str | None, list[str]]:
    """A template that is shipped; else the tokenizer's own, with a note."""
    if not isinstance(name, str) or name == _TOKENIZER_OWN:
        return None, []
    if name in ALIASES or name in template_names():
        return name, []
    return None, [f"template {name} is not shipped: the tokenizer's own chat template is shown"]


_READERS: dict[str, Callable[[Mapping[Any, Any], Path], _Read]] = {
    "llamafactory": _llamafactory,
    "axolotl": _axolotl,
    "trl": _trl,
    "peft": _script,
    "unsloth": _script,
}
