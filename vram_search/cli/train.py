"""`vram-search train N|best`: a trial trained again to its end, as a product."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vram_search.cli.console import echo
from vram_search.cli.options import (
    INTERRUPTED,
    FiniteFloatRange,
    beside_option,
    database_option,
    json_option,
    meant_study,
    print_json,
    study_option,
)

if TYPE_CHECKING:
    from vram_search.answers.train import TrainAnswer

MOST_SEEDS = 100


@click.command("train", short_help="Train the winner again: more epochs, all rows, other seeds.")
@click.argument("trial", metavar="N|best")
@click.option(
    "--epochs",
    type=FiniteFloatRange(min=0, max=10_000, min_open=True),
    metavar="N",
    help="Epochs; default: the study's full length.",
)
@click.option(
    "--all-rows", is_flag=True, help="Train on rows that dataset.max_samples left out, too."
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    metavar="K",
    default=1,
    show_default=True,
    help="Number of trainings, each with another seed.",
)
@click.option("--runner-up", is_flag=True, help="Train the second-best trial with the same seeds.")
@beside_option
@study_option
@database_option
@json_option
def command(
    trial: str,
    epochs: float | None,
    all_rows: bool,
    seeds: int,
    runner_up: bool,
    beside: bool,
    study: str | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Trains trial N again with seeds that the search did not use, and keeps each adapter.

    The search chose the winner by its loss, which therefore looks a little too good; other seeds
    give its true mean and its spread, and show whether it stays ahead of the second-best trial.
    The evaluation rows stay held out. After an interruption the same command continues from the
    last checkpoint; finished trainings are not repeated. Product runs never count as trials.

    \b
    Examples:
      vram-search train best --seeds 3
      vram-search train best --epochs 5 --all-rows
      vram-search train best --seeds 3 --runner-up --json
    """
    from vram_search.answers.lookup import find_trial
    from vram_search.answers.train import train_answer
    from vram_search.cli.interrupts import second_interrupt_quits
    from vram_search.search.study_constraints import best_trials
    from vram_search.store import open_store
    from vram_search.store.faults import search_errors
    from vram_search.store.location import database_url
    from vram_search.store.product_runs import ProductSettings
    from vram_search.worker.prepare import prepare
    from vram_search.worker.product import ProductOrder, train_products
    from vram_search.worker.recorded_study import recorded_spec

    def tell(text: str) -> None:
        echo(text, err=True)

    url = database_url(database)
    store = open_store(url, create=False)
    try:
        record = meant_study(store, study)
        found = find_trial(store, record, trial)
        spec = recorded_spec(record, url)
        numbers = range(spec.seed + 1, spec.seed + 1 + seeds)
        model = found.hyperparameters.get("model")
        ranked = [
            other
            for other in best_trials(store, record)
            if other.number != found.number and other.hyperparameters.get("model") == model
        ]
        rival = next(iter(ranked), None)
        orders = [
            ProductOrder(
                one,
                ProductSettings(one.number, epochs, all_rows),
                tuple(n % 2**31 for n in numbers),
            )
            for one in ([found, rival] if runner_up and rival is not None else [found])
        ]
        prepared = prepare(spec, tell).of(found.hyperparameters)
        with second_interrupt_quits(), search_errors(url):
            runs = train_products(prepared, store, url, record, orders, tell, beside=beside)
        answer = train_answer(store, record, found, orders[0].settings, runs, rival)
    except KeyboardInterrupt:
        echo("finished trainings are kept; the same command continues", err=True)
        sys.exit(INTERRUPTED)
    finally:
        store.close()
    if as_json:
        print_json(answer.as_dict())
    else:
        echo("\n".join(_lines(answer, runner_up=runner_up)))
    sys.exit(0 if answer.best else 1)


def _lines(answer: TrainAnswer, *, runner_up: bool) -> list[str]:
    from vram_search.report.wrapping import wrapped
    from vram_search.units import format_bytes, format_duration

    lines = [f"trial {answer.trial} of study {answer.study}, trained again"]
    lines.append(
        f"{'run':<6}{'trial':>6}{'seed':>12}{'eval_loss':>11}{'step':>10}{'time':>13}  bytes"
    )
    for run in answer.runs:
        loss = run.outcome if run.eval_loss is None else f"{run.eval_loss:.4f}"
        step = f"{run.eval_loss_step or '-'}/{run.steps}"
        size = run.allocated_bytes or run.required_bytes
        shown = "-" if size is None else format_bytes(size)
        mark = "" if run.allocated_bytes else "~"
        took = format_duration(run.seconds)
        row = f"{run.name:<6}{run.trial:>6}{run.seed:>12}{loss:>11}{step:>10}{took:>13}  "
        lines.append(f"{row}{mark}{shown}")
    if answer.mean_eval_loss is not None:
        lines += ["", *wrapped(_mean_words(answer), "", "  ")]
    if answer.rank is not None:
        lines += wrapped(answer.rank.sentence, "", "  ")
    elif not runner_up and answer.best:
        lines += wrapped(
            "The rank is not known: the second-best trial was not trained in this way; "
            "--runner-up trains it.",
            "",
            "  ",
        )
    best = next((run for run in answer.runs if run.name == answer.best), None)
    if best is not None:
        lines += ["", f"adapter of {best.name}: {best.adapter}"]
    return lines


def _mean_words(answer: TrainAnswer) -> str:
    seeds = sum(run.trial == answer.trial and run.eval_loss is not None for run in answer.runs)
    words = f"Its eval_loss is {answer.mean_eval_loss:.4f}"
    if answer.standard_deviation is not None:
        words += (
            f" in the mean of {seeds} seeds, standard deviation {answer.standard_deviation:.4f}"
        )
    others = []
    if answer.searched_eval_loss is not None:
        others.append(f"{answer.searched_eval_loss:.4f} in the search")
    if answer.untuned_eval_loss is not None:
        others.append(f"untuned {answer.untuned_eval_loss:.4f}")
    return f"{words} ({', '.join(others)})." if others else f"{words}."
