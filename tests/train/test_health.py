"""After each trial: is the base what it was, and who holds what a leak left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.protocol import LEAK_BYTES, Finished
from vram_search.train import model as base_model
from vram_search.train.health import MOST_SURVIVORS, Health, checksums, live_storages

MIB_OF_FLOATS = 2**18


def finished(outcome: Any = "complete", leaked_bytes: int = 0) -> Finished:
    return Finished(
        outcome=outcome, stage="train", step=1, steps_total=1, leaked_bytes=leaked_bytes
    )


@pytest.fixture
def layer(base: Any) -> Iterator[Any]:
    """The last layer's first quantised projection, as it was again afterwards."""
    weight = base.get_submodule("model.layers.0.self_attn.q_proj").weight
    tensors = (weight.data, weight.quant_state.absmax, weight.quant_state.state2.absmax)
    kept = [tensor.clone() for tensor in tensors]
    yield tensors
    for tensor, value in zip(tensors, kept, strict=True):
        tensor.copy_(value)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["weights", "scales", "scales of scales"])
def test_one_changed_bit_of_a_sampled_layer_is_seen(base: Any, layer: Any, part: int) -> None:
    health = Health(base)
    assert health.examine(finished()).base_intact
    bits = layer[part].view(torch.uint8).view(-1)
    bits[bits.numel() // 2] ^= 1
    assert not health.examine(finished()).base_intact


def test_checksum_sees_exchanged_values_and_changes_of_either_end(base: Any) -> None:
    class One(torch.nn.Module):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(values)

    values = torch.arange(2**21 + 7, dtype=torch.bfloat16)
    plain = checksums(One(values))
    for swap in ((0, 1), (3, 2**21 + 2)):
        other = values.clone()
        other[list(swap)] = values[list(swap[::-1])]
        assert checksums(One(other)) != plain
    assert checksums(One(values.clone())) == plain


@pytest.fixture
def thawed() -> Iterator[None]:
    """The search for leaks sees what tests/conftest.py excludes from collections."""
    gc.unfreeze()
    yield
    gc.freeze()


class Hoarder:
    """Holds a tensor of 8 MiB once `hoard` was called."""

    def hoard(self) -> None:
        self.kept = torch.ones(8, MIB_OF_FLOATS)


def test_leak_held_by_what_was_there_before_the_trials_is_named(base: Any, thawed: None) -> None:
    hoarder, health = Hoarder(), Health(base)
    base_model.keep_loaded()
    hoarder.hoard()
    named = health.examine(finished(leaked_bytes=LEAK_BYTES + 1)).survivors
    assert "Hoarder" in named[0]


def test_leak_names_the_largest_tensors_that_are_new(base: Any, thawed: None) -> None:
    health = Health(base)
    small = [torch.ones(MIB_OF_FLOATS // 4) for _ in range(MOST_SURVIVORS)]
    hoarder = Hoarder()
    hoarder.hoard()
    named = health.examine(finished(leaked_bytes=LEAK_BYTES + 1)).survivors
    assert len(named) == MOST_SURVIVORS
    assert named[0].startswith(f"float32 (8, {MIB_OF_FLOATS}), 8 MiB, held by")
    assert "Hoarder" in named[0]
    assert named[1].endswith("256 KiB, held by list")
    del small, hoarder


def test_tensors_of_before_and_small_differences_are_no_survivors(base: Any, thawed: None) -> None:
    before = torch.ones(32, MIB_OF_FLOATS)
    health = Health(base)
    named = health.examine(finished(leaked_bytes=LEAK_BYTES + 1)).survivors
    assert not any("32 MiB" in line for line in named)
    after = torch.ones(32, MIB_OF_FLOATS)
    assert health.examine(finished(leaked_bytes=LEAK_BYTES)).survivors == ()
    assert before.shape == after.shape


class Wrapper(torch.Tensor):
    """A tensor without bytes of its own."""

    @staticmethod
    def __new__(cls) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (MIB_OF_FLOATS,))

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise AssertionError("a tensor without bytes was computed with")


def test_tensors_without_bytes_on_the_device_are_left_out(base: Any, thawed: None) -> None:
    with FakeTensorMode():
        fake = torch.ones(MIB_OF_FLOATS)
    others = [fake, Wrapper(), torch.eye(3).to_sparse(), torch.ones(3, device="meta")]
    found = [id(tensor) for tensor in live_storages().values()]
    assert not set(found) & {id(tensor) for tensor in others}


def test_after_an_out_of_memory_nothing_is_looked_at(base: Any, layer: Any) -> None:
    health = Health(base)
    layer[0][0] ^= 1
    end = finished("oom", leaked_bytes=2 * LEAK_BYTES)
    assert health.examine(end) == end
