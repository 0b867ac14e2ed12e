"""Trains a trial's export with the real tool and compares every figure that both have."""

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
from vram_search.estimate.recipes.trl import as_trl_computes
from vram_search.export.evaluation import trainer_workload
from vram_search.export.recorded import write_recorded
from vram_search.export.trial import study_shape
from vram_search.importing.history import History
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.protocol import LoadFailed, LoadJob
from vram_search.spec import Card, Hyperparameters, MemoryPlan
from vram_search.spec.dataset import recorded_dataset
from vram_search.store import Evaluation, StepLoss, StudyRecord, TrialRecord
from vram_search.store.adapter_files import check_adapter
from vram_search.verify.compare import (
    Check,
    PredictedPeak,
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
from vram_search.verify.llamafactory_run import LlamaFactoryRun
from vram_search.verify.recorded_rows import Question, RecordedRows, RowInShort
from vram_search.verify.tool_run import ToolRows, ToolRun
from vram_search.verify.tools import AXOLOTL, LLAMA_FACTORY, TRL, UNSLOTH, RealTool
from vram_search.verify.trainer_tool import TrainerRun

PADDED_TO = 8
"""Multiple in tokens that rows are padded to (LLaMA-Factory `train/sft/workflow.py`,
`pad_to_multiple_of`)."""
_REQUIRED = ("train_rows", "first_loss")
"""Checks that must have been made for the verification to agree."""
_FROM_TRAINING = ("learning_rates", "first_loss", "eval_loss", "allocated_bytes")
"""Checks that need the tool's training."""
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
    real: RealTool = LLAMA_FACTORY,
) -> Verification:
    """Exports the trial into `folder`, trains it with the tool there, and compares.

    Without a GPU, a script for a tool that needs one has its rows compared and nothing else.

    Args:
        tell: called with each line of progress.
        tolerance: nats per token by which the eval_loss may differ.
        template: the tool's template; the default is that of an export.
        real: the tool that `tool` is an environment of.

    Raises:
        InputError: the trial cannot be exported or has no kept adapter, or the tool cannot read it.
        VramSearchError: the tool's training failed.
    """
    if recorded.trial.hyperparameters.get("packing"):
        raise InputError(
            f"trial {recorded.trial.number} joins its rows (packing), and a verification compares "
            "row by row",
            "verify a trial without packing",
        )
    question = question_of(recorded)
    folder = folder.resolve()
    run, config = _run_of(recorded, real, tool, folder, template)

    tell("the rows as the tool encodes them ...")
    theirs = run.encode_rows()
    tell("the trial's rows and its adapter's losses on them ...")
    ours = _ask_ourselves(question, folder)
    checks = [compare_rows("train", ours.train, theirs.train)]
    if theirs.eval or theirs.eval_batch_size:
        checks.append(compare_rows("eval", ours.eval, theirs.eval))
    checks.append(
        compare_reproduced(
            recorded.best.example_loss_sums or [],
            ours.eval_loss_sums,
            ours.eval_at_study_cutoff,
            ours.eval,
        )
    )
    started = time.monotonic()
    if real.needs_gpu and not tool.has_gpu:
        note = f"not compared: {real.title} trains on a GPU only, and its torch finds none"
        checks += [Check(name, None, note=note) for name in _FROM_TRAINING]
        return Verification(tool, folder, run.overrides, tuple(checks), 0.0)
    tell(f"{theirs.max_steps} optimizer steps in {real.title}; its log: {run.log}")
    history = run.train(tell)
    trained = _training_checks(recorded, real, tool, theirs, ours, history, tolerance)
    if _warms_up_longer(real, config):
        note = "not compared: it makes 2 warm-up steps of 1"
        trained = _not_judged(trained, ("learning_rates", "eval_loss"), note)
    if real is AXOLOTL:
        # It sets no seed before it makes the adapter; the Trainer does, after that (Axolotl 0.19).
        note = "not compared: it draws the adapter's first weights without a seed"
        trained = _not_judged(trained, ("eval_loss",), note)
    dtype = trained_dtype(recorded.trial)
    if real is AXOLOTL and not tool.has_gpu and dtype != "float32":
        note = f"not compared: it computes in float32 without a GPU, the trial did in {dtype}"
        trained = _not_judged(trained, ("first_loss", "eval_loss"), note)
    checks += trained
    return Verification(tool, folder, run.overrides, tuple(checks), time.monotonic() - started)


def _run_of(
    recorded: Recorded, real: RealTool, tool: ToolEnvironment, folder: Path, template: str | None
) -> tuple[ToolRun, dict[str, Any]]:
    """Exports the trial for the tool, and prepares its run; also returns the exported settings."""
    study, trial = recorded.study, recorded.trial
    files = write_recorded(study, trial, folder, to=real.name, template=template, force=True)
    config = parse_yaml(files[0].read_text(encoding="utf-8"))
    if real is LLAMA_FACTORY:
        overrides = overrides_for(config, trial, has_gpu=tool.has_gpu)
        return LlamaFactoryRun(tool, files[0], config, overrides, _variables(trial)), config
    overrides = [] if tool.has_gpu else overrides_on_cpu(real, config, trial)
    return TrainerRun(real, tool, files[0], overrides, _variables(trial)), config


def _warms_up_longer(real: RealTool, config: dict[str, Any]) -> bool:
    """True if the tool makes two warm-up steps of the one that is set: Axolotl 0.19 does
    (`core/builders/base.py`), and it has no other key for one step."""
    return real is AXOLOTL and config["warmup_steps"] == 1


def _not_judged(checks: Sequence[Check], names: Sequence[str], note: str) -> list[Check]:
    """Returns the checks, these with their figures and the reason why they are not judged."""
    return [replace(one, agrees=None, note=note) if one.name in names else one for one in checks]


def _training_checks(
    recorded: Recorded,
    real: RealTool,
    tool: ToolEnvironment,
    theirs: ToolRows,
    ours: RecordedRows,
    history: History,
    tolerance: float,
) -> list[Check]:
    """Compares what the tool's training logged."""
    answer_tokens = [row[2] for row in ours.eval]
    evaluates = theirs.eval_batch_size is not None
    mean = batch_mean(ours.eval_loss_sums, answer_tokens, theirs.eval_batch_size or 1)
    their_loss, _ = history.evaluations.get(recorded.best.step, (None, 0.0))
    eval_loss = compare_eval_loss(mean, their_loss, tolerance, evaluates=evaluates)
    predicted = _tools_own_peak(recorded, real, theirs.eval_batch_size, ours)
    return [
        compare_learning_rates(recorded.step_losses, history.losses),
        compare_first_loss(recorded.step_losses, history.losses),
        replace(eval_loss, note=eval_loss.note or f"best checkpoint, step {recorded.best.step}"),
        compare_peak(recorded.trial.measured, history.measured, predicted, has_gpu=tool.has_gpu),
    ]


def _tools_own_peak(
    recorded: Recorded, real: RealTool, eval_batch_size: int | None, rows: RecordedRows
) -> PredictedPeak | None:
    """Returns the peak predicted for the tool where it needs more than the trial by design: the
    tiles of TRL's loss, and the logits of a whole evaluation batch elsewhere. Unsloth has neither.

    Args:
        eval_batch_size: rows of an evaluation batch; None: it does not evaluate.
    """
    if real is UNSLOTH or (real is not TRL and eval_batch_size is None):
        return None
    study, trial = recorded.study, recorded.trial
    model = study.model.get("model_name_or_path") or study.spec["model"]["model_name_or_path"]
    shape = study_shape(study, model)
    if shape is None:
        return None
    size = {"per_device_eval_batch_size": eval_batch_size} if eval_batch_size else {}
    plan = MemoryPlan.model_validate({**(trial.plan or {}), **size})
    padded = math.ceil(_longest(rows.eval) / PADDED_TO) * PADDED_TO
    workload = trainer_workload(
        shape,
        Hyperparameters.model_validate(trial.hyperparameters),
        plan,
        Longest(_longest(rows.train), padded),
    )
    hardware = MemoryBudget.of(Card.model_validate(study.spec["card"]), shape).hardware
    if real is TRL:
        found = predict(as_trl_computes(workload), hardware)
        return PredictedPeak(found.allocated_bytes, "the tiles of the tool's loss")
    found = predict(workload, hardware)
    if found.moment != "evaluation":
        return None
    return PredictedPeak(found.allocated_bytes, "the tool's evaluation in fp32")


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
        InputError: the trial is not a complete one of a search, its adapter was not kept, or its
            rows are missing.
    """
    _check_complete(recorded)
    study, trial = recorded.study, recorded.trial
    if trial.adapter_path is None or not Path(trial.adapter_path).is_dir():
        raise InputError(
            f"the adapter of trial {trial.number} of study {study.name} is not kept",
            "verify one of the study's five best trials",
        )
    check_adapter(Path(trial.adapter_path), "verify another of the study's five best trials")
    spec, model = study.spec, study.model["model_name_or_path"]
    load = LoadJob.model_validate(
        {
            "model_name_or_path": model,
            "random_weights": False,
            "tokenizer": spec["model"]["tokenizer"] or model,
            "other_tokenizers": study.model.get("other_tokenizers", ()),
            "dataset": recorded_dataset(spec, study.name),
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
    dtype = trained_dtype(trial)
    wanted = {"fp16": dtype == "float16", "bf16": dtype == "bfloat16"}
    changed = [f"{key}={str(on).lower()}" for key, on in wanted.items() if config[key] != on]
    return ["use_cpu=true", *changed]


def overrides_on_cpu(real: RealTool, config: dict[str, Any], trial: TrialRecord) -> list[str]:
    """Returns the same for a tool that trains with transformers' Trainer."""
    dtype = trained_dtype(trial)
    if real is AXOLOTL:
        # It has no key for the Trainer's `use_cpu`, without which transformers refuses bf16 and
        # fp16 on a machine without a GPU (`training_args.py`): it trains in fp32 here.
        return [f"{key}=false" for key in ("bf16", "fp16") if config[key]]
    if not real.is_script:
        keys = overrides_for(config, trial, has_gpu=False)
        return keys if config["dtype"] == dtype else [*keys, f"dtype={dtype}"]
    training = config["training"]
    wanted: dict[str, tuple[Any, Any]] = {
        "model.dtype": (config["model"]["dtype"], dtype),
        "training.bf16": (training["bf16"], dtype == "bfloat16"),
        "training.fp16": (training["fp16"], dtype == "float16"),
    }
    if "quantization" in config:
        key = "bnb_4bit_compute_dtype"
        wanted[f"quantization.{key}"] = (config["quantization"][key], dtype)
    return [f"{name}={str(new).lower()}" for name, (old, new) in wanted.items() if old != new]


def trained_dtype(trial: TrialRecord) -> str:
    """Returns the dtype that the trial was trained in; older records hold none: bfloat16."""
    return (trial.versions or {}).get("compute_dtype", "bfloat16")


def _variables(trial: TrialRecord) -> dict[str, str]:
    """Returns the tool's variables; RECORD_VRAM makes it log torch's peaks
    (LLaMA-Factory `train/callbacks.py`, LogCallback)."""
    added = {"RECORD_VRAM": "1"}
    if (trial.plan or {})["expandable_segments"] and sys.platform == "linux":
        added["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return tool_variables(added)


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
