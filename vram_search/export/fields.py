"""The types of values that the schemas of all tools share, and their faults in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from vram_search.errors import Fault
from vram_search.spec.base import PositiveFloat, Spec, plain_message
from vram_search.spec.optimizers import OPTIMIZERS, optimizer_fault
from vram_search.spec.point import LearningRate

LORA_MODULES = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "qkv_proj",
        "gate_up_proj",
    ]
)
"""Linear layers of the supported model families (`spec.shape`)."""


def _known_optim(value: object) -> object:
    if not isinstance(value, str) or value not in OPTIMIZERS:
        raise ValueError(f"{optimizer_fault(str(value))}; there are {', '.join(OPTIMIZERS)}")
    return value


def _not_bool(value: object) -> object:
    if isinstance(value, (bool, str)):
        raise ValueError("a number is expected")
    return value


def _own_folder(value: str) -> str:
    path = PurePosixPath(value.replace("\\", "/"))
    if path.name in ("", "..", "saves", "output", "outputs"):
        raise ValueError("needs a folder of its own: runs that share one resume each other")
    return value


Text = Annotated[str, Field(strict=True, min_length=1, pattern=r"^[^\x00]*$")]
OutputFolder = Annotated[Text, AfterValidator(_own_folder)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Share = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=1)]
Dropout = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, lt=1)]
Rate = Annotated[LearningRate, BeforeValidator(_not_bool)]
GradNorm = Annotated[PositiveFloat, BeforeValidator(_not_bool)]
Steps = Annotated[int, Field(strict=True, ge=0)]
Optim = Annotated[str, BeforeValidator(_known_optim)]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


class NonReentrant(Spec):
    """The trial's `gradient_checkpointing_kwargs`."""

    use_reentrant: Literal[False]


def schema_faults(schema: type[Spec], config: Mapping[str, Any]) -> list[Fault]:
    """Returns everything that a schema refuses in a configuration."""
    try:
        schema.model_validate(config)
    except ValidationError as error:
        return [_fault(details) for details in error.errors()]
    return []


def _fault(details: ErrorDetails) -> Fault:
    path = ".".join(str(part) for part in details["loc"]) or "(the file)"
    kind = details["type"]
    if kind == "extra_forbidden":
        return Fault(path, "is not a key that an export uses")
    if kind == "missing":
        return Fault(path, "is missing")
    value = None if isinstance(details["input"], dict) else details["input"]
    return Fault(path, plain_message(details), value)


def target_faults(key: str, names: Sequence[str], modules: Collection[str]) -> list[Fault]:
    """Returns the faults of a list of LoRA modules.

    Args:
        key: key of the configuration that the fault names.
        modules: names of the model's linear layers.
    """
    allowed = f"all, or of {', '.join(sorted(modules))}"
    faults = [
        Fault(key, "the model has no such module", name, allowed)
        for name in names
        if name not in modules
    ]
    if len(set(names)) != len(names):
        faults.append(Fault(key, "a module is named twice", ",".join(names)))
    return faults
