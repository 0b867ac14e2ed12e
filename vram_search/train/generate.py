"""Writes answers with the base model, or with an adapter on it, in the training process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from vram_search.protocol import BaseEvaluated, EvaluateBaseJob, Generated, GenerateJob, finite
from vram_search.train import model as base_model
from vram_search.train.adapter_weights import refusing_damage
from vram_search.train.device import compute_dtype
from vram_search.train.evaluate import evaluate
from vram_search.train.examples import cut
from vram_search.train.model import evaluation_mode, free_caches
from vram_search.train.run import EncodedDataset
from vram_search.train.tokenizer import chat_renderer

_EVAL_BATCH = 1
"""The smallest peak: the untuned model is evaluated before any plan is known to fit."""


def evaluate_base(base: Any, encoded: EncodedDataset, job: EvaluateBaseJob) -> BaseEvaluated:
    """Evaluates the base model without an adapter on the study's evaluation rows."""
    start = time.perf_counter()
    rows = [cut(row, job.eval_cutoff_len) for row in encoded.eval]
    losses = evaluate(base, rows, _EVAL_BATCH, encoded.tokenizer.pad_token_id)
    free_caches()
    sizes = encoded.answer_bytes(rows)
    return BaseEvaluated(
        eval_loss=finite(losses.mean),
        bits_per_byte=finite(losses.bits_per_byte(sizes)),
        example_loss_sums=tuple(finite(value) for value in losses.sums),
        seconds=time.perf_counter() - start,
    )


def generate(base: Any, tokenizer: Any, date: str, job: GenerateJob) -> Generated:
    """Answers each conversation with the most likely tokens (greedy).

    Args:
        date: date for templates that put today's date into the prompt.
    """
    render = chat_renderer(tokenizer, date)
    with _with_adapter(base, job.adapter_folder) as model:
        answers = [
            _answer(
                model,
                tokenizer,
                render([{"role": role, "content": text} for role, text in turns], None, True),
                job.max_new_tokens,
            )
            for turns in job.conversations
        ]
    free_caches()
    return Generated(answers=tuple(answers))


@contextlib.contextmanager
def _with_adapter(base: Any, folder: str | None) -> Iterator[Any]:
    """The base model, or the kept adapter on it; the base is unchanged at the end."""
    if folder is None:
        yield base
        return
    with refusing_damage(Path(folder)):
        model = PeftModel.from_pretrained(base, folder)
    try:
        yield model
    finally:
        base_model.detach_adapter(model)


def _answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    here, dtype = next(model.parameters()).device, compute_dtype()
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]], device=here)
    with (
        evaluation_mode(model),
        torch.no_grad(),
        torch.autocast(here.type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip()
