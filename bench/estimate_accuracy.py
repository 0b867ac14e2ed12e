"""Predicted bytes against measured runs: `python -m bench.estimate_accuracy [--json]`.

    python -m bench.estimate_accuracy [--rows FILE ...] [--models FOLDER ...] [--json]

Rows have the fields of `tests/fixtures/vram_truth.jsonl`; without `--rows` those of
`families_truth.jsonl` follow, whose families have no formula and are traced (1 to 20 s for each
kind of training, once). Errors are of runs that finished; runs that died of out-of-memory count
only where limits are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from vram_search.errors import VramSearchError
from vram_search.estimate.margin import conformal_margin
from vram_search.estimate.memory.hardware import H200_CONTEXT
from vram_search.estimate.memory.predict import Estimate, predict
from vram_search.estimate.memory.workload import Workload
from vram_search.models.tree import read_shape
from vram_search.spec.shape import ModelShape, parse_shape
from vram_search.units import GIB, MIB

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "fixtures"
ROWS = (DATA / "vram_truth.jsonl", DATA / "families_truth.jsonl")
MODELS = (DATA / "families", ROOT / "configs" / "models")
CAP_TOLERANCE = 0.005

PLAIN = "nf4/bf16 sdpa"
OTHER = "int8, eager, evaluation"
TRACED = "traced, no formula"
GENERIC = "neither formula nor trace"

QLORA_4_BIT_TABLE = ((7e9, 6e9), (14e9, 12e9), (30e9, 24e9), (70e9, 48e9))
"""Parameters and bytes of the row "QLoRA, 4 bit" in LLaMA-Factory's README."""


@dataclass(frozen=True)
class Run:
    """A measured row and what is predicted for it."""

    row: dict[str, Any]
    workload: Workload
    estimate: Estimate

    @property
    def family(self) -> str:
        """The model's name up to its size: "llama-3.1" of "llama-3.1-8b"."""
        return re.split(r"-\d+(?:\.\d+)?[bm](?:-|$)", self.row["model"])[0]

    @property
    def group(self) -> str:
        row = self.row
        if self.workload.shape.not_modelled:
            return TRACED if self.estimate.is_traced else GENERIC
        other = row["quantization"] == "int8" or row["attention"] != "sdpa"
        return OTHER if other or row["per_device_eval_batch_size"] else PLAIN

    @cached_property
    def required_bytes(self) -> int:
        """By the replay, as `estimate` answers; `estimate.required_bytes` is the closed form."""
        return self.estimate.with_replay().required_bytes

    @property
    def ratio(self) -> float:
        """Measured / predicted allocated bytes."""
        return float(self.row["max_allocated_bytes"] / self.estimate.allocated_bytes)


def accelerate_inference(run: Run) -> float:
    """`accelerate estimate-memory`: int4 "total size", and its documented 20 % for inference."""
    return run.workload.shape.parameters / 2 * 1.2


def llama_factory_table(run: Run) -> float:
    """QLORA_4_BIT_TABLE, linear in parameters; its first and last segments go on outside it."""
    parameters = run.workload.shape.parameters
    segments = list(pairwise(QLORA_4_BIT_TABLE))
    (x0, y0), (x1, y1) = next(
        (segment for segment in segments if parameters <= segment[1][0]), segments[-1]
    )
    return y0 + (y1 - y0) * (parameters - x0) / (x1 - x0)


def parameter_count(run: Run) -> float:
    """4 bits a parameter; fp32 weight, gradient and two moments of the adapter."""
    trainable = int(run.row["trainable_parameters"])
    return run.workload.shape.parameters * 0.5 + trainable * (4 + 4 + 8)


PREDICTORS: dict[str, Callable[[Run], float]] = {
    "vram-search predict": lambda run: run.estimate.allocated_bytes,
    "accelerate int4 total size x 1.2": accelerate_inference,
    "LLaMA-Factory README QLoRA 4-bit": llama_factory_table,
    "params x 0.5 + trainable x 16": parameter_count,
}


def read_row_shape(row: dict[str, Any], models: Path | Sequence[Path]) -> ModelShape:
    """The shape of a row's model, from the first folder that has it."""
    folders = [models] if isinstance(models, Path) else models
    files = [folder / row["model"] / "config.json" for folder in folders]
    file = next((one for one in files if one.exists()), files[0])
    layers = row.get("num_hidden_layers")
    if not layers:
        return read_shape(file)
    config = json.loads(file.read_text(encoding="utf-8"))
    config["num_hidden_layers"] = layers
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:layers]
    return parse_shape(config, str(file))


def build_workload(row: dict[str, Any], models: Path | Sequence[Path] = MODELS) -> Workload:
    """The workload that a row describes."""
    shape = read_row_shape(row, models)
    target = row["lora_target"]
    names = "all" if target == "all-linear" else ",".join(target)
    eval_batch = row["per_device_eval_batch_size"]
    return Workload(
        shape=shape,
        lora_modules=shape.estimated_modules(names),
        lora_rank=row["lora_rank"],
        optimizer=row["optimizer"],
        per_device_train_batch_size=row["per_device_train_batch_size"],
        cutoff_len=row["cutoff_len"],
        gradient_checkpointing=row["gradient_checkpointing"],
        gradient_accumulation_steps=row["gradient_accumulation_steps"],
        quantization=row["quantization"],
        double_quantization=row["double_quantization"],
        attention=row["attention"],
        prepare_for_kbit_training=row["prepare_for_kbit_training"],
        fused_linear_cross_entropy=row["fused_linear_cross_entropy"],
        per_device_eval_batch_size=eval_batch,
        eval_cutoff_len=row["cutoff_len"] if eval_batch else 0,
        prediction_loss_only=row.get("prediction_loss_only", True),
        equal_lengths=row["lengths"] == "full",
        expandable_segments="expandable_segments:True" in str(row["env"]),
    )


def load_runs(
    files: Iterable[Path],
    models: Path | Sequence[Path] = MODELS,
    refused: dict[str, str] | None = None,
) -> list[Run]:
    """Measured rows with their predictions; rows whose measurement failed are left out.

    Args:
        refused: gets the reasons of rows that cannot be predicted, by model and note; without it
            the first of them raises.
    """
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    runs = []
    for row in (json.loads(line) for line in lines if line.strip()):
        if "error" in row:
            continue
        try:
            workload = build_workload(row, models)
            runs.append(Run(row, workload, predict(workload)))
        except (VramSearchError, ValueError) as error:
            if refused is None:
                raise
            refused[f"{row['model']}, {row['note']}"] = str(error)
    return runs


def nearest_rank(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def errors(
    runs: Sequence[Run],
    predictor: Callable[[Run], float] = PREDICTORS["vram-search predict"],
    measured: str = "max_allocated_bytes",
) -> dict[str, float]:
    """Relative errors, absolute but for `bias` (the median signed one; below 0: too low)."""
    if not runs:
        return {"runs": 0, "setups": 0}
    signed = [predictor(run) / run.row[measured] - 1 for run in runs]
    sizes = [abs(value) for value in signed]
    return {
        "runs": len(runs),
        "setups": len({run.workload for run in runs}),
        "median": round(statistics.median(sizes), 6),
        "p95": round(nearest_rank(sizes, 0.95), 6),
        "worst": round(max(sizes), 6),
        "bias": round(statistics.median(signed), 6),
    }


def leave_out(family: str, runs: Sequence[Run]) -> dict[str, float]:
    """Errors of one family, and how the margin learnt from the other families covers it."""
    inside = [run for run in runs if run.family == family]
    outside = [run.ratio for run in runs if run.family != family]
    result = errors(inside)
    if outside:
        margin = conformal_margin((), prior=outside)
        result["margin"] = round(margin, 6)
        result["covered"] = sum(run.ratio <= 1 + margin for run in inside)
    return result


def process_bytes(runs: Sequence[Run]) -> dict[str, float]:
    """How often NVML's figure is the allocator's reserved bytes and the context, to the byte."""
    off = [
        abs(run.row["nvml_process_bytes"] - run.row["max_reserved_bytes"] - H200_CONTEXT)
        for run in runs
        if run.row.get("nvml_process_bytes") is not None
    ]
    return {"runs": len(off), "exact": off.count(0), "worst_bytes": max(off, default=0)}


def limits(runs: Sequence[Run], required_of: Callable[[Run], int]) -> dict[str, Any]:
    """Predicted smallest limit against limits under which runs died and finished."""
    capped = [run for run in runs if run.row["cap_gib"] is not None]
    died = [run for run in capped if not run.row["trained"]]
    too_low = [
        run for run in died if required_of(run) < run.row["cap_gib"] * GIB * (1 - CAP_TOLERANCE)
    ]
    smallest: dict[Workload, float] = {}
    required: dict[Workload, int] = {}
    for run in capped:
        if run.row["trained"]:
            cap = run.row["cap_gib"] * GIB
            smallest[run.workload] = min(cap, smallest.get(run.workload, cap))
            required[run.workload] = required_of(run)
    excess = [required[workload] / cap - 1 for workload, cap in smallest.items()]
    result: dict[str, Any] = {
        "died": len(died),
        "died_too_low": len(too_low),
        "setups_that_finished": len(excess),
    }
    if excess:
        result["excess_median"] = round(statistics.median(excess), 6)
        result["excess_lowest"] = round(min(excess), 6)
        result["excess_highest"] = round(max(excess), 6)
    return result


def _others(runs: Sequence[Run]) -> list[str]:
    """Groups of models without a formula that have runs."""
    return sorted({run.group for run in runs} - {PLAIN, OTHER})


def accuracy(runs: Sequence[Run]) -> dict[str, Any]:
    """All figures, as `--json` prints them."""
    trained = [run for run in runs if run.row["trained"]]
    free = [run for run in trained if run.row["cap_gib"] is None]
    equal = [run for run in free if run.workload.equal_lengths and not run.estimate.is_traced]
    return {
        "rows": len(runs),
        "trained": len(trained),
        "allocated": {
            group: errors([run for run in trained if run.group == group])
            for group in (PLAIN, OTHER, *_others(trained))
        },
        "reserved_equal_lengths": errors(
            equal, lambda run: run.estimate.reserved_bytes, "max_reserved_bytes"
        ),
        "process": process_bytes(free),
        "limits": limits(runs, lambda run: run.required_bytes),
        "limits_closed_form": limits(runs, lambda run: run.estimate.required_bytes),
        "families": {
            family: leave_out(family, trained) for family in sorted({run.family for run in trained})
        },
        "predictors": {name: errors(trained, predictor) for name, predictor in PREDICTORS.items()},
    }


def line(name: str, figures: dict[str, float]) -> str:
    """A table line of up to 78 columns."""
    counts = f"{name:<33}{figures['runs']:>5.0f}{figures['setups']:>7.0f}"
    if not figures["runs"]:
        return counts
    shares = [figures[key] for key in ("median", "p95", "worst")]
    return counts + "".join(f"{share:8.2%}" for share in shares) + f"{figures['bias']:+9.2%}"


def limit_lines(name: str, found: dict[str, Any]) -> Iterable[str]:
    """The predicted smallest limit beside limits that killed a run, and that it survived."""
    yield f"{name}, of {found['died']} runs that died under a limit:"
    yield f"  {found['died_too_low']} predicted more than {CAP_TOLERANCE:.1%} below that limit"
    if found["setups_that_finished"]:
        yield (
            f"  smallest limit survived, {found['setups_that_finished']} setups: median "
            f"{found['excess_median']:+.2%} ({found['excess_lowest']:+.2%} to "
            f"{found['excess_highest']:+.2%})"
        )


def lines(result: dict[str, Any]) -> Iterable[str]:
    """The report for a person."""
    head = f"{'runs':>5}{'setups':>7}{'median':>8}{'p95':>8}{'worst':>8}{'bias':>9}"
    yield f"{result['rows']} rows, {result['trained']} finished. Relative errors, absolute;"
    yield "bias is the median signed one. Setups: runs that differ in more than a limit."
    yield ""
    yield f"{'allocated':<33}{head}"
    for group, figures in result["allocated"].items():
        yield line(group, figures)
    yield ""
    yield f"{'reserved (no limit)':<33}{head}"
    yield line("equal lengths", result["reserved_equal_lengths"])
    process = result["process"]
    yield ""
    yield (
        f"process = reserved + {H200_CONTEXT:,} bytes: exact in {process['exact']} of "
        f"{process['runs']}"
    )
    yield f"  runs without a limit, worst {process['worst_bytes'] / MIB:.1f} MiB off"
    yield ""
    yield from limit_lines("required, by a replay", result["limits"])
    yield from limit_lines("required, closed form", result["limits_closed_form"])
    yield ""
    yield f"{'allocated, one family left out':<33}{head}"
    yield "  No constant is fitted per family, so these are each family's own figures."
    for family, figures in result["families"].items():
        yield line(family, figures)
        if "margin" in figures:
            yield (
                f"  margin of the others' residuals {figures['margin']:.2%} "
                f"covers {figures['covered']:.0f} of {figures['runs']:.0f}"
            )
    yield ""
    yield f"{'allocated, against baselines':<33}{head}"
    for name, figures in result["predictors"].items():
        yield line(name, figures)
    yield "  accelerate: `estimate-memory` int4 total size (parameters / 2 bytes), 20 %"
    yield "  added for inference; its Adam figure (4 x) knows no LoRA and is left out."
    yield "  LLaMA-Factory: 7B 6 GB, 14B 12 GB, 30B 24 GB, 70B 48 GB, linear between."


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, nargs="+", default=list(ROWS))
    parser.add_argument("--models", type=Path, nargs="+", default=list(MODELS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    refused: dict[str, str] = {}
    runs = load_runs(arguments.rows, arguments.models, refused)
    result = accuracy(runs)
    print(json.dumps(result, sort_keys=True) if arguments.json else "\n".join(lines(result)))
    for row, reason in refused.items():
        print(f"refused: {row}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
