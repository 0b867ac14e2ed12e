"""The measured peak by part: replayed histories of a simulated card, and ones of a real card.

Real ones are recorded on a GPU with `python -m bench.record.breakdown`.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from vram_search.estimate.memory.allocator import Block, CachingAllocator
from vram_search.protocol import LoadJob
from vram_search.spec.dataset import DatasetSpec
from vram_search.train import breakdown
from vram_search.train import model as base_model
from vram_search.train.allocator_history import AllocatorHistory
from vram_search.train.breakdown import (
    PeakRecorder,
    attribute_oom,
    attribute_peak,
    find_owners,
)
from vram_search.units import KIB, MIB

RECORDED = Path(__file__).parents[1] / "fixtures"

Stack = list[tuple[str, str]]
TRAINER = ("transformers/trainer.py", "training_step")
MODEL = ("transformers/models/qwen2/modeling_qwen2.py", "forward")
LINEAR = ("torch/nn/modules/linear.py", "forward")
FUNCTION = "torch/autograd/function.py"
FORWARD: Stack = [LINEAR, MODEL, TRAINER]
BACKWARD: Stack = []
UNPACK = ("torch/utils/checkpoint.py", "unpack_hook")


class Card:
    """A card whose allocator writes torch's history; blocks are those of `CachingAllocator`."""

    def __init__(self) -> None:
        self.allocator = CachingAllocator()
        self.blocks: dict[int, tuple[Block, int]] = {}
        self.segments: dict[int, int] = {}
        self.events: list[dict[str, Any]] = []

    def ask(self, size: int, stack: Stack = FORWARD) -> int:
        reserved = self.allocator.reserved
        block = self.allocator.allocate(size)
        if added := self.allocator.reserved - reserved:
            self.segments[block.address] = added
            self._write("segment_alloc", block.address, added)
        self.blocks[block.address] = (block, size)
        self._write("alloc", block.address, size, stack)
        return block.address

    def release(self, address: int) -> None:
        block, size = self.blocks.pop(address)
        self.allocator.free(block)
        self._write("free_requested", address, size)
        self._write("free_completed", address, size)

    def refuse(self, size: int) -> None:
        self.events.append({"action": "oom", "size": size, "device_free": 0})

    def snapshot(self) -> dict[str, Any]:
        segments = [
            {"address": start, "total_size": size, "is_expandable": False, "blocks": []}
            for start, size in self.segments.items()
        ]
        blocks = [
            {"address": a, "size": b.size, "requested_size": size, "state": "active_allocated"}
            for a, (b, size) in self.blocks.items()
        ]
        segments[0]["blocks"] = blocks  # which segment a block is in makes no difference
        return {"segments": segments, "device_traces": [list(self.events)]}

    def begin_history(self) -> dict[str, Any]:
        self.events.clear()
        return self.snapshot()

    def _write(self, action: str, address: int, size: int, stack: Stack | None = None) -> None:
        event: dict[str, Any] = {"action": action, "addr": address, "size": size}
        if stack:
            event["frames"] = [{"filename": f"/site-packages/{f}", "name": n} for f, n in stack]
        self.events.append(event)


@pytest.fixture
def card() -> Card:
    """With 4 MiB of base weights, and history from then on."""
    card = Card()
    card.ask(4 * MIB)
    return card


@given(
    st.lists(st.tuples(st.integers(1, 40 * MIB), st.integers(0, 9)), max_size=60),
    st.integers(0, 20),
)
def test_replay_finds_the_bytes_that_each_block_takes(
    requests: list[tuple[int, int]], known: int
) -> None:
    card, live = Card(), [0]
    live = [card.ask(MIB)]
    before = card.begin_history()
    card.allocator.peak_allocated = card.allocator.allocated
    for count, (size, freed) in enumerate(requests):
        live.append(card.ask(size))
        if freed < len(live):
            card.release(live.pop(freed))
        if count == known:
            before = card.begin_history()
            card.allocator.peak_allocated = card.allocator.allocated
    replay = AllocatorHistory(before, card.events)
    assert replay.peak == card.allocator.peak_allocated
    assert replay.ends_as(card.snapshot())


def test_parts_are_those_of_the_highest_moment_and_add_up_to_it(card: Card) -> None:
    before = card.begin_history()
    weights = next(iter(card.blocks))
    saved = card.ask(3 * MIB + 5)
    temporary = card.ask(8 * MIB, [("bitsandbytes/functional.py", "dequantize_4bit"), *FORWARD])
    peak = card.allocator.allocated
    card.release(temporary)
    card.release(saved)
    card.ask(2 * MIB, BACKWARD)
    parts = attribute_peak(before, card.snapshot(), {(weights, 4 * MIB): "base_weights"})
    assert sum(parts.values()) == peak
    assert parts["base_weights"] == 4 * MIB
    assert parts["temporaries"] >= 8 * MIB
    assert parts["saved_activations"] >= 3 * MIB + 512
    assert set(parts) == {"base_weights", "temporaries", "saved_activations"}


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (FORWARD, "saved_activations"),
        (BACKWARD, "layer"),
        ([("bitsandbytes/autograd/_functions.py", "backward"), (FUNCTION, "apply")], "layer"),
        ([LINEAR, MODEL, UNPACK], "recomputed_layer"),
        ([LINEAR, MODEL, UNPACK, (FUNCTION, "apply")], "recomputed_layer"),
        ([("bitsandbytes/functional.py", "dequantize_4bit"), MODEL, UNPACK], "temporaries"),
        ([("transformers/loss/loss_utils.py", "ForCausalLMLoss"), MODEL, TRAINER], "logits"),
        ([("torch/nn/functional.py", "cross_entropy"), MODEL, TRAINER], "logits"),
        (
            [
                ("torch/nn/functional.py", "cross_entropy"),
                ("vram_search/train/evaluate.py", "evaluate"),
            ],
            "evaluation_logits",
        ),
        ([("vram_search/train/evaluate.py", "evaluate"), TRAINER], "evaluation_logits"),
        ([("torch/optim/adamw.py", "adamw"), TRAINER], "temporaries"),
        (
            [
                (
                    "liger_kernel/ops/fused_linear_cross_entropy.py",
                    "fused_linear_cross_entropy_forward",
                ),
                MODEL,
                TRAINER,
            ],
            "logits",
        ),
        ([("accelerate/utils/operations.py", "send_to_device"), TRAINER], "other"),
    ],
)
def test_a_block_without_an_owner_is_named_by_its_stack(
    card: Card, stack: Stack, part: str
) -> None:
    before = card.begin_history()
    card.ask(2 * MIB, stack)
    assert part in attribute_peak(before, card.snapshot(), {})


def test_gradients_of_activations_belong_to_the_layer_that_is_recomputed(card: Card) -> None:
    before = card.begin_history()
    card.ask(2 * MIB, [LINEAR, MODEL, UNPACK])
    card.ask(2 * MIB, BACKWARD)
    parts = attribute_peak(before, card.snapshot(), {})
    assert parts["recomputed_layer"] == 4 * MIB and "layer" not in parts


def test_an_address_that_another_block_had_before_names_nothing(card: Card) -> None:
    before = card.begin_history()
    gradient = card.ask(3 * MIB, BACKWARD)
    card.release(gradient)
    assert card.ask(2 * MIB) == gradient
    parts = attribute_peak(before, card.snapshot(), {(gradient, 2 * MIB + 1): "gradients"})
    assert "gradients" not in parts


def test_copies_and_gradients_of_the_logits_are_logits(card: Card) -> None:
    before = card.begin_history()
    logits = card.ask(6 * MIB)
    card.ask(12 * MIB, BACKWARD)
    card.ask(6 * MIB, BACKWARD)
    parts = attribute_peak(before, card.snapshot(), {(logits, 6 * MIB): "logits"})
    assert parts["logits"] >= 24 * MIB and "layer" not in parts


def test_autocast_copies_of_the_adapter_are_told_from_activations_of_their_size(
    card: Card,
) -> None:
    adapter = card.ask(64 * KIB)
    before = card.begin_history()
    card.ask(32 * KIB, [LINEAR, ("peft/tuners/lora/bnb.py", "forward"), MODEL])
    card.ask(32 * KIB)
    parts = attribute_peak(before, card.snapshot(), {(adapter, 64 * KIB): "adapter"})
    assert parts["adapter_copies"] == parts["saved_activations"] == 32 * KIB


def test_a_dequantised_weight_is_told_from_the_product_it_is_for(card: Card) -> None:
    before = card.begin_history()
    stack = [("bitsandbytes/backends/cuda/ops.py", "_dequant_linear_fallback"), *FORWARD]
    weight = card.ask(2 * MIB, stack)
    card.ask(4 * MIB, stack)
    card.release(weight)
    parts = attribute_peak(before, card.snapshot(), {})
    assert parts["temporaries"] == 2 * MIB
    assert parts["saved_activations"] == 4 * MIB


def test_a_workspace_outlives_the_training(card: Card) -> None:
    before = card.begin_history()
    card.ask(8320 * KIB)
    activation = card.ask(32 * MIB)
    after_peak = card.allocator.allocated
    card.release(activation)
    parts = attribute_peak(before, card.snapshot(), {})
    assert sum(parts.values()) == after_peak
    assert parts["workspaces"] >= 8320 * KIB and parts["saved_activations"] >= 32 * MIB


def test_out_of_memory_shows_what_was_live_when_the_request_was_refused(card: Card) -> None:
    before = card.begin_history()
    high = card.ask(30 * MIB)
    card.release(high)
    saved = card.ask(5 * MIB)
    refused_at = card.allocator.allocated
    card.refuse(100 * MIB)
    card.release(saved)
    parts = attribute_oom(before, card.snapshot(), {})
    assert sum(parts.values()) == refused_at
    assert parts["saved_activations"] >= 5 * MIB


def test_a_history_that_has_lost_events_gives_no_parts(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = card.begin_history()
    card.release(card.ask(3 * MIB))
    card.ask(2 * MIB)
    whole = card.snapshot()
    assert attribute_peak(before, whole, {})
    for rest in (card.events[1:], card.events[:-1]):
        assert attribute_peak(before, {**whole, "device_traces": [rest]}, {}) == {}
    monkeypatch.setattr(breakdown, "MAX_EVENTS", len(card.events))
    assert attribute_peak(before, whole, {}) == {}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_config: str) -> Any:
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text(tiny_config)
    job = LoadJob(
        model_name_or_path=str(folder),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec.model_construct(),
        seed=7,
        cutoff_lens=(128,),
        eval_cutoff_len=128,
    )
    return base_model.load_base(job)


@pytest.fixture
def adapted(base: Any) -> Iterator[Any]:
    """The tiny base with LoRA on q and v."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    yield model
    base_model.detach_adapter(model)


def train_step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(64).reshape(2, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_every_storage_of_model_and_optimizer_has_an_owner(adapted: Any) -> None:
    optimizer = bnb.optim.AdamW8bit(
        [p for p in adapted.parameters() if p.requires_grad], min_8bit_size=16
    )
    train_step(adapted, optimizer)
    owners = find_owners(adapted, optimizer)
    adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    base_bytes = sum(size for (_, size), name in owners.items() if name == "base_weights")
    weights = [p for p in adapted.parameters() if not p.requires_grad]
    states = [p.quant_state for p in weights if hasattr(p, "quant_state")]
    known = {address for address, _ in owners}
    assert sum(size for (_, size), name in owners.items() if name == "adapter") == 4 * adapter
    assert sum(size for (_, size), name in owners.items() if name == "optimizer") >= 2 * adapter
    assert base_bytes > sum(p.untyped_storage().nbytes() for p in weights)
    assert states and all(state.state2.absmax.data_ptr() in known for state in states)


class FakeCuda:
    """torch's statistics and history, as a `Card` gives them."""

    def __init__(self, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
        self.card, self.snapshots, self.recording = card, 0, False
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "max_memory_allocated", lambda: card.allocator.peak_allocated)
        monkeypatch.setattr(cuda.memory, "_snapshot", self.snapshot)
        monkeypatch.setattr(cuda.memory, "_record_memory_history", self.record)

    def snapshot(self) -> dict[str, Any]:
        self.snapshots += 1
        return self.card.snapshot()

    def record(self, enabled: str | None, **settings: Any) -> None:
        self.recording = enabled is not None
        if settings.get("clear_history"):
            self.card.events.clear()


def forward(adapted: Any) -> None:
    ids = torch.arange(8)[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        adapted(input_ids=ids)


def test_recorder_keeps_the_highest_of_all_passes(
    adapted: Any, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(card, monkeypatch)
    with PeakRecorder(adapted, optimizer=lambda: None) as recorder:
        for size in (6 * MIB, 9 * MIB, 3 * MIB, 3 * MIB):
            forward(adapted)
            card.release(card.ask(size))
    assert sum(recorder.parts().values()) == card.allocator.peak_allocated
    assert recorder.parts()["saved_activations"] >= 9 * MIB
    assert cuda.snapshots == 5 + 2  # as each pass begins, and where the peak rose
    assert not cuda.recording
    assert not adapted._forward_pre_hooks


def test_recorder_names_logits_and_gradients_though_they_are_gone_at_the_end(
    adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[breakdown.Owners] = []
    card = Card()
    card.ask(MIB)
    FakeCuda(card, monkeypatch)

    def attribute(history: object, current: object, found: breakdown.Owners) -> dict[str, int]:
        owners.append(found)
        return {}

    monkeypatch.setattr(breakdown, "attribute_peak", attribute)
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    with PeakRecorder(adapted, optimizer=lambda: optimizer):
        train_step(adapted, optimizer)
        card.ask(2 * MIB)
    names = Counter(owners[0].values())
    assert names["gradients"] == len(trainable)
    assert [size for (_, size), name in owners[0].items() if name == "logits"] == [64 * 512 * 2]


def test_recorder_shows_what_was_live_when_memory_ran_out(
    adapted: Any, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(card, monkeypatch)
    recorder = PeakRecorder(adapted, optimizer=lambda: None)
    with pytest.raises(torch.OutOfMemoryError), recorder:
        forward(adapted)
        saved = card.ask(5 * MIB)
        card.refuse(100 * MIB)
        assert recorder.parts_now()["saved_activations"] >= 5 * MIB
        card.release(saved)
        raise torch.OutOfMemoryError("CUDA out of memory")
    card.events.clear()
    assert recorder.parts_now()["saved_activations"] >= 5 * MIB


def test_parts_that_do_not_add_up_to_the_peak_of_torch_are_not_shown(
    adapted: Any, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(card, monkeypatch)
    with PeakRecorder(adapted, optimizer=lambda: None) as recorder:
        forward(adapted)
        card.ask(6 * MIB)
        card.allocator.peak_allocated += MIB
    assert recorder.parts() == {}


def test_without_a_gpu_nothing_is_recorded(adapted: Any) -> None:
    with PeakRecorder(adapted, optimizer=lambda: None) as recorder:
        forward(adapted)
    assert recorder.parts() == recorder.parts_now() == {}


def unpack(snapshot: dict[str, Any], stacks: list[list[list[str]]]) -> dict[str, Any]:
    """A recorded snapshot as torch gives it."""
    frames = [[{"filename": file, "name": name} for file, name in stack] for stack in stacks]
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    for entry in [*blocks, *snapshot["device_traces"][0]]:
        if "frames" in entry:
            entry["frames"] = frames[entry["frames"]]
    return snapshot


@pytest.mark.parametrize("variant", (0, 1))
@pytest.mark.parametrize("name", ("plain", "liger"))
def test_parts_of_a_real_training_add_up_to_the_peak_of_torch(name: str, variant: int) -> None:
    recorded = json.loads(gzip.decompress((RECORDED / f"breakdown_{name}.json.gz").read_bytes()))
    row = recorded["variants"][variant]
    before, after = (unpack(row[name], recorded["stacks"]) for name in ("before", "after"))
    owners = {(address, size): name for address, size, name in row["owners"]}
    parts = attribute_peak(before, after, owners)
    assert sum(parts.values()) == row["max_memory_allocated"]
    assert parts.get("other", 0) <= 0.01 * row["max_memory_allocated"]
    assert {"base_weights", "adapter", "optimizer", "gradients", "workspaces"} <= set(parts)
