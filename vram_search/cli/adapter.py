"""Finds the adapter that `merge` and `card` name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_search.cli.options import meant_study

if TYPE_CHECKING:
    from vram_search.answers.adapter import KeptAdapter


def named_adapter(
    trial: str, study: str | None, database: str | None
) -> tuple[KeptAdapter, float | None]:
    """Returns the adapter of trial N, of the best trial or of product run pN, and the untuned
    model's eval_loss.

    Raises:
        InputError: there is no such study, trial or run, or its adapter is not kept.
    """
    from vram_search.answers.adapter import find_adapter
    from vram_search.answers.lookup import opened
    from vram_search.store.untuned import untuned_loss

    with opened(database) as store:
        record = meant_study(store, study)
        adapter = find_adapter(store, record, trial)
        return adapter, untuned_loss(store, record, adapter.trial)
