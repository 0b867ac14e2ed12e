"""`vram-search run STUDY.yaml`: the search itself."""

from __future__ import annotations

import contextlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.cli.console import echo, output_may_fail
from vram_search.cli.options import (
    INTERRUPTED,
    beside_option,
    database_option,
    hours_option,
    json_option,
    keep_awake_option,
    print_json,
    time_of_until,
    until_option,
)
from vram_search.spec.limits import MOST_TRIALS
from vram_search.spec.objective import EVAL_LOSS
from vram_search.spec.strategy_name import STRATEGY_NAMES

if TYPE_CHECKING:
    from vram_search.answers.dry_run import DryRunAnswer, ModelAnswer
    from vram_search.spec import StudySpec
    from vram_search.worker.listener import RunListener
    from vram_search.worker.prepare import Prepared
    from vram_search.worker.stop_rule import StopRule


@click.command("run", short_help="Search for the best configuration, overnight if need be.")
@click.argument("study_file", metavar="STUDY.yaml", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the study file, e.g. search_space.lora_rank=[8,16]. Repeatable.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, MOST_TRIALS),
    metavar="N",
    help="Stop at N finished trials in all.",
)
@hours_option
@until_option
@click.option(
    "--strategy",
    type=click.Choice(STRATEGY_NAMES),
    help="Who proposes: gp learns from earlier searches too; tpe and random are Optuna's.",
)
@click.option(
    "--fit-night", is_flag=True, help="Shorten each trial so that at least 12 fit the time."
)
@click.option("--dry-run", is_flag=True, help="Show study, plans and predicted bytes; run nothing.")
@click.option("--accept-changes", is_flag=True, help="Continue although the study file changed.")
@click.option("--detach", is_flag=True, help="Hand the study to the service; see `serve`.")
@beside_option
@click.option(
    "--on",
    "engine",
    type=click.Choice(["ray"]),
    help="One worker on each GPU of a Ray cluster; this machine trains nothing.",
)
@click.option(
    "--address",
    default="auto",
    metavar="HOST:PORT",
    help="Head node of the cluster.  [default: the one that runs here]",
)
@keep_awake_option
@click.option("--entry", "entry_id", type=int, hidden=True, help="Of the queue, for the service.")
@database_option
@json_option
def command(
    study_file: Path,
    overrides: tuple[str, ...],
    trials: int | None,
    hours: float | None,
    until: str | None,
    strategy: str | None,
    fit_night: bool,
    dry_run: bool,
    accept_changes: bool,
    detach: bool,
    beside: bool,
    engine: str | None,
    address: str,
    keep_awake: bool,
    entry_id: int | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Runs the study, or continues it; Ctrl-C loses no finished trial.

    While another study holds the card, the run waits for its turn in the queue (`queue`). Trials
    of earlier runs count against --trials. A trial that is expected to end after the time given by
    --hours or --until is not started. At the end the best trial's YAML and the report are in
    the folder NAME.files/STUDY/exports beside the database NAME.

    \b
    Examples:
      vram-search run studies/demo.yaml
      vram-search run td-010.yaml --until 07:00
      vram-search run td-010.yaml --detach
      vram-search run td-010.yaml --on ray --database postgresql://me@db/runs
      vram-search run td-010.yaml --set card=rtx-4060-8gb --dry-run
    """
    # The surrogate's matrices are small: BLAS threads would wait for each other and the training's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vram_search.answers.run import stop_rule
    from vram_search.gpu.this_card import card_here
    from vram_search.spec import load_study
    from vram_search.tools.file_kinds import naming_other_files

    until_seconds = time_of_until(hours, until)
    if strategy is not None:
        overrides = (*overrides, f"strategy={strategy}")
    with naming_other_files(study_file, "run"):
        study = load_study(study_file, overrides, card_here=card_here)
    if database is not None:
        study = study.model_copy(update={"database": database})
    if detach:
        _detach(study, trials, hours, until_seconds, accept_changes=accept_changes, as_json=as_json)
        return
    stop = stop_rule(study, trials, hours=hours, until=until_seconds)
    _check_server(study)

    from vram_search.worker.prepare import prepare

    prepared = prepare(study, lambda text: echo(text, err=True))
    if fit_night:
        prepared = _fitted(prepared, stop)
    if dry_run:
        _check_template(prepared)
        _show_dry_run(prepared, stop, as_json=as_json)
        return
    _run(
        prepared,
        stop,
        accept_changes=accept_changes,
        as_json=as_json,
        entry_id=entry_id,
        beside=beside,
        cluster=address if engine is not None else None,
        keep_awake=keep_awake,
    )


def _check_server(study: StudySpec) -> None:
    """Finds out before anything is prepared whether the database's server answers.

    Raises:
        StoreError: it does not.
    """
    from vram_search.errors import NothingStoredError
    from vram_search.store import open_store
    from vram_search.store.faults import parse_url
    from vram_search.store.location import database_url

    url = database_url(study.database)
    if parse_url(url).get_backend_name() != "sqlite":
        with contextlib.suppress(NothingStoredError):
            open_store(url, create=False).close()


def _fitted(prepared: Prepared, stop: StopRule) -> Prepared:
    """Shortens the trials, and prints by how much."""
    from vram_search.units import percent
    from vram_search.worker.forecast import fit_night

    fitted = fit_night(prepared, stop)
    share = fitted.study.training.trial_share
    if share == 1:
        echo("note: full trials fit the time; nothing is shortened", err=True)
    else:
        echo(
            f"note: each trial trains {percent(share)} of the study's epochs; `export best --full` "
            "writes the winner with all of them",
            err=True,
        )
    return fitted


def _check_template(prepared: Prepared) -> None:
    """Encodes the rows where the tokenizer is here, as a run would before it loads the model.

    Raises:
        InputError: the chat template refuses a row.
    """
    from vram_search.data.rows_report import RowsQuestion
    from vram_search.worker.count_rows import count_rows

    study = prepared.study
    question = RowsQuestion(
        dataset=study.dataset, seed=study.seed, tokenizer=prepared.tokenizer, is_local=True
    )
    counted = count_rows(question)
    for note in counted.notes:
        echo(f"note: {note}", err=True)
    if not counted.has_tokenizer:
        echo("note: the tokenizer is not here: the chat template is not checked", err=True)


def _detach(
    study: StudySpec,
    trials: int | None,
    hours: float | None,
    until_seconds: float | None,
    *,
    accept_changes: bool,
    as_json: bool,
) -> None:
    """Adds the study to the queue; the service runs it."""
    from vram_search.answers.queue import add_study, queue_answer
    from vram_search.cli.queue import queue_lines
    from vram_search.store import open_store
    from vram_search.store.location import database_url

    url = database_url(study.database)
    store = open_store(url, create=True)
    try:
        until = None if until_seconds is None else datetime.fromtimestamp(until_seconds, UTC)
        entry = add_study(
            store, study, trials=trials, until=until, hours=hours, accept_changes=accept_changes
        )
        answer = queue_answer(store, url)
    finally:
        store.close()
    if as_json:
        print_json(answer.as_dict())
        return
    echo(f"study {study.study} is entry {entry.id} of the queue")
    echo("\n".join(queue_lines(answer)))


def _run(
    prepared: Prepared,
    stop: StopRule,
    *,
    accept_changes: bool,
    as_json: bool,
    entry_id: int | None,
    beside: bool,
    cluster: str | None,
    keep_awake: bool,
) -> None:
    """Runs the search here, or on the Ray cluster with this address."""
    from vram_search.cli.ending import INTERRUPTED_BY_USER, print_ending
    from vram_search.cli.interrupts import second_interrupt_quits
    from vram_search.cli.live import make_view
    from vram_search.store.faults import search_errors
    from vram_search.store.location import database_url
    from vram_search.worker.keep_awake import kept_awake
    from vram_search.worker.run import run_study

    study = prepared.study
    url = database_url(study.database)
    why, code = INTERRUPTED_BY_USER, INTERRUPTED
    with second_interrupt_quits() as interrupts:
        view = make_view(study, stop, url, interrupts.raise_dropped, quiet=as_json)
        try:
            awake = kept_awake(view.note) if keep_awake else contextlib.nullcontext()
            with output_may_fail(), view, search_errors(url), awake:
                if cluster is None:
                    why = run_study(
                        prepared,
                        stop,
                        view,
                        accept_changes=accept_changes,
                        entry_id=entry_id,
                        beside=beside,
                    )
                else:
                    why = _run_on_ray(cluster, prepared, stop, view, accept_changes=accept_changes)
                code = 0
        except KeyboardInterrupt:
            echo("\ninterrupted; the summary follows, Ctrl-C again skips it", err=True)
        if code == 0 or _is_recorded(url, study.study):
            print_ending(url, study.study, why, as_json=as_json)
    if code:
        echo("finished trials are kept; the same command continues", err=True)
        sys.exit(code)


def _run_on_ray(
    address: str,
    prepared: Prepared,
    stop: StopRule,
    view: RunListener,
    *,
    accept_changes: bool,
) -> str:
    from vram_search.worker.on_cluster import run_on_cluster
    from vram_search.worker.ray_cluster import RayCluster

    with contextlib.closing(RayCluster(address)) as cluster:
        return run_on_cluster(prepared, stop, view, cluster, accept_changes=accept_changes)


def _is_recorded(url: str, name: str) -> bool:
    """False if the run was interrupted before it had recorded its study."""
    from vram_search.errors import NothingStoredError
    from vram_search.store import open_store

    try:
        with contextlib.closing(open_store(url, create=False)) as store:
            return store.study(name) is not None
    except NothingStoredError:
        return False


def _show_dry_run(prepared: Prepared, stop: StopRule, *, as_json: bool) -> None:
    from vram_search.answers.dry_run import dry_run
    from vram_search.report.words import hyperparameter_words, plan_words
    from vram_search.report.wrapping import wrapped
    from vram_search.units import format_bytes

    answer = dry_run(prepared, stop)
    if as_json:
        print_json(answer.as_dict())
        return
    lines = _study_lines(prepared, answer)
    what = "bytes and seconds predicted for rows of cutoff_len tokens (a run counts its rows)"
    lines += _night_lines(prepared, stop)
    lines += _parallel_lines(prepared)
    lines += ["", *wrapped(f"{_first_trials(prepared.study, stop)}; {what}:", "", "")]
    for planned in answer.priors:
        verdict = "fits" if planned.fits else "DOES NOT FIT"
        lines += wrapped(hyperparameter_words(planned.hyperparameters), "  ", "    ")
        lines += wrapped(
            f"{format_bytes(planned.predicted.required_bytes)} needed, {verdict}: "
            f"{plan_words(planned.plan)}, {planned.predicted_step_seconds:.2g} s a step",
            "    ",
        )
    echo("\n".join(lines))


def _parallel_lines(prepared: Prepared) -> list[str]:
    """The predicted gain of several trials at once, of a study that may run them."""
    from vram_search.report.wrapping import wrapped
    from vram_search.worker.parallel import predicted_at_once

    found = predicted_at_once(prepared)
    return [] if found is None else wrapped(found.words, "  at once        ", " " * 17)


def _night_lines(prepared: Prepared, stop: StopRule) -> list[str]:
    """The forecast of the night, and what to change if it holds too few trials."""
    from vram_search.cli.night_words import advice_words, night_words
    from vram_search.gpu import open_reader
    from vram_search.report.wrapping import wrapped
    from vram_search.worker.forecast import forecast_study

    night = forecast_study(prepared, stop)
    if night is None:
        return []
    lines = wrapped(f"predicted: {night_words(night)}", "  night          ", " " * 17)
    if advice := advice_words(night):
        lines += wrapped(advice, " " * 17)
    if open_reader() is None:
        where = f"this is predicted for {prepared.study.card.label}; a CPU takes much longer"
        lines += wrapped(where, " " * 17)
    return lines


def _study_lines(prepared: Prepared, answer: DryRunAnswer) -> list[str]:
    """Study, data, card and search space."""
    from vram_search.report.wrapping import wrapped
    from vram_search.spec.hyperparameters import DIMENSIONS
    from vram_search.units import format_bytes

    study = prepared.study
    fields = {
        "data": f"{answer.train_rows} training and {answer.eval_rows} evaluation rows of "
        f"{study.dataset.label}, hash {answer.data_hash}",
        "card": f"{study.card.label}: {format_bytes(study.card.total_bytes)}, "
        f"{format_bytes(answer.budget_bytes)} for training",
        **{
            dimension.name: study.space.words(dimension)
            for dimension in DIMENSIONS
            if getattr(study.search_space, dimension.name) is not None
        },
    }
    if study.ranked_by.is_of_answers:
        fields["objective"] = _objective_words(study)
    elif study.model_names or study.ranked_by.name != EVAL_LOSS:
        fields["objective"] = f"{study.ranked_by.name}, {study.ranked_by.unit}"
    if study.model_names:
        fields["model"] = ", ".join(map(_model_words, answer.models))
    if limits := study.constraints.model_dump(exclude_none=True):
        fields["constraints"] = ", ".join(f"{name} {value:g}" for name, value in limits.items())
    lines = wrapped(f"study {study.study}: {_base_words(study)}, seed {study.seed}", "")
    for name, text in fields.items():
        lines += wrapped(text, f"  {name:<14} ", " " * 17)
    return lines


def _objective_words(study: StudySpec) -> str:
    """Says how answers are scored, and which code of the user a run imports."""
    from vram_search.spec.answers import answer_function

    words = f"lowest {study.ranked_by.name}: {study.answers.rows} generated answers an evaluation"
    function = answer_function(study.objective_key)
    return words if function is None else f"{words}; a run imports and calls {function.file}"


def _base_words(study: StudySpec) -> str:
    names = study.model_names
    return f"{len(names)} base models" if names else study.base.label


def _model_words(model: ModelAnswer) -> str:
    size = f"{model.parameters / 1e9:.2g}B parameters"
    return f"{model.name} ({size}{', left out: fits no plan' if model.left_out else ''})"


def _first_trials(study: StudySpec, stop: StopRule) -> str:
    """Says how the search uses the listed configurations."""
    from vram_search.search.strategies import STRATEGIES
    from vram_search.worker.run import published_points

    if study.points:
        points = "point" if len(study.points) == 1 else "points"
        return f"the study's own {len(study.points)} {points} first, then published configurations"
    if study.enqueue_priors and not published_points(study, stop):
        return "published configurations, not tried first: few trials, all from earlier searches"
    if not study.enqueue_priors:
        return "published configurations, not tried first (enqueue_priors: false)"
    return STRATEGIES[study.strategy].initial_points_summary
