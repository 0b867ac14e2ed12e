"""A row of measured runs (the fields of `vram_truth.jsonl`) as a workload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError
from vram_search.estimate.margin import margin_for
from vram_search.estimate.memory.predict import Estimate
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import ModelShape

MAX_SIZE = 2**31
"""No rank, length or batch is larger."""
MODEL_NAME = re.compile(r"[A-Za-z0-9._-]+")
QUANTIZATIONS = ("nf4", "int8", "none")
ATTENTIONS = ("sdpa", "eager")
LENGTHS = ("full", "random", "worst_first")
ALL_TARGETS = ("all", "all-linear")
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_REQUIRED_SIZES = ("lora_rank", "per_device_train_batch_size", "cutoff_len")
_FLAGS = (
    "gradient_checkpointing",
    "double_quantization",
    "prepare_for_kbit_training",
    "prediction_loss_only",
    "fused_linear_cross_entropy",
)


@dataclass(frozen=True)
class Point:
    """One row: the model's name, the row's note if it has one, and its workload."""

    model: str
    note: str | None
    workload: Workload

    def as_dict(self, estimate: Estimate) -> dict[str, object]:
        """The row's answer, for JSON."""
        note = {} if self.note is None else {"note": self.note}
        return {
            "model": self.model,
            **note,
            "allocated_bytes": estimate.allocated_bytes,
            "reserved_bytes": estimate.reserved_bytes,
            "process_bytes": estimate.process_bytes,
            "required_bytes": estimate.required_bytes,
            "moment": estimate.moment,
            "parts": dict(estimate.parts),
            "not_modelled": list(self.workload.shape.not_modelled),
            "margin": round(margin_for(self.workload.shape), 9),
        }


class RowError(ValueError):
    """One or more faults of a row, each a field, a message and a remedy."""

    def __init__(self, *faults: tuple[str, str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message, _ in faults))
        self.faults = faults


def parse_point(row: dict[str, Any], shape_of: Callable[[str], ModelShape]) -> Point:
    """A row of known fields as a workload; unknown fields are passed over.

    Raises:
        RowError: with every fault of the row.
    """
    reader = _Reader(row)
    model = reader.model()
    shape = reader.shape(model, shape_of)
    note = reader.note()
    fields: dict[str, Any] = {}
    for name in _REQUIRED_SIZES:
        fields[name] = reader.size(name)
    fields["optimizer"] = reader.choice("optimizer", OPTIMIZERS)
    for name in _FLAGS:
        if name in row:
            fields[name] = reader.flag(name)
    for name, choices in (("quantization", QUANTIZATIONS), ("attention", ATTENTIONS)):
        if name in row:
            fields[name] = reader.choice(name, choices)
    if "gradient_accumulation_steps" in row:
        fields["gradient_accumulation_steps"] = reader.size("gradient_accumulation_steps")
    if "per_device_eval_batch_size" in row:
        fields["per_device_eval_batch_size"] = reader.size("per_device_eval_batch_size", least=0)
        fields["eval_cutoff_len"] = fields["cutoff_len"]
    if "lengths" in row:
        fields["equal_lengths"] = reader.choice("lengths", LENGTHS) == "full"
    fields["expandable_segments"] = reader.expandable_segments()
    fields["lora_modules"] = reader.targets(shape)
    if reader.faults:
        raise RowError(*reader.faults)
    assert shape is not None, "else there is a fault"
    return Point(model, note, Workload(shape=shape, **fields))


class _Reader:
    """Takes fields from a row and collects what is wrong; a faulty field reads as a stand-in."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row
        self.faults: list[tuple[str, str, str]] = []

    def _fault(self, name: str, message: str, remedy: str) -> None:
        if name not in self._row:
            message = "is missing"
        self.faults.append((name, message, remedy))

    def model(self) -> str:
        value = self._row.get("model")
        is_name = isinstance(value, str) and MODEL_NAME.fullmatch(value) is not None
        if not is_name or value in (".", ".."):
            self._fault(
                "model",
                f"not a model's name {shown(value)}",
                "name a folder inside --models: letters, digits, '.', '_' and '-', no path",
            )
            return ""
        return str(value)

    def shape(self, model: str, shape_of: Callable[[str], ModelShape]) -> ModelShape | None:
        if not model:
            return None
        try:
            return shape_of(model)
        except InputError as error:
            remedy = "name a folder inside --models that holds a config.json"
            self._fault("model", error.message, error.remedy or remedy)
            return None

    def note(self) -> str | None:
        value = self._row.get("note")
        if value is not None and not isinstance(value, str):
            self._fault("note", f"not a text {shown(value)}", "write a text, or leave it out")
            return None
        return value

    def size(self, name: str, least: int = 1) -> int:
        value = self._row.get(name)
        if type(value) is not int or not least <= value <= MAX_SIZE:
            allowed = f"a whole number from {least} to {MAX_SIZE}"
            self._fault(name, f"not {allowed} {shown(value)}", f"write {allowed}")
            return least
        return value

    def flag(self, name: str) -> bool:
        value = self._row.get(name)
        if not isinstance(value, bool):
            self._fault(name, f"neither true nor false {shown(value)}", "write true or false")
        return value is True

    def choice(self, name: str, choices: Iterable[str]) -> str:
        value = self._row.get(name)
        if not isinstance(value, str) or value not in choices:
            self._fault(name, f"not known {shown(value)}", f"write one of: {', '.join(choices)}")
            return ""
        return value

    def expandable_segments(self) -> bool:
        env = self._row.get("env")
        if env is None:
            return False
        if not isinstance(env, dict):
            self._fault("env", f"not a mapping {shown(env)}", "write null or {name: text}")
            return False
        for name in ALLOCATOR_VARIABLES:
            if not isinstance(env.get(name, ""), str):
                self._fault("env", f"{name} is not a text {shown(env[name])}", "write a text")
                return False
        return any("expandable_segments:True" in env.get(name, "") for name in ALLOCATOR_VARIABLES)

    def targets(self, shape: ModelShape | None) -> tuple[str, ...]:
        value = self._row.get("lora_target")
        known = () if shape is None else tuple(linear.name for linear in shape.linears)
        if isinstance(value, str) and value in ALL_TARGETS:
            return known
        remedy = f"list some of: {', '.join(known)}" if known else "list names such as q_proj"
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            self._fault("lora_target", f"not a list of module names {shown(value)}", remedy)
            return ()
        if len(set(value)) < len(value):
            self._fault("lora_target", f"a module is named twice {shown(value)}", remedy)
        missing = [name for name in value if name not in known]
        if shape is not None and missing:
            self._fault("lora_target", f"this model has no {shown(missing)}", remedy)
        return tuple(value)


def shown(value: object) -> str:
    """A value for a message, cut short."""
    text = ascii(value)
    return f"(is {text})" if len(text) <= 80 else f"(is {text[:77]}...)"
