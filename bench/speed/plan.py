"""Tokens per second of the planner's choice against the settings of LLaMA-Factory's examples.

    python -m bench.speed.plan [--models qwen2.5-0.5b ...] [--steps 5] [--out FILE.json]

On a GPU that plays a 16 GB card: random weights, the same rows in the same order, effective batch
8, LoRA on all linear layers. LLaMA-Factory's QLoRA examples (`examples/train_qlora/`) train
micro-batch 1 x accumulation 8 with gradient checkpointing and without fused loss. Both settings
train in the search's own training process (`worker.resident`), one model after the other.

An H200 needs about 150 s: 45 s of it load the six processes in pairs, 60 s are the 8 micro-batches
a step of LLaMA-Factory's settings, 20 s the planner's steps, 25 s probes and evaluations.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.gpu_trials.setup import open_gpu, progress, write_report
from vram_search.data import load_rows
from vram_search.errors import VramSearchError
from vram_search.estimate import choose_plan, plans, workload_of
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import decide_liger
from vram_search.estimate.step_time import (
    StepTimeModel,
    model_flops,
    padded_tokens,
    speed_here,
    step_seconds,
)
from vram_search.protocol import AnyEvent, LoadJob, Step, TrialJob
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape, PlanPins, load_shape
from vram_search.spec.card import load_card
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.resident import ResidentTrainer
from vram_search.worker.step_time import approximate_row_tokens

MODELS = ("qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b")
CARD = "rtx-5060-ti-16gb"
CUTOFF_LEN = 1024
POINT = Hyperparameters(
    optim="adamw_torch_fused",
    lora_target="all",
    lora_rank=8,
    lora_alpha=16,
    cutoff_len=CUTOFF_LEN,
    batch_size=8,
    learning_rate=1e-4,
)
PLANNER, EXAMPLES = "planner", "LLaMA-Factory"
EXAMPLES_PLAN = MemoryPlan(
    per_device_train_batch_size=1,
    gradient_accumulation_steps=8,
    gradient_checkpointing=True,
    expandable_segments=True,
)
VAL_SIZE = 4
SEED = 1


@dataclass(frozen=True)
class Result:
    """One model under one plan."""

    model: str
    setting: str
    plan: str
    step_seconds: float
    """Mean of all steps but the first, from one to the next: loading of rows included."""
    predicted_step_seconds: float
    tokens_per_second: float
    """Padding does not count."""
    peak_share: float
    """Share of the card's peak, counting the operations of the model without recomputation."""
    allocated_bytes: int


@dataclass(frozen=True)
class Report:
    """Figures so far, in the order they were measured."""

    device: str
    steps: int
    results: list[Result]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "card": CARD, "ratios": ratios(self.results)}


@dataclass(frozen=True)
class Setting:
    """A model, how its plan was found, and the process that trains it."""

    model: str
    name: str
    shape: ModelShape
    pins: PlanPins
    trainer: ResidentTrainer


def write_rows(folder: Path, steps: int) -> DatasetSpec:
    """Rows whose lengths vary as those of instruction data do: log-normal, median 400 bytes."""
    draw = random.Random(SEED)
    lengths = [min(950, round(draw.lognormvariate(6.0, 0.7))) for _ in range(steps * 8 + VAL_SIZE)]
    lines = [
        json.dumps({"instruction": f"Question {n}?", "output": "an answer " * (length // 10 + 1)})
        for n, length in enumerate(lengths)
    ]
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return DatasetSpec(train=str(file), val_size=VAL_SIZE)


def settings_of(model: str, card: Card, dataset: DatasetSpec, folder: Path) -> list[Setting]:
    """Both settings of a model; their processes are not started yet."""
    shape = load_shape(shipped("configs", "models", model))
    limit = MemoryBudget.of(card, shape)
    found = []
    for name, liger in ((EXAMPLES, False), (PLANNER, None)):
        pins = PlanPins(enable_liger_kernel=liger)
        pins = decide_liger(pins, shape, has_gpu=True)
        job = LoadJob(
            model_name_or_path=str(shipped("configs", "models", model)),
            random_weights=True,
            tokenizer=None,
            dataset=dataset,
            seed=SEED,
            cutoff_lens=(CUTOFF_LEN,),
            eval_cutoff_len=CUTOFF_LEN,
            cap_bytes=limit.budget_bytes,
            enable_liger_kernel=bool(pins.enable_liger_kernel),
        )
        log = folder / f"{model}-{name}.log"
        trainer = ResidentTrainer(job, log, expandable_segments=True, gpu_uuid=None)
        found.append(Setting(model, name, shape, pins, trainer))
    return found


def plan_of(
    setting: Setting, card: Card, step_time: StepTimeModel, row_tokens: Sequence[int]
) -> MemoryPlan:
    """LLaMA-Factory's, or the fastest that fits.

    Raises:
        VramSearchError: none fits.
    """
    if setting.name == EXAMPLES:
        return EXAMPLES_PLAN
    limit = MemoryBudget.of(card, setting.shape)
    candidates = plans(
        setting.shape,
        POINT,
        card,
        setting.pins,
        eval_cutoff_len=CUTOFF_LEN,
        step_time=step_time,
        row_tokens=row_tokens,
    )
    chosen = choose_plan(candidates, limit.budget_bytes, limit.margin)
    if chosen is None:
        raise VramSearchError(f"{setting.model} has no plan that fits {card.label}")
    return chosen.plan


def measure(setting: Setting, card: Card, dataset: DatasetSpec, steps: int, folder: Path) -> Result:
    """Trains the setting for so many steps.

    Raises:
        VramSearchError: it does not complete.
    """
    ready = setting.trainer.ready()
    rows = approximate_row_tokens(load_rows(dataset, SEED), ready.longest_tokens)
    step_time = StepTimeModel(speed_here(ready.device, card))
    plan = plan_of(setting, card, step_time, rows)
    ends: list[float] = []

    def on_event(event: AnyEvent) -> None:
        if isinstance(event, Step):
            ends.append(time.perf_counter())

    job = TrialJob(
        number=0,
        hyperparameters=POINT,
        target_modules=tuple(setting.shape.target_modules(POINT.lora_target)),
        plan=plan,
        training=TrainingSpec(max_steps=steps, rungs=()),
        eval_cutoff_len=CUTOFF_LEN,
        seed=SEED,
        adapter_folder=str(folder / f"{setting.model}-{setting.name}"),
    )
    finished = setting.trainer.run(job, on_event, lambda evaluated: False)
    if finished.outcome != "complete":
        what = f"{setting.model}, {setting.name} ({plan.label})"
        raise VramSearchError(f"{what}: {finished.outcome} in {finished.stage}: {finished.message}")
    # The median: Triton compiles for kinds of lengths that it meets first, once on a machine.
    seconds = statistics.median(end - start for start, end in pairwise(ends))
    return result_of(setting, plan, step_time, rows, seconds, finished.allocated_bytes or 0)


def result_of(
    setting: Setting,
    plan: MemoryPlan,
    step_time: StepTimeModel,
    row_tokens: Sequence[int],
    seconds: float,
    allocated_bytes: int,
) -> Result:
    """The figures of a plan whose steps take so many seconds."""
    mean_tokens = statistics.mean(min(tokens, CUTOFF_LEN) for tokens in row_tokens)
    workload = workload_of(setting.shape, POINT, plan, CUTOFF_LEN)
    rows, micro_batch = sorted(row_tokens, reverse=True), plan.per_device_train_batch_size
    padded = padded_tokens(rows, CUTOFF_LEN, plan.batch_size, micro_batch)
    flops = plan.gradient_accumulation_steps * model_flops(workload, mean_tokens)
    return Result(
        model=setting.model,
        setting=setting.name,
        plan=_short(plan),
        step_seconds=seconds,
        predicted_step_seconds=step_seconds(workload, step_time, padded),
        tokens_per_second=plan.batch_size * mean_tokens / seconds,
        peak_share=flops / seconds / step_time.speed.flops_per_second,
        allocated_bytes=allocated_bytes,
    )


def _short(plan: MemoryPlan) -> str:
    """A name of a plan for a narrow column: "4x2 ckpt"."""
    words = [f"{plan.per_device_train_batch_size}x{plan.gradient_accumulation_steps}"]
    words += ["ckpt"] if plan.gradient_checkpointing else []
    return " ".join([*words, "fused"] if plan.enable_liger_kernel else words)


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Tokens per second of the planner's plan / of LLaMA-Factory's, by model."""
    by_setting = {(r.model, r.setting): r.tokens_per_second for r in results}
    return {
        model: rate / by_setting[model, EXAMPLES]
        for (model, setting), rate in by_setting.items()
        if setting == PLANNER
    }


def row(result: Result) -> str:
    """A line of `table`."""
    return (
        f"{result.model:<14}{result.setting:<15}{result.plan:<16}{result.step_seconds:>7.3f}"
        f"{result.predicted_step_seconds:>7.3f}{result.tokens_per_second:>8.0f}"
        f"{result.peak_share:>7.1%}"
    )


def table(results: Sequence[Result]) -> str:
    """80 columns."""
    header = (
        f"{'model':<14}{'setting':<15}{'plan':<16}{'s/step':>7}{'pred.':>7}{'tok/s':>8}{'MFU':>7}"
    )
    lines = [header, *map(row, results)]
    found = ratios(results)
    lines += [f"{model}: {ratio:.2f} x" for model, ratio in found.items()]
    lines.append(f"geometric mean: {statistics.geometric_mean(found.values()):.2f} x")
    return "\n".join(lines)


def measure_model(
    model: str, card: Card, dataset: DatasetSpec, steps: int, folder: Path
) -> Iterator[Result]:
    """Both settings of a model: their processes load together, then one after the other trains.

    Raises:
        VramSearchError: one does not complete.
    """
    settings = settings_of(model, card, dataset, folder)
    with ExitStack() as stack:
        for setting in settings:
            stack.callback(setting.trainer.replace)
        with ThreadPoolExecutor(len(settings)) as pool:
            list(pool.map(lambda setting: setting.trainer.ready(), settings))
        for setting in settings:
            yield measure(setting, card, dataset, steps, folder)


def run(models: Sequence[str], steps: int, keep: Callable[[Report], None]) -> Report:
    """Measures the models one after the other.

    Args:
        keep: takes what is there after each setting.

    Raises:
        VramSearchError: there is no GPU, or a training does not complete.
    """
    report = Report(open_gpu().device().name, steps, [])
    card = Card.model_validate(load_card(CARD))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        dataset = write_rows(Path(name), steps)
        for model in models:
            for result in measure_model(model, card, dataset, steps, Path(name)):
                report.results.append(result)
                progress(row(result))
                keep(report)
    return report


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON, written anew after each setting")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: at least 2, the first is not measured")
    return arguments


def main() -> int:
    arguments = parse_arguments()

    def keep(report: Report) -> None:
        if arguments.out is not None:
            write_report(arguments.out, report.as_dict())

    try:
        report = run(arguments.models, arguments.steps, keep)
    except VramSearchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except TrainingDiedError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{CARD} emulated on {report.device}, cutoff {CUTOFF_LEN}, batch {POINT.batch_size}")
    print(table(report.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
