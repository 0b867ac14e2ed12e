"""Simulates a search with many workers: hours to a good loss, trials asked for, seconds per ask."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from optuna.storages import InMemoryStorage

from bench.scale.synthetic_search import Training, best_loss, search_in, training

MOST_TRIALS = 600


def workers(
    counts: list[int], seeds: int, strategy: str, within: float, processes: int = 1
) -> Iterator[dict[str, Any]]:
    """Simulated hours until a search with so many workers is within a share of the best loss: the
    median over seeds, the least and the most.

    Args:
        processes: simulations side by side; seconds per ask are then those of a busier machine.
    """
    goal = best_loss() * (1 + within)
    alone: float | None = None
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        runs = {
            count: [pool.submit(simulate, count, seed, strategy, goal) for seed in range(seeds)]
            for count in sorted(counts, reverse=True)  # the longest first
        }
        for count in counts:
            found = [run.result() for run in runs[count]]
            all_hours = [one["hours"] for one in found]
            hours = statistics.median(all_hours)
            alone = hours * count if alone is None else alone
            yield {
                "workers": count,
                "hours": round(hours, 3),
                "least_hours": round(min(all_hours), 3),
                "most_hours": round(max(all_hours), 3),
                "trials": statistics.median(one["trials"] for one in found),
                "efficiency": round(alone / (hours * count), 3),
                "median_ask_seconds": round(statistics.median(one["ask"] for one in found), 3),
                "longest_ask_seconds": round(max(one["longest_ask"] for one in found), 3),
                "seeds": seeds,
                "reached": sum(one["reached"] for one in found),
            }


def simulate(count: int, seed: int, strategy: str, goal: float) -> dict[str, Any]:
    """Runs until the goal is reached; each worker asks as soon as its trial has ended.

    A trial is stopped at a rung as in a search: the decision is made at the rung's time.
    """
    search = search_in(InMemoryStorage(), strategy, seed)
    # (time, order, trial, its training, rungs passed)
    events: list[tuple[float, int, int, Training, int]] = []
    asked, clock = 0, 0.0
    asks_took: list[float] = []

    def start(at: float) -> None:
        nonlocal asked
        began = time.perf_counter()
        proposal = search.ask()
        asks_took.append(time.perf_counter() - began)
        run = training(proposal.hyperparameters, seed)
        heapq.heappush(events, (at + run.seconds / 3, asked, proposal.number, run, 0))
        asked += 1

    for _ in range(count):
        start(0.0)
    while events and asked < MOST_TRIALS + count:
        clock, order, number, run, rung = heapq.heappop(events)
        if rung < len(run.losses):
            if not search.should_prune(number, (rung + 1) / 3, run.losses[rung]):
                heapq.heappush(events, (clock + run.seconds / 3, order, number, run, rung + 1))
                continue
            search.tell(number, "pruned", None, -0.1)
        else:
            search.tell(number, "complete", run.final, -0.1)
            if run.final <= goal:
                return _result(clock, asks_took, reached=True)
        start(clock)
    return _result(clock, asks_took, reached=False)


def _result(clock: float, asks_took: list[float], *, reached: bool) -> dict[str, Any]:
    return {
        "hours": clock / 3600,
        "trials": len(asks_took),
        "ask": statistics.median(asks_took),
        "longest_ask": max(asks_took),
        "reached": reached,
    }
