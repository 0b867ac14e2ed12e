"""The rows of `rows.jsonl`: a training, its measured bytes, and the source of the figure."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vram_search import estimate_file
from vram_search.answers.estimate import EstimateAnswer
from vram_search.answers.named import find_card
from vram_search.estimate.max_fit import last_that_fits
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.recipes.jsonl_row import parse_point
from vram_search.spec.shape import ModelShape, parse_shape
from vram_search.units import MIB

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("rows.jsonl")
LONGEST = 65_536
"""Tokens up to which the longest text that fits is looked for."""
MISS = 0.1
"""Relative error from which a row is a miss, which needs a reason."""


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        measured: `allocated_mib`, `reserved_mib`, `process_mib` or `longest_tokens`.
        others: the same figures as other tools predict them, by tool.
        training: fields of `estimate --points`, or a recipe under `recipe`.
        context_mib: the CUDA context that was measured there; None: the card's.
        why: the reason where our prediction misses.
    """

    group: str
    what: str
    source: str
    card: str
    measured: dict[str, int]
    training: dict[str, Any]
    others: dict[str, dict[str, int]] = field(default_factory=dict)
    context_mib: int | None = None
    why: str = ""

    @property
    def is_recipe(self) -> bool:
        return "recipe" in self.training

    @cached_property
    def predicted(self) -> dict[str, float]:
        """Our figures, with the names of `measured`."""
        if self.is_recipe:
            return self._of_recipe()
        if "longest_tokens" in self.measured:
            return {"longest_tokens": self._longest_tokens()}
        return self._of_point()

    def error(self, name: str, predicted: float | None = None) -> float | None:
        """Relative error of a figure, ours unless another is given; None: nothing to compare."""
        measured = self.measured.get(name)
        found = self.predicted.get(name) if predicted is None else predicted
        if measured is None or found is None:
            return None
        if measured == 0:  # it ran out of memory
            return 0.0 if found == 0 else None
        return found / measured - 1

    @property
    def headline(self) -> str:
        """The figure that counts: what a card must have, where it was measured."""
        order = ("longest_tokens", "process_mib", "reserved_mib", "allocated_mib")
        return next(name for name in order if name in self.measured)

    def _of_recipe(self) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "recipe.json"
            file.write_text(json.dumps(self.training["recipe"]), encoding="utf-8")
            answer = estimate_file(file, self.card)
        assert isinstance(answer, EstimateAnswer), "the rows name known models"
        plan = answer.plan
        return {
            "allocated_mib": plan.allocated_bytes / MIB,
            "reserved_mib": plan.reserved_bytes / MIB,
            "process_mib": plan.process_bytes / MIB,
        }

    def _hardware(self) -> Hardware:
        found = Hardware.of(find_card(self.card))
        if self.context_mib is None:
            return found
        return replace(found, context_bytes=self.context_mib * MIB)

    def _of_point(self) -> dict[str, float]:
        estimate = predict(parse_point(self.training, shape_of).workload, self._hardware())
        return {
            "allocated_mib": estimate.allocated_bytes / MIB,
            "reserved_mib": estimate.reserved_bytes / MIB,
            "process_mib": estimate.process_bytes / MIB,
        }

    def _longest_tokens(self) -> int:
        workload = parse_point(self.training, shape_of).workload
        budget = MemoryBudget.of(find_card(self.card), workload.shape).budget_bytes

        def required(tokens: int) -> int:
            return predict(replace(workload, cutoff_len=tokens), self._hardware()).required_bytes

        longest = last_that_fits(range(1, LONGEST), required, lambda size: size <= budget)
        return longest or 0


def shape_of(name: str) -> ModelShape:
    """Returns a shipped model's shape."""
    file = ROOT / "configs" / "models" / name / "config.json"
    return parse_shape(json.loads(file.read_text(encoding="utf-8")), name)


def load_rows() -> list[Row]:
    """Returns the rows in the file's order."""
    own = ("group", "what", "source", "card", "measured", "others", "context_mib", "why")
    found = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        fields = {name: values.pop(name) for name in own if name in values}
        found.append(Row(**fields, training=values))
    return found
