"""Plans with the base model as it was loaded, if that is not how it was predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vram_search.estimate import check_card_holds_base
from vram_search.estimate.planner import Longest
from vram_search.models.tree import with_tree
from vram_search.protocol import Ready
from vram_search.spec.base_storage import difference_words, predicted_storage, storage_of
from vram_search.spec.model_tree import ModelTree, parse_tree
from vram_search.worker.prepare import Prepared


def as_loaded(prepared: Prepared, ready: Ready, note: Callable[[str], None]) -> Prepared:
    """Returns a study whose model has the modules that were loaded.

    The training process sends a module tree only if it differs from the prediction. Plans are then
    made for that tree, so that they do not run out of memory.

    Raises:
        InputError: the card cannot hold what was loaded.
    """
    if ready.tree is None:
        return prepared
    shape, tree = prepared.shape, parse_tree(ready.tree)
    note(difference_words(predicted_storage(shape), storage_of(tree)))
    loaded = with_tree(shape, tree if shape.tree is None else _read_as(tree, shape.tree))
    check_card_holds_base(loaded, prepared.study.card)
    return replace(prepared, shape=loaded)


def longest_rows(ready: Ready) -> Longest:
    """Returns the lengths of the rows as the training process counted them."""
    return Longest(
        ready.longest_tokens,
        ready.longest_eval_tokens,
        ready.shortest_tokens,
        ready.shortest_eval_tokens,
    )


def _read_as(tree: ModelTree, predicted: ModelTree) -> ModelTree:
    """Returns a tree with the configuration by which traces of the model are kept."""
    return replace(tree, config=predicted.config, filled_config=predicted.filled_config)
