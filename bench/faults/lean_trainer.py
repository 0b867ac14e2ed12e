"""A training process that trains nothing and starts in 30 ms: it needs the standard library alone.

It speaks the same JSON lines as `vram_search.train` (`vram_search/protocol.py`). The environment
says what it reports and where it kills:

    LEAN_READY    the JSON object of its `ready` event
    LEAN_KILL     a file with `BOUNDARY WHO SIGNAL`; at that boundary the process deletes the file
                  and sends the signal to WHO: trainer, supervisor or both
    LEAN_STEP     seconds of a step
    LEAN_MIX      1: every ninth trial runs out of memory, every eleventh diverges
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

BOUNDARIES = (
    "start",
    "loaded",
    "untuned",
    "job",
    "probe",
    "probed",
    "train",
    "step",
    "evaluated",
    "verdict",
    "saving",
    "replacing",
    "saved",
    "finished",
)
"""Moments of a training process at which it can kill, in their order."""
SECONDS = 0.01


def send(**event: Any) -> None:
    """Writes an event; a supervisor that is dead ends this process."""
    try:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)


def receive() -> dict[str, Any]:
    """Reads the next job; the end of the input ends this process."""
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    job: dict[str, Any] = json.loads(line)
    return job


def reach(boundary: str) -> None:
    """Sends the signal that the kill file asks for at this boundary, once."""
    file = os.environ.get("LEAN_KILL")
    if not file:
        return
    try:
        wanted, who, number = Path(file).read_text().split()
    except (OSError, ValueError):
        return
    if wanted != boundary:
        return
    Path(file).unlink(missing_ok=True)
    if who in ("supervisor", "both"):
        os.kill(os.getppid(), int(number))
    if who in ("trainer", "both"):
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serves jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both processes
    reach("start")
    ready = json.loads(os.environ["LEAN_READY"])
    receive()
    send(event="ready", **ready)
    reach("loaded")
    while True:
        job = receive()
        if job["do"] == "evaluate_base":
            sums = [40.0] * ready["eval_rows"]
            loss = {"eval_loss": 4.0, "bits_per_byte": 4.0, "example_loss_sums": sums}
            send(event="base_evaluated", seconds=SECONDS, **loss)
            reach("untuned")
        elif job["do"] == "trial":
            reach("job")
            train(job, ready["train_rows"], ready["eval_rows"])


def train(job: dict[str, Any], train_rows: int, eval_rows: int) -> None:
    """The events of a trial."""
    training, point = job["training"], job["hyperparameters"]
    total = training["max_steps"] or math.ceil(
        training["epochs"] * train_rows / point["batch_size"]
    )
    send(event="stage", stage="probe", steps_total=total)
    reach("probe")
    send(event="probed", allocated_bytes=None, reserved_bytes=None, seconds=SECONDS)
    reach("probed")
    send(event="stage", stage="train", steps_total=total)
    reach("train")
    mixed = os.environ.get("LEAN_MIX") == "1"
    rungs = {round(rung * total) for rung in training["rungs"]} - {0, total}
    for step in range(1, total + 1):
        time.sleep(float(os.environ.get("LEAN_STEP", "0")))
        if mixed and step == 2 and job["number"] % 9 == 8:
            finish("oom", step, total, message="out of memory: tried to allocate 1 GiB")
            return
        if mixed and step == 3 and job["number"] % 11 == 10:
            finish("diverged", step, total)
            return
        loss = loss_after(point, step)
        rate = point["learning_rate"]
        send(event="step", step=step, loss=loss, learning_rate=rate, grad_norm=1, seconds=SECONDS)
        reach("step")
        if step in rungs:
            evaluate(step, total, loss, eval_rows)
            reach("evaluated")
            prune = receive()["prune"]
            reach("verdict")
            if prune:
                finish("pruned", step, total)
                return
    evaluate(total, total, loss_after(point, total), eval_rows)
    save_adapter(Path(job["adapter_folder"]))
    reach("saved")
    finish("complete", total, total)


def loss_after(point: dict[str, Any], step: int) -> float:
    """Falls with every step, faster at a learning rate of 1e-3 than at others."""
    return 2 + abs(math.log10(point["learning_rate"]) + 3) / 10 + 1 / (1 + step)


def evaluate(step: int, total: int, loss: float, eval_rows: int) -> None:
    """Sends the evaluation of a step."""
    send(
        event="evaluated",
        step=step,
        fraction=step / total,
        is_rung=step < total,
        eval_loss=loss,
        own_cutoff_eval_loss=loss if step == total else None,
        bits_per_byte=loss,
        example_loss_sums=[10 * loss] * eval_rows,
        seconds=SECONDS,
    )


def save_adapter(folder: Path) -> None:
    """Saves in the steps of `vram_search.train.run.save_adapter`."""
    fresh, old = (folder.with_name(folder.name + suffix) for suffix in (".new", ".old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    (fresh / "adapter_config.json").write_text("{}")
    reach("saving")
    (fresh / "adapter_model.safetensors").write_bytes(b"")
    if folder.exists():
        folder.replace(old)
    reach("replacing")
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def finish(outcome: str, step: int, total: int, message: str = "") -> None:
    """Sends the end of the trial."""
    seconds = dict.fromkeys(("probe", "train", "eval", "save"), SECONDS)
    figures = {"stage": "train", "step": step, "steps_total": total, "best_step": step}
    send(event="finished", outcome=outcome, seconds=seconds, message=message, **figures)
    reach("finished")


if __name__ == "__main__":
    main()
