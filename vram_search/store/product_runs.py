"""Records product runs: trials that are trained again after the search. They are no trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, update

from vram_search.store.database import reading, writing
from vram_search.store.kept_files import actual_path, recorded_path
from vram_search.store.read_rows import read_table
from vram_search.store.records import Outcome, TrialResult
from vram_search.store.store import Store
from vram_search.store.tables import product_runs

_TABLE = product_runs


@dataclass(frozen=True)
class ProductSettings:
    """The settings by which a product run may differ from its trial.

    Attributes:
        trial_number: trial whose hyperparameters it has.
        epochs: epochs of the training; None trains the study's full length.
        all_rows: True to train on rows that `dataset.max_samples` leaves out, too.
    """

    trial_number: int
    epochs: float | None
    all_rows: bool


@dataclass(frozen=True)
class ProductRun:
    """One product run as recorded; fields as in TrialRecord.

    Attributes:
        outcome: None while it runs.
        step_losses: of each logged step: `step`, `loss`, `learning_rate`, `grad_norm`.
        evaluations: of each evaluation: the fields of `Evaluation`.
    """

    id: int
    study_id: int
    trial_number: int
    seed: int
    epochs: float | None
    all_rows: bool
    data_hash: str
    outcome: Outcome | None
    plan: dict[str, Any] | None
    predicted: dict[str, Any] | None
    measured: dict[str, Any] | None
    eval_loss: float | None
    eval_loss_step: int | None
    bits_per_byte: float | None
    step_losses: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]]
    steps_done: int
    steps_total: int
    seconds: dict[str, float] | None
    versions: dict[str, str] | None
    device: str | None
    error: dict[str, Any] | None
    adapter_path: str | None
    started_at: datetime
    finished_at: datetime | None

    @property
    def settings(self) -> ProductSettings:
        return ProductSettings(self.trial_number, self.epochs, self.all_rows)

    @property
    def name(self) -> str:
        """The name by which commands find the run."""
        return f"p{self.id}"

    @property
    def example_loss_sums(self) -> Sequence[float | None]:
        """Summed nats per evaluation row at the best checkpoint; empty if they are not recorded."""
        at_best = (e for e in self.evaluations if e["step"] == self.eval_loss_step)
        return next(at_best, {}).get("example_loss_sums") or ()


def start_product_run(
    store: Store, study_id: int, settings: ProductSettings, seed: int, data_hash: str
) -> int:
    """Records a running product run and returns its id."""
    row = insert(_TABLE).values(
        study_id=study_id,
        **asdict(settings),
        seed=seed,
        data_hash=data_hash,
        step_losses=[],
        evaluations=[],
        steps_done=0,
        steps_total=0,
        started_at=datetime.now(UTC),
    )
    with writing(store.engine) as connection:
        return int(connection.execute(row.returning(_TABLE.c.id)).scalar_one())


def record_product_plan(
    store: Store, run_id: int, plan: dict[str, Any], predicted: dict[str, Any]
) -> None:
    """Writes the memory plan and the predicted bytes; a later plan replaces it."""
    change = update(_TABLE).where(_TABLE.c.id == run_id).values(plan=plan, predicted=predicted)
    with writing(store.engine) as connection:
        connection.execute(change)


def finish_product_run(store: Store, run_id: int, result: TrialResult) -> None:
    """Writes the results of a product run."""
    kept = replace(result, adapter_path=recorded_path(store.files, result.adapter_path))
    values = {name: value for name, value in kept.columns().items() if name in _TABLE.c}
    change = (
        update(_TABLE)
        .where(_TABLE.c.id == run_id)
        .values(
            **values,
            step_losses=[asdict(loss) for loss in result.step_losses],
            evaluations=[asdict(evaluation) for evaluation in result.evaluations],
            finished_at=datetime.now(UTC),
        )
    )
    with writing(store.engine) as connection:
        connection.execute(change)


def end_dead_product_runs(store: Store, study_id: int) -> None:
    """Records as lost the runs whose process has died; the caller holds the study's lock."""
    change = (
        update(_TABLE)
        .where(_TABLE.c.study_id == study_id, _TABLE.c.outcome.is_(None))
        .values(
            outcome="lost", error={"message": "its process died"}, finished_at=datetime.now(UTC)
        )
    )
    with writing(store.engine) as connection:
        connection.execute(change)


def product_runs_of(store: Store, study_id: int) -> list[ProductRun]:
    """Returns the product runs of a study, oldest first."""
    own, files = _TABLE.c.study_id == study_id, store.files
    with reading(store.engine) as connection:
        rows = read_table(connection, _TABLE, own, order_by=(_TABLE.c.id,))
    return [
        ProductRun(**row | {"adapter_path": actual_path(files, row["adapter_path"])})
        for row in rows
    ]
