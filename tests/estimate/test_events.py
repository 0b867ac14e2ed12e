"""The forward and the backward pass as one list of requests and releases."""

from __future__ import annotations

from itertools import accumulate

import pytest

from vram_search.estimate.memory.allocation_trace import (
    OUTPUT_GRADIENT,
    NumberedEvent,
    layer_events,
)
from vram_search.estimate.memory.events import live_bytes, run_backward
from vram_search.estimate.memory.layer import LayerSetup, layer_bytes
from vram_search.estimate.memory.tape import Bytes, Tape, Tensor
from vram_search.resources import shipped
from vram_search.spec import load_shape

TOKENS = 512
MODELS = ("qwen2.5-0.5b", "gemma-2-2b", "phi-3-mini-4k", "olmo-2-1b", "granite-3.3-2b")


def make_setup(
    model: str, *, fused: bool, upcast: bool, quantization: str, drops_out: bool = False
) -> LayerSetup:
    shape = load_shape(shipped("configs", "models", model))
    return LayerSetup(
        shape=shape,
        lora_modules=frozenset(shape.target_modules("all")),
        lora_rank=16,
        drops_out=drops_out,
        quantization=quantization,
        upcast=upcast,
        attention="eager" if shape.attention_softcap else "flash",
        length=TOKENS if shape.attention_softcap else 0,
        fused=fused,
    )


def levels(
    events: tuple[NumberedEvent, ...], sizes: tuple[Bytes, ...], start: float
) -> list[float]:
    """Live bytes after each event."""
    changes = (sizes[index].of(TOKENS) * (1 if is_request else -1) for is_request, index in events)
    return list(accumulate(changes, initial=start))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "liger"])
@pytest.mark.parametrize("upcast", [False, True], ids=["16 bits", "upcast"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_allocator_and_allocated_peak_read_the_same_passes(
    model: str, fused: bool, upcast: bool, quantization: str
) -> None:
    setup = make_setup(model, fused=fused, upcast=upcast, quantization=quantization)
    events, layer = layer_events(setup), layer_bytes(setup)
    forward = levels(events.forward_saving, events.sizes, 0.0)
    assert max(forward) == pytest.approx(max(m.total.of(TOKENS) for m in layer.forward))
    saved = sum(tensor.of(TOKENS) for tensor in layer.saved)
    gradient = events.sizes[OUTPUT_GRADIENT].of(TOKENS)
    backward = levels(events.backward, events.sizes, saved + gradient)
    assert max(backward) == pytest.approx(max(m.total.of(TOKENS) for m in layer.backward))
    assert backward[-1] == pytest.approx(events.sizes[events.input_gradient].of(TOKENS))


def tape_of(element_bytes: int) -> tuple[Tape, Tensor]:
    return Tape(), Tensor(1, element_bytes, requires_grad=True)


def highest_backward(tape: Tape, hidden: Tensor) -> float:
    saved = sum(tape.saved(without=hidden), Bytes())
    return max(m.total.of(1) for m in live_bytes(run_backward(tape, hidden).events, start=saved))


def test_gradient_that_is_passed_on_takes_no_bytes_of_its_own() -> None:
    tape, hidden = tape_of(2)
    tape.run((hidden,), 1, 2, passes_gradient=True)
    backward = run_backward(tape, hidden)
    assert highest_backward(tape, hidden) == 2
    assert backward.gradients[id(hidden)] is backward.first


def test_gradient_written_over_a_saved_tensor_takes_no_bytes_of_its_own() -> None:
    tape, hidden = tape_of(2)
    gate = tape.run((hidden,), 10, 2)
    tape.run((gate,), 1, 2, saves=(gate,), in_place=True)
    assert highest_backward(tape, hidden) == 20 + 2  # gate or its gradient, and one of width 1


@pytest.mark.parametrize(("element_bytes", "copies"), [(2, 3), (4, 2)])
def test_second_gradient_is_added_in_place_in_32_bits_only(element_bytes: int, copies: int) -> None:
    tape, hidden = tape_of(element_bytes)
    wide = tape.run((hidden,), 10, element_bytes)
    left = tape.run((wide,), 1, element_bytes)
    right = tape.run((wide,), 1, element_bytes)
    tape.run((left, right), 1, element_bytes)
    assert highest_backward(tape, hidden) == pytest.approx(copies * 10 * element_bytes, rel=0.1)
