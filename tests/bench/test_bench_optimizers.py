"""The table of optimizers beside the real classes of torch, transformers and bitsandbytes."""

from __future__ import annotations

import pytest

from bench.optimizers import LORA_SHAPES, measure
from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.persistent import state_blocks
from vram_search.spec.allocator_sizes import block_size
from vram_search.spec.optimizers import OPTIMIZERS, REFUSED_OPTIMIZERS


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_and_temporary_bytes_are_those_of_the_real_class(name: str) -> None:
    optimizer, measured = OPTIMIZERS[name], measure(name)
    for shape, states in zip(LORA_SHAPES, measured.states, strict=True):
        predicted = state_blocks(optimizer, min(shape), max(shape))
        assert sorted(predicted) == sorted(map(block_size, states))
    sizes = [FP32 * rows * columns for rows, columns in LORA_SHAPES]
    most = optimizer.step_copies * sum(sizes) + optimizer.step_tensors * max(sizes)
    least = most - (max(sizes) if optimizer.step_tensors else 0)
    assert least <= measured.temporary_bytes <= most


def test_every_name_that_transformers_accepts_is_modelled_or_refused() -> None:
    from transformers.training_args import OptimizerNames

    names = {one.value for one in OptimizerNames}
    assert names == OPTIMIZERS.keys() | REFUSED_OPTIMIZERS.keys()
    assert not OPTIMIZERS.keys() & REFUSED_OPTIMIZERS.keys()
