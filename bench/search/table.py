"""Tables of recorded training runs: JSON lines, one run each, grouped by task.

A row, all fields required but the last; others are ignored:

    task                 name of the data set; a table is made of one task's rows
    config               id of the configuration, shown only
    seed                 whole number; rows of equal hyperparameters are seeds of one configuration
    learning_rate        peak of the schedule
    lora_rank            whole number
    lora_target          qv, qkvo, qkvo_gu or all
    cutoff_len           tokens at which training texts are cut
    batch_size           effective: sequences per optimizer step
    optim                as transformers spells it
    steps                optimizer steps of the run
    eval_steps           steps of the evaluations, ascending; the first is 0
    eval_loss            nats per token, as long as eval_steps; null where not finite
    train_seconds        of all steps together
    eval_seconds         of all evaluations with a finite loss together
    setup_seconds        the rest of the run: adapter, optimizer; or the process too (see replay)
    max_allocated_bytes  peak of the run
    example_loss_sums    nats per example of the last evaluation; optional
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.base import Count, Number
from vram_search.spec.hyperparameters import DEFAULT_ALPHA, MAIN
from vram_search.spec.point import CutoffLen, LearningRate, Optim, Rank

FAULTS_SHOWN = 10
PUBLISHED = Path(__file__).parents[1] / "curves" / "tables"
"""Tables of the repository; DATASHEET.md beside them describes them."""

Target = Literal["qv", "qkvo", "qkvo_gu", "all"]
Seconds = Annotated[Number, Field(ge=0)]


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Loss = Annotated[Number | None, BeforeValidator(_finite)]


class Row(BaseModel):
    """One run; the fields are described at the head of this file."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    task: Annotated[str, Field(min_length=1)]
    config: str
    seed: int
    learning_rate: LearningRate
    lora_rank: Rank
    lora_target: Target
    cutoff_len: CutoffLen
    batch_size: Count
    optim: Optim
    steps: Count
    eval_steps: Annotated[tuple[int, ...], Field(min_length=2)]
    eval_loss: tuple[Loss, ...]
    train_seconds: Annotated[Number, Field(gt=0)]
    eval_seconds: Seconds
    setup_seconds: Seconds
    max_allocated_bytes: Annotated[int, Field(gt=0)]
    example_loss_sums: tuple[Loss, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        steps = self.eval_steps
        if steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] > self.steps:
            raise ValueError("eval_steps ascend from 0 to at most steps")
        if len(self.eval_loss) != len(steps):
            raise ValueError(f"{len(self.eval_loss)} values of eval_loss at {len(steps)} steps")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """A table has no lora_alpha: it is the default's multiple of the rank."""
        recorded = {one.name: getattr(self, one.name) for one in MAIN}
        return Hyperparameters(lora_alpha=DEFAULT_ALPHA.of(self.lora_rank), **recorded)

    def points_at(self, shares: Sequence[float] | None) -> list[int]:
        """Places in eval_steps nearest to shares of the run, and its end; None means all."""
        last = len(self.eval_steps) - 1
        if shares is None:
            return list(range(1, last + 1))

        def distance(point: int, share: float) -> float:
            return abs(self.eval_steps[point] - share * self.eval_steps[-1])

        nearest = {min(range(1, last + 1), key=lambda p: distance(p, share)) for share in shares}
        return sorted(nearest | {last})

    def best_loss(self, shares: Sequence[float] | None = None) -> float:
        """Lowest loss of the checkpoints at these shares; infinite if no loss is finite."""
        losses = [self.eval_loss[point] for point in self.points_at(shares)]
        return min((loss for loss in losses if loss is not None), default=math.inf)

    @property
    def eval_seconds_each(self) -> float:
        return self.eval_seconds / max(1, sum(loss is not None for loss in self.eval_loss))


@dataclass(frozen=True)
class Config:
    """One configuration and its runs, a seed each."""

    hyperparameters: Hyperparameters
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return self.rows[0].config

    @cached_property
    def bytes(self) -> int:
        return max(row.max_allocated_bytes for row in self.rows)

    def loss(self, shares: Sequence[float] | None = None) -> float:
        """Best evaluated checkpoint, the mean over seeds."""
        return statistics.fmean(row.best_loss(shares) for row in self.rows)

    @property
    def last_loss(self) -> float:
        """The last checkpoint, the mean over seeds."""
        return self.loss(())


@dataclass(frozen=True)
class Table:
    """All configurations of one task, or a part of them.

    Attributes:
        left_out: configurations of the task that do not belong to the part.
    """

    task: str
    configs: tuple[Config, ...]
    left_out: tuple[Config, ...] = ()

    def part(self, share: float, seed: int) -> Table:
        """Draws a share of the configurations; one is drawn at least."""
        draw = random.Random(f"{self.task} {seed}")
        drawn = draw.sample(self.configs, max(1, round(len(self.configs) * share)))
        others = tuple(config for config in self.configs if config not in drawn)
        return Table(self.task, tuple(drawn), others)

    @cached_property
    def space(self) -> SearchSpace:
        """The smallest space that holds every configuration."""
        points = [config.hyperparameters for config in self.configs]
        found: dict[str, Any] = {
            one.name: sorted({getattr(point, one.name) for point in points}) for one in MAIN
        }
        found["lora_target"].sort(key=get_args(Target).index)
        rates = found["learning_rate"]
        return SearchSpace.model_validate(
            {**found, "learning_rate": {"min": rates[0], "max": rates[-1]}}
        )

    def limit_bytes(self, infeasible_share: float) -> int:
        """A limit that this share of the configurations does not fit."""
        ranked = sorted(config.bytes for config in self.configs)
        fitting = max(1, round(len(ranked) * (1 - infeasible_share)))
        return ranked[fitting - 1]

    def best(self, limit_bytes: int) -> Config:
        """The lowest loss of what fits.

        Raises:
            InputError: nothing fits, or nothing that fits has a finite loss.
        """
        fitting = [config for config in self.configs if config.bytes <= limit_bytes]
        best = min(fitting, key=Config.loss, default=None)
        if best is None or not math.isfinite(best.loss()):
            raise InputError(
                f"task {self.task}: no configuration with a finite loss fits {limit_bytes} bytes",
                "raise --limit-gib",
            )
        return best

    def seed_noise(self) -> float | None:
        """Standard deviation of the loss between seeds, pooled; None without repeated ones."""
        groups = [[row.best_loss() for row in config.rows] for config in self.configs]
        variances = [
            (statistics.variance(losses), len(losses) - 1)
            for losses in groups
            if len(losses) > 1 and all(map(math.isfinite, losses))
        ]
        freedom = sum(degrees for _, degrees in variances)
        if not freedom:
            return None
        return math.sqrt(sum(variance * degrees for variance, degrees in variances) / freedom)


def load_table(name: str) -> Table:
    """Loads a table that is part of the repository.

    Example:
        >>> table = load_table("triz")
        >>> len(table.configs)
        150

    Args:
        name: of a file in bench/curves/tables, without its ending.

    Raises:
        InputError: there is none of this name.
    """
    file = PUBLISHED / f"{name}.jsonl"
    if not file.is_file():
        known = ", ".join(sorted(one.stem for one in PUBLISHED.glob("*.jsonl")))
        raise InputError(f"no table {name!r}", f"there are: {known}")
    return read_tables([file])[0]


def read_tables(files: Iterable[Path]) -> list[Table]:
    """The tables of the files, one a task, tasks in order of their names.

    Raises:
        InputError: a file cannot be read, or there is no row.
        FaultyFileError: lines that are no rows.
    """
    by_task: dict[str, dict[Hyperparameters, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for row in read_rows(file):
            by_task[row.task][row.hyperparameters].append(row)
    return [
        Table(task, tuple(Config(point, tuple(rows)) for point, rows in configs.items()))
        for task, configs in sorted(by_task.items())
    ]


def read_rows(file: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        InputError: it cannot be read, or holds no row.
        FaultyFileError: lines that are no rows.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error})", "give a file of JSON lines in UTF-8"
        ) from None
    rows: list[Row] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and len(faults) < FAULTS_SHOWN:
            try:
                rows.append(Row.model_validate(json.loads(line)))
            except ValidationError as error:
                faults += [_fault(number, one["loc"], one["msg"]) for one in error.errors()]
            except ValueError as error:
                faults.append(Fault(f"line {number}", f"no JSON ({error})"))
    if faults:
        raise FaultyFileError(str(file), faults[:FAULTS_SHOWN])
    if not rows:
        raise InputError(f"{file}: holds no rows", "row format: bench/search/table.py")
    return rows


def _fault(number: int, place: Sequence[int | str], message: str) -> Fault:
    where = ".".join(map(str, place))
    return Fault(f"line {number}" + (f", {where}" if where else ""), message)
