"""`vram-search worker`: runs trials of a study that other machines or cards run, too."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from vram_search.cli.console import echo, output_may_fail
from vram_search.cli.options import (
    INTERRUPTED,
    beside_option,
    database_option,
    hours_option,
    keep_awake_option,
    meant_study,
    study_option,
    time_of_until,
    until_option,
)
from vram_search.spec.limits import MOST_TRIALS


@click.command("worker", short_help="Join a study with one more card or machine.")
@study_option
@click.option(
    "--trials",
    type=click.IntRange(1, MOST_TRIALS),
    metavar="N",
    help="Stop at N finished trials of the study in all.",
)
@hours_option
@until_option
@beside_option
@keep_awake_option
@click.option("--entry", "entry_id", type=int, hidden=True, help="Of the run that started this.")
@click.option("--share", type=int, default=1, hidden=True, help="Trainings on this card.")
@database_option
def command(
    study: str | None,
    trials: int | None,
    hours: float | None,
    until: str | None,
    beside: bool,
    keep_awake: bool,
    entry_id: int | None,
    share: int,
    database: str | None,
) -> None:
    """Runs trials of a study that `vram-search run` has started, on this machine's card.

    Each worker renews a lease in the database; a trial has one worker. Trials of a worker that died
    are run again by another one, from their checkpoint if it is on the same machine. Workers of
    several machines need a PostgreSQL database, and the data set at the same path on each of them.

    \b
    Examples:
      vram-search worker --database postgresql://me@server/searches
      CUDA_VISIBLE_DEVICES=1 vram-search worker --study td-010
    """
    # The surrogate's matrices are small: BLAS threads would wait for each other and the training's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vram_search.answers.lookup import opened
    from vram_search.answers.run import stop_rule
    from vram_search.cli.interrupts import second_interrupt_quits
    from vram_search.cli.live import make_view
    from vram_search.store.faults import search_errors
    from vram_search.store.location import database_url
    from vram_search.worker.keep_awake import kept_awake
    from vram_search.worker.prepare import prepare
    from vram_search.worker.recorded_study import recorded_spec
    from vram_search.worker.run import join_study

    url = database_url(database)
    with opened(database) as store:
        record = meant_study(store, study)
    spec = recorded_spec(record, url)
    until_seconds = time_of_until(hours, until)
    stop = stop_rule(spec, trials, hours=hours, until=until_seconds)
    prepared = prepare(spec, lambda text: echo(text, err=True))
    with second_interrupt_quits() as interrupts:
        view = make_view(spec, stop, url, interrupts.raise_dropped, quiet=False)
        try:
            awake = kept_awake(view.note) if keep_awake else contextlib.nullcontext()
            with output_may_fail(), view, search_errors(url), awake:
                why = join_study(
                    prepared, record, stop, view, beside=beside, entry_id=entry_id, share=share
                )
        except KeyboardInterrupt:
            echo("\ninterrupted; finished trials are kept", err=True)
            sys.exit(INTERRUPTED)
    echo(f"worker ended: {why}")
