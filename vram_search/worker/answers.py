"""The part of a trial's job that generates and scores answers."""

from __future__ import annotations

from vram_search.data import Rows
from vram_search.errors import Fault, FaultyFileError
from vram_search.estimate import PlannedTrial
from vram_search.estimate.memory.generation import generation_batch
from vram_search.protocol import AnswersJob
from vram_search.spec import StudySpec
from vram_search.spec.answers import answer_function


def answers_job(study: StudySpec, planned: PlannedTrial) -> AnswersJob | None:
    """Returns how answers are generated under a plan; None if the objective is a loss."""
    if not study.ranked_by.is_of_answers:
        return None
    total = study.eval_cutoff_len
    return AnswersJob(
        metric=study.objective_key,
        function=answer_function(study.objective_key),
        minimise=study.objective_key.startswith("minimise "),
        rows=study.answers.rows,
        max_new_tokens=min(study.answers.max_new_tokens, max(1, total // 2)),
        total_tokens=total,
        batch_size=generation_batch(planned.estimate, total),
        date=study.dataset.date,
    )


def check_answers(study: StudySpec, rows: Rows) -> None:
    """Refuses a score of answers for rows that are plain texts.

    Raises:
        FaultyFileError: the rows hold no answers.
    """
    if study.ranked_by.is_of_answers and any(row.is_text for row in rows.eval):
        fault = Fault(
            "objective",
            "the evaluation rows are plain texts, which have no answers",
            study.objective_key,
            "eval_loss or bits_per_byte",
        )
        raise FaultyFileError(f"study {study.study}", [fault])
