"""The study file: one search, written by a person."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from vram_search.spec.answers import AnswersSpec, ObjectiveKey, objective_identity
from vram_search.spec.base import Count, Flag, Number, PositiveFloat, Spec
from vram_search.spec.card import Card
from vram_search.spec.card_names import find_card
from vram_search.spec.constraints import Constraints
from vram_search.spec.dataset import DEFAULT_SEED, DatasetSpec, short_name
from vram_search.spec.hyperparameters import BY_NAME, SETTINGS
from vram_search.spec.limits import MAX_ALPHA_RATIO, MOST_HOURS, MOST_TRIALS
from vram_search.spec.model import BaseModels, ModelSpec
from vram_search.spec.name_rule import NAME_PATTERN
from vram_search.spec.objective import BITS_PER_BYTE, EVAL_LOSS, Objective, objective_of
from vram_search.spec.paths import absolute_path
from vram_search.spec.plan import PlanPins
from vram_search.spec.point import (
    Epochs,
    Hyperparameters,
    Scheduler,
    Seed,
    WarmupRatio,
    WeightDecay,
)
from vram_search.spec.search_space import NotInSpaceError, SearchSpace
from vram_search.spec.space_parts import AlphaRatios
from vram_search.spec.strategy_name import StrategyName

MOST_STEPS = 10**9
"""Limit of a training's length. More is a typing error, and would overflow an integer column."""
MOST_CHECKPOINT_MINUTES = 24 * 60
MOST_PARALLEL_TRIALS = 8


def _auto_or_count(value: object) -> object:
    """Refuses with one message; pydantic has one for each type of a union."""
    is_count = type(value) is int and 1 <= value <= MOST_PARALLEL_TRIALS
    if value != "auto" and not is_count:
        raise ValueError(f"is neither auto nor a whole number from 1 to {MOST_PARALLEL_TRIALS}")
    return value


ParallelTrials = Annotated[
    Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=MOST_PARALLEL_TRIALS)],
    BeforeValidator(_auto_or_count),
]


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

    trials: Annotated[Count, Field(le=MOST_TRIALS)] | None = Field(
        default=None, description="finished trials in the study"
    )
    hours: Annotated[PositiveFloat, Field(le=MOST_HOURS)] | None = Field(
        default=None, description="hours of one run"
    )
    stop_early: Flag = Field(
        default=True, description="stop when no better eval_loss is expected (strategy gp)"
    )


def _card(value: object, info: ValidationInfo) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # YAML reads `card: 3090` as a number
    if not isinstance(value, str):
        return value
    return find_card(value, (info.context or {}).get("card_here"))


class StudySpec(Spec):
    """One search: a model, a data set, a card, a search space and a budget."""

    study: str = Field(pattern=NAME_PATTERN, description="name in the database")
    model: BaseModels = Field(
        description="the base model, or a list of several: one is chosen for each trial"
    )
    dataset: DatasetSpec
    card: Annotated[Card, BeforeValidator(_card)] = Field(
        default="auto", validate_default=True, description="auto: the GPU in this machine"
    )
    search_space: SearchSpace = SearchSpace()
    training: TrainingSpec = TrainingSpec()
    points: tuple[dict[str, Any], ...] = Field(
        default=(),
        max_length=100,
        description="points to try before all others, each a mapping of hyperparameters in the "
        "search space: `[{lora_rank: 16, learning_rate: 2e-4}]`; a missing one takes the value "
        "nearest to its default",
    )
    plan: PlanPins = PlanPins()
    budget: BudgetSpec = BudgetSpec(hours=8)
    constraints: Constraints = Constraints()
    parallel_trials: ParallelTrials = Field(
        default=1,
        description="trials at once on one card, each in its own process with its part of the "
        "card; auto: as many as are predicted to gain time, one otherwise",
    )
    objective: ObjectiveKey | None = Field(
        default=None,
        description="what is searched: the lowest eval_loss (nats per token) or bits_per_byte "
        "(compares between tokenizers), the highest exact_match or rouge_l of generated answers, "
        "or the highest FILE.py:function of this folder (`minimise FILE.py:function`: the "
        "lowest); default: eval_loss, or bits_per_byte if the models have different tokenizers",
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

    @model_validator(mode="after")
    def _loraplus_applies(self) -> StudySpec:
        space = self.search_space
        if not any("adamw" in name for name in space.optim):
            ratios = space.options(BY_NAME["loraplus_lr_ratio"])
            if ratios != (BY_NAME["loraplus_lr_ratio"].default,):
                raise ValueError(
                    "search_space.loraplus_lr_ratio needs an AdamW optimizer, and "
                    f"search_space.optim has none (is {', '.join(space.optim)})"
                )
        return self

    @model_validator(mode="after")
    def _warmup_applies(self) -> StudySpec:
        space = self.search_space
        schedules = space.lr_scheduler_type or (self.training.lr_scheduler_type,)
        if space.is_searched(BY_NAME["warmup_ratio"]) and set(schedules) == {"constant"}:
            raise ValueError(
                "search_space.warmup_ratio needs a schedule with a warm-up, and lr_scheduler_type "
                "is constant alone (constant_with_warmup has one)"
            )
        return self

    @model_validator(mode="after")
    def _points_are_in_the_space(self) -> StudySpec:
        for place, wanted in enumerate(self.points):
            unknown = [name for name in wanted if name not in BY_NAME]
            if unknown:
                raise ValueError(
                    f"points[{place}]: {unknown[0]!r} is not a hyperparameter; there are: "
                    f"{', '.join(BY_NAME)}"
                )
            try:
                self.space.exact(wanted)
            except NotInSpaceError as error:
                raise ValueError(f"points[{place}]: {error}") from None
        return self

    @model_validator(mode="after")
    def _models_compare(self) -> StudySpec:
        if self.objective == EVAL_LOSS and self._has_several_tokenizers:
            raise ValueError(
                "objective eval_loss is a loss per token, which does not compare between models "
                "with different tokenizers: set objective: bits_per_byte, or name the same "
                "tokenizer under each model if they share one"
            )
        return self

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The base models to choose from; one if the study does not list several."""
        return self.model if isinstance(self.model, tuple) else (self.model,)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Short names of the base models, of a study that lists several; else empty."""
        return tuple(one.short_name for one in self.models) if len(self.models) > 1 else ()

    @property
    def base(self) -> ModelSpec:
        """The base model of a study of one (`for_model`); of several, the first."""
        return self.models[0]

    def for_model(self, name: str | None) -> StudySpec:
        """Returns the study as it is for the trials of one of its base models.

        Args:
            name: the model's short name, as the trials' hyperparameters hold it; None if the study
                has one model.

        Raises:
            ValueError: the study has no model of this name.
        """
        if name is None:
            return self
        entry = next((one for one in self.models if one.short_name == name), None)
        if entry is None:
            raise ValueError(f"the study has no model {name}")
        return self.model_copy(update={"model": entry, "objective": self.objective_key})

    @property
    def _has_several_tokenizers(self) -> bool:
        return len({one.tokenizer_name for one in self.models}) > 1

    @property
    def ranked_by(self) -> Objective:
        """The figure by which trials are ranked."""
        return objective_of(self.objective_key)

    @property
    def objective_key(self) -> str:
        """The objective as a study file writes it, with its default."""
        usual = BITS_PER_BYTE if self._has_several_tokenizers else EVAL_LOSS
        return self.objective or usual

    @property
    def eval_cutoff_len(self) -> int:
        """Tokens at which evaluation texts are cut, the same for every trial."""
        return self.training.eval_cutoff_len or max(self.search_space.cutoff_len)

    @property
    def space(self) -> SearchSpace:
        """The search space with everything that the study sets once."""
        space = complete_space(self.search_space, self.training, self.seed)
        return space.with_models(self.model_names)

    @property
    def first_points(self) -> list[Hyperparameters]:
        """The points that the study's file wants to try before all others."""
        return [self.space.exact(wanted) for wanted in self.points]

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

        Budget, strategy, database, points to try first, parallel trials and checkpoints may change
        between two runs of one study and are left out. A path is reduced to its file name: a hash
        identifies the rows themselves.
        """
        dumped = self.model_dump(
            mode="json",
            exclude={
                "budget": True,
                "database": True,
                "parallel_trials": True,
                "points": True,
                "strategy": True,
                "study": True,
                "training": {"checkpoint_every"},
            },
        )
        for key in ("train", "eval", "dataset_dir", "template"):
            dumped["dataset"][key] = _without_folders(dumped["dataset"][key])
        for entry in dumped["model"] if self.model_names else [dumped["model"]]:
            for key in ("model_name_or_path", "tokenizer", "shape"):
                entry[key] = _without_folders(entry[key])
        if not self.ranked_by.is_of_answers:
            del dumped["answers"]
        flat = dict(_flatten(dumped, "")) | objective_identity(self.objective_key)
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
