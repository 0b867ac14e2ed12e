"""Trains a trial's export with LLaMA-Factory and compares every figure that both have."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vram_search.errors import InputError, VramSearchError
from vram_search.estimate import predict
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import Longest
from vram_search.export.evaluation import trainer_workload
from vram_search.export.recorded import write_recorded
from vram_search.export.trial import study_shape
from vram_search.importing.history import History
from vram_search.importing.llamafactory import parse_trainer_log
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.protocol import LoadFailed, LoadJob
from vram_search.spec import Card, Hyperparameters, MemoryPlan
from vram_search.store import Evaluation, StepLoss, StudyRecord, TrialRecord
from vram_search.verify import llamafactory_rows
from vram_search.verify.compare import (
    Check,
    batch_mean,
    compare_eval_loss,
    compare_first_loss,
    compare_learning_rates,
    compare_peak,
    compare_reproduced,
    compare_rows,
)
from vram_search.verify.environment import (
    ToolEnvironment,
    last_lines,
    run_logged,
    tool_variables,
)
from vram_search.verify.recorded_rows import Question, RecordedRows, RowInShort

TRAINER_LOG = "trainer_log.jsonl"
PROGRESS_SECONDS = 10.0
PADDED_TO = 8
"""Multiple in tokens that rows are padded to (LLaMA-Factory `train/sft/workflow.py`,
`pad_to_multiple_of`)."""
_REQUIRED = ("eval_rows", "first_loss")
"""Checks that must have been made for the verification to agree."""
_TOOL_ROWS: TypeAdapter[dict[str, tuple[RowInShort, ...]]] = TypeAdapter(
    dict[str, tuple[RowInShort, ...]]
)
_ANSWER: TypeAdapter[RecordedRows | LoadFailed] = TypeAdapter(RecordedRows | LoadFailed)


@dataclass(frozen=True)
class Recorded:
    """A trial with its recorded losses and evaluations."""

    study: StudyRecord
    trial: TrialRecord
    step_losses: Sequence[StepLoss]
    evaluations: Sequence[Evaluation]

    @property
    def best(self) -> Evaluation:
        """The evaluation of the best checkpoint."""
        step = self.trial.eval_loss_step
        return next(e for e in reversed(self.evaluations) if e.step == step)


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        overrides: keys with other values than in the exported YAML, as `key=value`.
        checks: the checks in the order in which they were made.
        seconds: duration of the tool's training.
    """

    tool: ToolEnvironment
    folder: Path
    overrides: tuple[str, ...]
    checks: tuple[Check, ...]
    seconds: float

    @property
    def agrees(self) -> bool:
        """True if no check disagrees and the rows and the first loss were compared."""
        asked = {check.name for check in self.checks if check.agrees}
        return all(check.agrees is not False for check in self.checks) and asked.issuperset(
            _REQUIRED
        )


def verify(
    recorded: Recorded,
    tool: ToolEnvironment,
    folder: Path,
    tell: Callable[[str], None],
    *,
    tolerance: float,
    template: str | None = None,
) -> Verification:
    """Exports the trial into `folder`, trains it with LLaMA-Factory there, and compares.

    Args:
        tell: called with each line of progress.
        tolerance: nats per token by which the eval_loss may differ.
        template: LLaMA-Factory's template; the default is that of an export.

    Raises:
        InputError: the trial cannot be exported or has no kept adapter, or the tool cannot read it.
        VramSearchError: the tool's training failed.
    """
    question = question_of(recorded)
    folder = folder.resolve()
    file = write_recorded(recorded.study, recorded.trial, folder, template=template, force=True)[0]
    config = parse_yaml(file.read_text(encoding="utf-8"))
    overrides = overrides_for(config, recorded.trial, has_gpu=tool.has_gpu)
    run = _Run(tool, folder, [file.name, *overrides], _variables(recorded.trial))

    tell("the rows as the tool encodes them ...")
    theirs = run.encode_rows()
    tell("the trial's rows and its adapter's losses on them ...")
    ours = _ask_ourselves(question, folder)
    checks = [
        compare_rows("train", ours.train, theirs["train"]),
        compare_rows("eval", ours.eval, theirs["eval"]),
        compare_reproduced(
            recorded.best.example_loss_sums or [],
            ours.eval_loss_sums,
            ours.eval_at_study_cutoff,
            ours.eval,
        ),
    ]
    started = time.monotonic()
    tell(f"{config['max_steps']} optimizer steps in LLaMA-Factory; its log: {run.log}")
    history = run.train(folder / config["output_dir"] / TRAINER_LOG, tell)
    answer_tokens = [row[2] for row in ours.eval]
    mean = batch_mean(ours.eval_loss_sums, answer_tokens, config["per_device_eval_batch_size"])
    their_loss, _ = history.evaluations.get(recorded.best.step, (None, 0.0))
    evaluates = config["eval_strategy"] != "no"
    eval_loss = compare_eval_loss(mean, their_loss, tolerance, evaluates=evaluates)
    evaluation_bytes = _evaluation_bytes(recorded, config, ours) if evaluates else None
    checks += [
        compare_learning_rates(recorded.step_losses, history.losses),
        compare_first_loss(recorded.step_losses, history.losses),
        replace(eval_loss, note=eval_loss.note or f"best checkpoint, step {recorded.best.step}"),
        compare_peak(
            recorded.trial.measured, history.measured, evaluation_bytes, has_gpu=tool.has_gpu
        ),
    ]
    return Verification(tool, folder, tuple(overrides), tuple(checks), time.monotonic() - started)


def _evaluation_bytes(recorded: Recorded, config: dict[str, Any], rows: RecordedRows) -> int | None:
    """Returns the bytes predicted for the tool's evaluation if that is the peak of the run."""
    study, trial = recorded.study, recorded.trial
    shape = study_shape(study, config["model_name_or_path"])
    if shape is None:
        return None
    size = config["per_device_eval_batch_size"]
    plan = MemoryPlan.model_validate({**(trial.plan or {}), "per_device_eval_batch_size": size})
    padded = math.ceil(_longest(rows.eval) / PADDED_TO) * PADDED_TO
    workload = trainer_workload(
        shape,
        Hyperparameters.model_validate(trial.hyperparameters),
        plan,
        Longest(_longest(rows.train), padded),
    )
    card = Card.model_validate(study.spec["card"])
    found = predict(workload, MemoryBudget.of(card, shape).hardware)
    return found.allocated_bytes if found.moment == "evaluation" else None


def _longest(rows: Sequence[RowInShort]) -> int:
    return max(tokens for _, tokens, _ in rows)


def _check_complete(recorded: Recorded) -> None:
    study, trial = recorded.study, recorded.trial
    if study.is_imported:
        raise InputError(
            f"trial {trial.number} of study {study.name} was imported: it was not trained here",
            "verify a trial of a search",
        )
    if trial.outcome != "complete" or trial.eval_loss_step is None:
        raise InputError(
            f"trial {trial.number} of study {study.name} is {trial.outcome or 'running'}: it has "
            "no best checkpoint to compare with",
            "verify a complete trial; `vram-search top` lists them",
        )


def question_of(recorded: Recorded) -> Question:
    """Builds the question to our own code about the trial.

    Raises:
        InputError: the trial is not a complete one of a search, or its adapter was not kept.
    """
    _check_complete(recorded)
    study, trial = recorded.study, recorded.trial
    if trial.adapter_path is None or not Path(trial.adapter_path).is_dir():
        raise InputError(
            f"the adapter of trial {trial.number} of study {study.name} is not kept",
            "verify one of the study's five best trials",
        )
    spec, model = study.spec, study.model["model_name_or_path"]
    load = LoadJob.model_validate(
        {
            "model_name_or_path": model,
            "random_weights": False,
            "tokenizer": spec["model"]["tokenizer"] or model,
            "other_tokenizers": study.model.get("other_tokenizers", ()),
            "dataset": spec["dataset"],
            "seed": spec["seed"],
            "cutoff_lens": spec["search_space"]["cutoff_len"],
            "eval_cutoff_len": spec["training"]["eval_cutoff_len"]
            or max(spec["search_space"]["cutoff_len"]),
        }
    )
    return Question(
        load=load,
        cutoff_len=trial.hyperparameters["cutoff_len"],
        per_device_eval_batch_size=(trial.plan or {})["per_device_eval_batch_size"],
        adapter_path=trial.adapter_path,
    )


def overrides_for(config: dict[str, Any], trial: TrialRecord, *, has_gpu: bool) -> list[str]:
    """Returns the keys to override on a machine without a GPU.

    They set the dtype of the trial's training (`train.device.compute_dtype`), not the card's.
    """
    if has_gpu:
        return []
    dtype = (trial.versions or {}).get("compute_dtype", "bfloat16")
    wanted = {"fp16": dtype == "float16", "bf16": dtype == "bfloat16"}
    changed = [f"{key}={str(on).lower()}" for key, on in wanted.items() if config[key] != on]
    return ["use_cpu=true", *changed]


def _variables(trial: TrialRecord) -> dict[str, str]:
    """Returns the tool's variables; RECORD_VRAM makes it log torch's peaks
    (LLaMA-Factory `train/callbacks.py`, LogCallback)."""
    added = {"RECORD_VRAM": "1"}
    if (trial.plan or {})["expandable_segments"] and sys.platform == "linux":
        added["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return tool_variables(added)


@dataclass(frozen=True)
class _Run:
    """LLaMA-Factory run in an export's folder; `arguments` begin with the YAML's name."""

    tool: ToolEnvironment
    folder: Path
    arguments: list[str]
    variables: dict[str, str]

    @property
    def log(self) -> Path:
        return self.folder / "llama-factory.log"

    def encode_rows(self) -> dict[str, tuple[RowInShort, ...]]:
        answer = self.folder / "rows.tool.json"
        script = Path(llamafactory_rows.__file__)
        command: list[str | Path] = [self.tool.python, "-P", script, answer, *self.arguments]
        if run_logged(command, self.folder, self.log, self.variables) != 0:
            raise InputError(
                f"LLaMA-Factory cannot read the export:\n{last_lines(self.log)}",
                f"is its environment whole? Its log: {self.log}",
            )
        return _TOOL_ROWS.validate_json(answer.read_bytes())

    def train(self, trainer_log: Path, tell: Callable[[str], None]) -> History:
        """Runs `llamafactory-cli train` as a module."""
        trainer_log.unlink(missing_ok=True)
        progress = _Progress(trainer_log, tell)
        command: list[str | Path] = [
            self.tool.python,
            "-P",
            "-m",
            "llamafactory.cli",
            "train",
            *self.arguments,
        ]
        if run_logged(command, self.folder, self.log, self.variables, progress.tell_more) != 0:
            raise VramSearchError(
                f"LLaMA-Factory's training failed:\n{last_lines(self.log)}",
                f"its log: {self.log}",
            )
        return _read_log(trainer_log)


class _Progress:
    """Reports the steps in a log that another process writes, but not too often."""

    def __init__(self, trainer_log: Path, tell: Callable[[str], None]) -> None:
        self.trainer_log, self.tell = trainer_log, tell
        self.told_step, self.told_at = 0, -PROGRESS_SECONDS

    def tell_more(self) -> None:
        if time.monotonic() - self.told_at < PROGRESS_SECONDS or not self.trainer_log.exists():
            return
        history = _read_log(self.trainer_log)
        if history.losses and history.last_step > self.told_step:
            step = history.losses[max(history.losses)]
            loss = math.nan if step.loss is None else step.loss
            self.tell(f"  step {step.step} of {history.horizon}, loss {loss:.4f}")
            self.told_step, self.told_at = history.last_step, time.monotonic()


def _read_log(trainer_log: Path) -> History:
    try:
        text = trainer_log.read_text(encoding="utf-8")
    except OSError as error:
        raise VramSearchError(f"LLaMA-Factory left no log of its steps ({error})") from None
    return parse_trainer_log(text, str(trainer_log))[0]


def _ask_ourselves(question: Question, folder: Path) -> RecordedRows:
    asked, answer = folder / "question.json", folder / "rows.record.json"
    log = folder / "record.log"
    asked.write_text(question.model_dump_json(), encoding="utf-8")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "vram_search.verify.recorded_rows",
        asked,
        answer,
    ]
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if run_logged(command, Path.cwd(), log, variables) != 0:
        raise VramSearchError(
            f"the kept adapter could not be evaluated:\n{last_lines(log)}", f"its log: {log}"
        )
    found = _ANSWER.validate_json(answer.read_bytes())
    if isinstance(found, LoadFailed):
        raise InputError(found.message, found.remedy)
    return found
