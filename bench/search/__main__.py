"""Strategies of search replayed on tables of recorded runs (row format: bench/search/table.py).

python -m bench.search --table FILE.jsonl [--table ...] --seeds 30 --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.search import output
from bench.search.nights import Nights, Setting, TaskResults, play_all
from bench.search.picture import curves
from bench.search.replay import NIGHT_TRIALS, Costs
from bench.search.strategies import HUB_VARIABLE, LEVERS, STRATEGIES, chosen
from bench.search.table import read_tables
from vram_search.errors import InputError, VramSearchError
from vram_search.units import GIB

INFEASIBLE_SHARE = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        results, left_out = _run(options)
        if options.svg is not None:
            _write_pictures(results, options.svg)
    except VramSearchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"remedy: {error.remedy}", file=sys.stderr)
        return error.exit_code
    for name, modules in left_out.items():
        print(f"left out: {name} (needs {', '.join(modules)})", file=sys.stderr)
    if options.json:
        print(json.dumps(output.as_json(results, left_out)))
    else:
        print("\n\n".join([*map(output.table, results), output.LEGEND]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.search", description=(__doc__ or "").splitlines()[0]
    )
    costs = Costs()
    parser.add_argument("--table", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=_count, default=30)
    parser.add_argument(
        "--strategy",
        action="append",
        help=f"of {', '.join(STRATEGIES)}, which are the default, or a lever of ours: "
        f"{', '.join(LEVERS)}",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="write a picture a task")
    parser.add_argument("--processes", type=_count, default=2)
    parser.add_argument(
        "--nights",
        type=Path,
        metavar="FILE",
        help="JSON lines that keep each night as soon as it ends; nights in it are not played "
        "again, also those of strategies whose libraries are missing here",
    )
    parser.add_argument(
        "--equal-terms",
        action="store_true",
        help="every strategy gets what our worker has: one process for all trials, and memory "
        "known before training",
    )
    parser.add_argument(
        "--optunahub",
        type=Path,
        metavar="FOLDER",
        help="a checkout of github.com/optuna/optunahub-registry, for auto and meta tpe",
    )
    parser.add_argument(
        "--night-trials",
        type=_count,
        default=NIGHT_TRIALS,
        help="length of the night in full runs of the table (default %(default)s: eight hours of "
        "a 3B model on a 16 GB card)",
    )
    parser.add_argument(
        "--part",
        type=_part,
        default=1.0,
        metavar="SHARE",
        help="each seed draws this share of a table's configurations for its night: ours has few "
        "random numbers, and its nights on a whole table are nearly equal",
    )
    parser.add_argument(
        "--until-good",
        action="store_true",
        help="a night ends within 1 %% of the best: faster for peers with costly models, and only "
        "`s to 1 %%` is that of a whole night",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--infeasible-share",
        type=_share,
        default=INFEASIBLE_SHARE,
        help="share of the configurations that do not fit the emulated card (default %(default)s)",
    )
    limit.add_argument("--limit-gib", type=float, help="bytes that fit, instead of a share")
    for name, what in (
        ("start", "of a fresh process"),
        ("between", "between two trials of one process"),
        ("oom", "an out-of-memory trial costs, the new process included"),
    ):
        default = getattr(costs, name)
        parser.add_argument(
            f"--{name}-seconds", type=float, default=default, help=f"{what} (default {default})"
        )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not in 0 <= share < 1")
    return value


def _part(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not in 0 < share <= 1")
    return value


def _run(options: argparse.Namespace) -> tuple[list[TaskResults], dict[str, list[str]]]:
    if options.optunahub is not None:
        os.environ[HUB_VARIABLE] = str(options.optunahub.resolve())
    settings = _settings(options)
    kept = Nights(options.nights)
    strategies = chosen(options.strategy)
    left_out = {
        name: one.missing
        for name, one in strategies.items()
        if one.missing and name not in kept.names(settings)
    }
    names = [name for name in strategies if name not in left_out]
    if not names:
        raise InputError("no strategy can run here", "pip install 'vram-search[bench]'")
    playable = [name for name in names if not strategies[name].missing]
    play_all(settings, playable, options.seeds, options.processes, kept)
    results = [
        TaskResults(one, kept.by_strategy(one, names, range(options.seeds))) for one in settings
    ]
    return results, left_out


def _settings(options: argparse.Namespace) -> list[Setting]:
    costs = Costs(options.start_seconds, options.between_seconds, options.oom_seconds)
    found = []
    for table in read_tables(options.table):
        limit = table.limit_bytes(options.infeasible_share)
        if options.limit_gib is not None:
            limit = round(options.limit_gib * GIB)
        found.append(
            Setting.of(
                table,
                limit,
                costs,
                options.night_trials,
                equal_terms=options.equal_terms,
                part=options.part,
                until_good=options.until_good,
            )
        )
    return found


def _write_pictures(results: Sequence[TaskResults], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in results:
            chart = curves(one)
            name = "".join(letter if letter.isalnum() else "-" for letter in chart.key)
            (folder / f"{name}.svg").write_text(chart.document(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error})", "choose another --svg") from None


if __name__ == "__main__":
    sys.exit(main())
