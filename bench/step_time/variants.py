"""Ways to run the same optimizer step, side by side on a GPU: seconds per step and per training.

    python -m bench.step_time.variants [--model qwen2.5-0.5b] [--rounds 3]

`plain` is what trials do. `waiting` lets bitsandbytes wait for the card after every tensor, as it
does by itself. `compiled` runs each decoder layer through torch.compile; every trial attaches a new
adapter, so its first step compiles again.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from bench.step_time.measure import configurations, load_job, measure
from vram_search.train import model as base_model
from vram_search.train import trainer

attach_adapter = base_model.attach_adapter


def attach_compiled(base: Any, job: Any) -> Any:
    model = attach_adapter(base, job)
    for layer in base.get_decoder().layers:
        layer.compile()
    return model


def waiting() -> Any:
    return patch.object(trainer, "steps_in_the_background", lambda **_: contextlib.nullcontext())


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "plain": contextlib.nullcontext,
    "waiting": waiting,
    "compiled": lambda: patch.object(base_model, "attach_adapter", attach_compiled),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()
    base = base_model.load_base(load_job(arguments.model))
    row = {**configurations(False)[0], "cutoff_len": 1024, "checkpointing": False}
    measure(base, row)  # warms up
    steps, walls = defaultdict(list), defaultdict(list)
    for _ in range(arguments.rounds):
        for name in arguments.variants:
            began = time.perf_counter()
            with VARIANTS[name]():
                steps[name].append(measure(base, row)["step_seconds"])
            walls[name].append(time.perf_counter() - began)
    for name, seconds in steps.items():
        ratio = statistics.median(seconds) / statistics.median(steps["plain"])
        wall = ", ".join(f"{value:.1f}" for value in walls[name])
        print(f"{name:9} {statistics.median(seconds):.3f} s a step, {ratio:.2f} x plain; ", end="")
        print(f"trainings of 3 steps took {wall} s", flush=True)


if __name__ == "__main__":
    main()
