"""Reads CSV exports of W&B, MLflow, Optuna, Ray Tune, Comet and Neptune, and tables with names of
other tools, as rows of our own table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vram_search.importing.exports import BY_HAND, EXPORTS, NOT_YET, SUMMARIES, Export
from vram_search.store import Outcome

Row = dict[str, str]

SYNONYMS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("model_name_or_path", "base_model", "_name_or_path", "model_name"),
    "eval_loss": (
        *("eval_loss", "eval/loss", "eval/eval_loss", "val_loss", "validation_loss"),
        *("val/loss", "valid/loss", "validation/loss", "valid_loss", "test/loss"),
        *("best_eval_loss", "best_val_loss", "final_eval_loss", "final_val_loss"),
    ),
    "train_loss": ("train_loss", "train/train_loss"),
    "steps_done": ("global_step", "train/global_step"),
    "steps_total": ("max_steps",),
    "learning_rate": ("learning_rate", "lr"),
    "optim": ("optim", "optimizer"),
    "lora_target": ("lora_target", "lora_target_modules", "target_modules"),
    "lora_rank": ("lora_rank", "lora_r", "r", "rank"),
    "lora_alpha": ("lora_alpha", "alpha"),
    "lora_dropout": ("lora_dropout",),
    "cutoff_len": ("cutoff_len", "max_seq_length", "max_length", "sequence_len"),
    "per_device_train_batch_size": ("per_device_train_batch_size", "micro_batch_size"),
    "gradient_accumulation_steps": ("gradient_accumulation_steps",),
    "batch_size": ("batch_size", "effective_batch_size", "total_train_batch_size", "batch"),
    "seed": ("seed",),
    "stage": ("stage", "rl"),
    "finetuning_type": ("finetuning_type",),
    "use_dora": ("use_dora", "peft_use_dora"),
    "use_rslora": ("use_rslora", "peft_use_rslora"),
    "modules_to_save": ("modules_to_save", "additional_target", "lora_modules_to_save"),
    "train_runtime": ("train_runtime", "train/train_runtime"),
}
"""Our column -> names under which trainers log it, the surest first."""
_PREFIXES = re.compile(
    r"^(params|metrics|user_attrs|config|summary|args|training_args|train_args|lora_config"
    r"|lora|peft_config|default|Param|UserAttribute|hparams?|hp|hyper_?params|hyperparameters"
    r"|parameters|sft_config|model_config|model_args|finetuning_args|data_args|trainer"
    r"|finetuning|model_parameters|general|transformers)[._/ ]+(?=.)",
    re.IGNORECASE,
)
_MISSING = {"", "nan", "none", "null", "-", "--", "\u2013", "\u2014", "n/a", "#n/a", "#nv", "?"}
"""Words for an absent value, in small letters; a loss keeps its nan."""
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def export_of(header: Sequence[str]) -> Export | None:
    """The program that wrote a CSV file with this header; None for a table by hand."""
    names = set(header)
    return next((one for one in EXPORTS if any(form <= names for form in one.header)), None)


def is_by_hand(header: Sequence[str]) -> bool:
    """True for a table without our columns run and outcome, but with a loss and a setting."""
    named = {_plain(name) for name in header}
    settings = ("learning_rate", "lora_rank", "lora_alpha", "batch_size")
    return (
        not {"run", "outcome"} <= set(header)
        and not named.isdisjoint(SYNONYMS["eval_loss"])
        and any(not named.isdisjoint(SYNONYMS[name]) for name in settings)
    )


def has_unnamed_loss(header: Sequence[str]) -> bool:
    """True for such a table if nothing says whether its loss is of training or evaluation."""
    return is_by_hand([SYNONYMS["eval_loss"][0] if name == "loss" else name for name in header])


def lacks_loss(header: Sequence[str]) -> bool:
    """True for a table of another tool with settings of trainings and no column for an eval_loss;
    a table with our columns has an outcome."""
    return "outcome" not in header and is_by_hand([*header, SYNONYMS["eval_loss"][0]])


def header_word(name: str) -> str:
    """A column's name as trainers write it: "Learning rate" is learning_rate."""
    return name.strip().lower().replace(" ", "_")


def our_rows(
    export: Export, rows: Sequence[tuple[int, Row]]
) -> Iterator[tuple[int, Row, list[str]]]:
    """Line number, cells under our columns, and notes of every run.

    Args:
        rows: line number and filled cells.
    """
    if export.source == "ray":  # progress.csv has a line for each iteration: the last one counts
        rows = list({_first(cells, export.name): (line, cells) for line, cells in rows}.values())
    taken: set[str] = set()
    for line, cells in rows:
        state = _first(cells, export.state).lower().removeprefix("trialstate.")
        outcome = export.outcomes.get(state) or _outcome_by_hand(export, state)
        if outcome is None:
            continue
        if cells.get(export.failed, "").lower() == "true":
            outcome = "lost"
        ours, notes = _our_cells(_spread(cells), export)
        name = _first(cells, export.name) or f"line {line}"
        if export is BY_HAND and name.lower() in SUMMARIES:
            continue
        name = f"trial {name}" if export.source == "optuna" else name
        ours["run"] = name if name not in taken else f"{name} (line {line})"
        taken.add(ours["run"])
        if export is BY_HAND and not state:
            outcome = _outcome_for_loss(ours) or outcome
        is_nan = ours.get("eval_loss", "").lower() in ("nan", "inf", "infinity")
        if outcome == "complete" and is_nan:
            outcome = "diverged"
        elif outcome == "complete" and not state and not _is_number(ours.get("eval_loss", "")):
            outcome = "unknown"
        ours["outcome"] = outcome
        yield line, ours, notes


def _outcome_by_hand(export: Export, state: str) -> Outcome | None:
    """The outcome of a state that a person wrote in other words; None for no run yet."""
    if export is not BY_HAND or state in NOT_YET:
        return None
    return "oom" if "out of memory" in state or "oom" in state else "unknown"


def _outcome_for_loss(ours: Row) -> Outcome | None:
    """The outcome that a person wrote in place of the loss ("OOM"), which it replaces."""
    outcome = BY_HAND.outcomes.get(ours.get("eval_loss", "").lower())
    if outcome is not None and "eval_loss" in ours:
        del ours["eval_loss"]
        return outcome
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _our_cells(cells: Row, export: Export) -> tuple[Row, list[str]]:
    named = {_plain(key): value for key, value in cells.items()}
    ours: Row = {}
    for column, names in SYNONYMS.items():
        is_loss = column.endswith("_loss")
        for name in names:
            value = named.get(name, "")
            if value.lower() not in _MISSING or (is_loss and value.lower() == "nan"):
                ours[column] = value
                break
    if ours.get("steps_total", "").startswith("-"):  # max_steps: -1 sets no limit
        del ours["steps_total"]
    if targets := _listed(ours.get("lora_target", "")):
        ours["lora_target"] = ",".join(targets)
    seconds = _seconds(_first(cells, export.seconds))
    if seconds is not None:
        ours.setdefault("train_runtime", f"{seconds:g}")
    if any("rewards/" in key for key in cells):
        ours.setdefault("stage", "preference")
    return ours, _add_objective(ours, cells) if export.source == "optuna" else []


def _listed(text: str) -> list[str]:
    """Names that are written as a list, tuple or set; none for a pattern, which stays whole."""
    if not text.startswith(("[", "(", "{")):
        return []
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = text[1:-1].split(",") if re.fullmatch(r"[\[({][\w., -]*[\])}]", text) else []
    if not isinstance(names, list | tuple | set):
        return []
    ordered = sorted(names) if isinstance(names, set) else names
    return [str(name).strip() for name in ordered]


def _add_objective(ours: Row, cells: Row) -> list[str]:
    """Takes Optuna's objective value as the eval_loss if none was logged; returns the note."""
    named_loss = (key for key in cells if key.startswith("values_") and "loss" in key)
    key = next((name for name in ("value", "Value", *named_loss) if name in cells), None)
    if key is None or "eval_loss" in ours:
        return []
    ours["eval_loss"] = cells[key]
    return ["eval_loss is Optuna's objective value: import no study that maximizes it"]


def _spread(cells: Row) -> Row:
    """Cells with the dicts of W&B's columns `config` and `summary` spread over columns."""
    spread = dict(cells)
    for key in ("config", "summary"):
        if not spread.get(key, "").startswith("{"):
            continue
        try:
            found = ast.literal_eval(re.sub(r"\bnan\b", "None", spread.pop(key)))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        spread |= {name: str(value) for name, value in _flat(found).items()}
    return spread


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _plain(key: str) -> str:
    """A column's name without the program's prefixes: `params_learning_rate` is learning_rate."""
    while (match := _PREFIXES.match(key)) is not None:
        key = key[match.end() :]
    return key.removesuffix(".value").strip()


def _first(cells: Row, names: Sequence[str]) -> str:
    return next((cells[name] for name in names if cells.get(name)), "")


def _seconds(text: str) -> float | None:
    """Seconds of a number, of "5.2min", or of pandas' "0 days 00:10:00.5"."""
    if match := re.fullmatch(r"(?:(\d+) days? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", text):
        days, hours, minutes, seconds = match.groups(default="0")
        return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s|min|h|d)?", text):
        return float(match[1]) * _UNITS[match[2] or "s"]
    return None
