"""Loads a study's base model to write answers with it and with a trial's kept adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vram_search.data import Example, load_rows
from vram_search.errors import InputError, VramSearchError
from vram_search.protocol import Generated, GenerateJob, LoadJob
from vram_search.spec.dataset import recorded_dataset
from vram_search.store import StudyRecord, TrialRecord
from vram_search.store.adapter_files import check_adapter
from vram_search.store.untuned import Sample
from vram_search.worker.identity import WEIGHTS, SameAsSearch
from vram_search.worker.process import TrainingDiedError, log_tail
from vram_search.worker.recorded_study import refuse_imported
from vram_search.worker.resident import ResidentTrainer

Conversation = tuple[tuple[str, str], ...]
"""(role, content) of each turn; the last one is to be answered."""


class Talk:
    """A loaded base model that answers, with or without one trial's adapter."""

    def __init__(self, trainer: ResidentTrainer, adapter_folder: Path, max_new_tokens: int) -> None:
        self._trainer, self._adapter = trainer, adapter_folder
        self.max_new_tokens = max_new_tokens

    def answers(self, conversations: Sequence[Conversation], *, tuned: bool) -> tuple[str, ...]:
        """Returns the answer to each conversation, written greedily.

        Raises:
            VramSearchError: the training process cannot write them.
        """
        job = GenerateJob(
            conversations=tuple(conversations),
            adapter_folder=str(self._adapter) if tuned else None,
            max_new_tokens=self.max_new_tokens,
        )
        event = self._trainer.answer(job)
        assert isinstance(event, Generated), f"{event} does not answer {job}"
        return event.answers


@contextlib.contextmanager
def talking(
    study: StudyRecord, trial: TrialRecord, log: Path, max_new_tokens: int
) -> Iterator[Talk]:
    """Loads the base model of a study in a process of its own, and ends the process at last.

    Args:
        log: file for the process's standard error.

    Raises:
        InputError: the trial's adapter is not kept, model or rows cannot be loaded, or the base
            model is not the search's any more.
        VramSearchError: the process died.
    """
    adapter = kept_adapter(study, trial)
    trainer = ResidentTrainer(
        load_job(study.of_trial(trial)),
        log,
        expandable_segments=True,
        gpu_uuid=None,
        check=SameAsSearch(study, WEIGHTS, model=trial.hyperparameters.get("model")),
    )
    try:
        trainer.ready()
        yield Talk(trainer, adapter, max_new_tokens)
    except TrainingDiedError as error:
        raise VramSearchError(f"the model could not be used: {error}\n{log_tail(log)}") from None
    finally:
        trainer.replace()


def kept_adapter(study: StudyRecord, trial: TrialRecord) -> Path:
    """Returns the folder of a trial's adapter.

    Raises:
        InputError: it is not on this machine any more, never was, or is damaged; or the study holds
            imported runs.
    """
    refuse_imported(study)
    if trial.adapter_path is None:
        raise InputError(
            f"the adapter of trial {trial.number} of study {study.name} is not kept",
            f"the five best trials keep theirs; `vram-search train {trial.number}` trains this one "
            "again, for `merge` and `card`",
        )
    if not Path(trial.adapter_path).is_dir():
        raise InputError(
            f"the adapter of trial {trial.number} of study {study.name} is gone: there is no "
            f"folder {trial.adapter_path}",
            "restore the folder, use another trial (`vram-search top` lists them), or train this "
            f"one again: `vram-search train {trial.number}`, for `merge` and `card`",
        )
    check_adapter(
        Path(trial.adapter_path),
        f"use another trial (`vram-search top` lists them), or train this one again: `vram-search "
        f"train {trial.number}`, for `merge` and `card`",
    )
    return Path(trial.adapter_path)


def load_job(study: StudyRecord) -> LoadJob:
    """Returns the job that loads a recorded study's base model and rows.

    Raises:
        InputError: the rows are not there any more.
    """
    spec = study.spec
    name = str(study.model["model_name_or_path"])
    is_random = spec["model"].get("weights") == "random"
    return LoadJob(
        model_name_or_path=name,
        random_weights=is_random,
        tokenizer=spec["model"].get("tokenizer") or (None if is_random else name),
        dataset=recorded_dataset(study.spec, study.name),
        seed=spec["seed"],
        cutoff_lens=tuple(spec["search_space"]["cutoff_len"]),
        eval_cutoff_len=spec["identity"]["eval_cutoff_len"],
        other_tokenizers=tuple(study.model.get("other_tokenizers", ())),
    )


def evaluation_prompts(study: StudyRecord, rows: int) -> list[tuple[Conversation, str]]:
    """Returns conversations of the study's evaluation rows, each with the row's own last answer.

    Plain texts are left out, and rows with tools or further fields.

    Args:
        rows: how many at most.

    Raises:
        InputError: the rows cannot be read, or hold no plain conversation; or the study holds
            imported runs.
    """
    refuse_imported(study)
    examples = load_rows(recorded_dataset(study.spec, study.name), study.spec["seed"]).eval
    found = [_split(example) for example in examples if example.is_plain and not example.is_text]
    if not found:
        raise InputError(
            f"no evaluation row of study {study.name} is a plain conversation",
            "give prompts of your own: --prompts FILE, one per line",
        )
    return found[:rows]


def _split(example: Example) -> tuple[Conversation, str]:
    return example.messages[:-1], example.messages[-1][1]


def sample_answers(talk: Talk, prompts: Sequence[tuple[Conversation, str | None]]) -> list[Sample]:
    """Answers prompts with the untuned and with the tuned model."""
    conversations = [conversation for conversation, _ in prompts]
    untuned = talk.answers(conversations, tuned=False)
    tuned = talk.answers(conversations, tuned=True)
    return [
        Sample(conversation[-1][1], expected, before, after)
        for (conversation, expected), before, after in zip(prompts, untuned, tuned, strict=True)
    ]
