"""A row of measured runs (the fields of `vram_truth.jsonl`) as a workload."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vram_search.errors import InputError
from vram_search.estimate.margin import margin_for
from vram_search.estimate.memory.predict import Estimate
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.spec.optimizers import OPTIMIZERS, REFUSED_OPTIMIZERS, optimizer_fault
from vram_search.spec.shape import ModelShape
from vram_search.typed_fields import FieldError, TypedFields

MODEL_NAME = re.compile(r"[A-Za-z0-9._-]+")
LENGTHS = ("full", "random", "worst_first")
ALL_TARGETS = ("all", "all-linear")
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_REQUIRED_SIZES = ("lora_rank", "per_device_train_batch_size", "cutoff_len")
_CHOICES = {"quantization": ("nf4", "int8", "none"), "attention": ("sdpa", "eager")}
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
    fields = _RowFields(row, "row")
    faults: list[FieldError] = []
    read: dict[str, Any] = {}

    def add(name: str, value: Callable[[], object]) -> None:
        try:
            read[name] = value()
        except FieldError as error:
            faults.append(error)

    add("shape", lambda: fields.shape(shape_of))
    shape = read.get("shape")
    add("note", lambda: fields.text_or_none("note"))
    for name in _REQUIRED_SIZES:
        add(name, partial(fields.size, name))
    add("optimizer", fields.optimizer)
    for name in filter(row.__contains__, _FLAGS):
        add(name, partial(fields.written_flag, name))
    for name in filter(row.__contains__, _CHOICES):
        add(name, partial(fields.choice, name, _CHOICES[name]))
    if "gradient_accumulation_steps" in row:
        add("gradient_accumulation_steps", lambda: fields.size("gradient_accumulation_steps"))
    if "per_device_eval_batch_size" in row:
        add(
            "per_device_eval_batch_size", lambda: fields.size("per_device_eval_batch_size", least=0)
        )
        read["eval_cutoff_len"] = read.get("cutoff_len")
    for one in OPTIONAL:
        if one.is_workload and one.name in row:
            is_flag = one.kind == "flag"
            reader = fields.flag if is_flag else partial(fields.number, most=one.most)
            add(one.name, partial(reader, one.name))
    if "lengths" in row:
        add("equal_lengths", lambda: fields.choice("lengths", LENGTHS) == "full")
    add("expandable_segments", fields.expandable_segments)
    add("lora_modules", lambda: fields.targets(shape))
    if faults:
        raise RowError(*((fault.field, fault.problem, fault.remedy) for fault in faults))
    return Point(row["model"], read.pop("note"), Workload(**read))


class _RowFields(TypedFields):
    """The fields of a row that need more than their type."""

    def missing(self, key: str, remedy: str) -> FieldError:
        """A null is no value of a row; only a `note` and an `env` may be null."""
        problem = "is null" if key in self.values else "is missing"
        return FieldError(self.place, key, problem, remedy)

    def shape(self, shape_of: Callable[[str], ModelShape]) -> ModelShape:
        remedy = "name a folder inside --models that holds a config.json"
        model = self.values.get("model")
        is_name = isinstance(model, str) and MODEL_NAME.fullmatch(model) is not None
        if not is_name or model in (".", ".."):
            raise self.refused(
                "model", "is not a model's name", f"{remedy}: letters, digits, '.', '_', '-'"
            )
        try:
            return shape_of(str(model))
        except InputError as error:
            raise FieldError(self.place, "model", error.message, error.remedy or remedy) from None

    def written_flag(self, name: str) -> bool:
        if self.values[name] is None:
            raise self.missing(name, "write true or false")
        return self.flag(name)

    def expandable_segments(self) -> bool:
        env = TypedFields(self.section("env") or {}, self.place)
        try:
            settings = [env.text_or_none(name) or "" for name in ALLOCATOR_VARIABLES]
        except FieldError as error:
            problem = f"{error.field} {error.problem}"
            raise FieldError(self.place, "env", problem, error.remedy) from None
        return any("expandable_segments:True" in setting for setting in settings)

    def optimizer(self) -> str:
        name = self.values.get("optimizer")
        if isinstance(name, str) and name in REFUSED_OPTIMIZERS:
            remedy = f"write one of: {', '.join(OPTIMIZERS)}"
            raise self.refused("optimizer", optimizer_fault(name), remedy)
        return self.choice("optimizer", OPTIMIZERS)

    def targets(self, shape: ModelShape | None) -> tuple[str, ...]:
        known = () if shape is None else shape.linear_kinds
        if self.values.get("lora_target") in ALL_TARGETS:
            return () if shape is None else shape.estimated_modules("all")
        names = self.list_of(str, "lora_target")
        remedy = f"list some of: {', '.join(known)}" if known else "list names such as q_proj"
        if not names:
            raise self.refused("lora_target", "is not a list of module names", remedy)
        if len(set(names)) < len(names):
            raise self.refused("lora_target", "names a module twice", remedy)
        if shape is None:
            return tuple(names)
        try:
            return shape.estimated_modules(",".join(names))
        except ValueError as error:
            raise self.refused("lora_target", str(error), remedy) from None
