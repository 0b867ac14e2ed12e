"""Peak bytes of one training, without a GPU and without torch.

`persistent` and `loading` count what stays (weights, adapter, states) tensor by tensor. `peaks`
gives what comes and goes, at the few moments that may be the peak. `allocation_trace` replays the
training's requests to find what the allocator reserves beyond that, only if it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from vram_search.errors import InputError
from vram_search.estimate.memory.allocation_trace import LayerEvents, Sizes, layer_events
from vram_search.estimate.memory.allocator import CachingAllocator
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.initial_adapter import initial_adapter_bytes
from vram_search.estimate.memory.loading import Loaded, load
from vram_search.estimate.memory.peaks import (
    Parts,
    attentions,
    computes_eval_logits,
    fused_chunk_bytes,
    fuses_loss,
    head_copy_bytes,
    hidden_element,
    layer_setup,
    moments,
    optimizer_step,
)
from vram_search.estimate.memory.persistent import (
    adapter_blocks,
    adapter_bytes,
    adapter_copy_blocks,
    base_bytes,
    optimizer_blocks,
    optimizer_bytes,
    upcast_bytes,
)
from vram_search.estimate.memory.quantized_experts import (
    dequantized_expert_bytes,
    saved_expert_bytes,
)
from vram_search.estimate.memory.replay import replay, smallest_limit
from vram_search.estimate.memory.stored_checkpoint import stored_checkpoint_bytes
from vram_search.estimate.memory.traced import (
    RESERVED_RATIO,
    TracedPeaks,
    evaluation_copies,
    traced_peaks,
)
from vram_search.estimate.memory.tree_loading import load_tree
from vram_search.estimate.memory.whole_modules import (
    trained_base_bytes,
    trained_base_step_bytes,
    whole_module_bytes,
)
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.allocator_sizes import SMALL_REQUEST
from vram_search.spec.shape import ModelShape

REQUIRED_SHARE = 0.9
"""Share of the bytes that a roomy allocator takes beyond the allocated peak and that a run under a
limit needs too, in the closed form (many plans are compared with it; `with_replay` is exact). The
rest is cache that it can give back (recorded event streams, replayed under falling limits;
docs/experiments.md)."""
REQUIRED_SHARE_VARIED = 0.5
"""The same where lengths vary, of what equal lengths would reserve."""
REQUIRED_RATIO_VARIED = 1.10
REQUIRED_RATIO_EXPANDABLE = 1.02
"""At least, against the allocated peak: varied lengths, and expandable segments (measured)."""
EQUAL_STEPS, VARIED_STEPS = (1.0, 1.0), (1.0, 0.6, 1.0)
"""Steps that are replayed for the required bytes, as shares of the longest batch."""
REPLAY_ERROR = 0.018
"""Share of the allocated bytes that is added to a replay's limit: what it missed at most in the
measured runs that died under a limit (`python -m bench.estimate_accuracy`)."""
ABSURD_BYTES = 2**50
"""1 PiB; no card holds a thousandth of it."""
OF_ADAPTERS = ("adapter", "adapter_copies", "gradients", "optimizer")
"""Parts that a training without an adapter does not have."""
H200 = Hardware()


@dataclass(frozen=True)
class Estimate:
    """Predicted bytes of one training with its evaluations."""

    workload: Workload
    hardware: Hardware
    moment: str
    """When the peak is: `loss`, `fused loss`, `layer backward`, `optimizer step`, `evaluation` or
    `adapter start`."""
    allocated_parts: dict[str, int]
    """The allocated peak by what it is for."""
    is_traced: bool = False
    """The peak is of a trace of the model's own code, not of a formula."""
    routing: str = ""
    """`worst` or `balanced`: the routing to experts at a traced peak that depends on it."""
    replayed_required_bytes: int | None = None
    """The smallest limit by a replay (`with_replay`); None: the closed form answers."""

    @cached_property
    def allocated_bytes(self) -> int:
        """torch's `max_memory_allocated`."""
        return sum(self.allocated_parts.values())

    @cached_property
    def reserved_bytes(self) -> int:
        """torch's `max_memory_reserved` on a card with room to spare."""
        if self.is_traced:
            return round(self.allocated_bytes * RESERVED_RATIO)
        replay = replayed(self.workload, self.hardware).peak_reserved
        return max(self.allocated_bytes, replay + _not_replayed(self.workload))

    @property
    def required_bytes(self) -> int:
        """Smallest allocator limit under which the run completes."""
        if self.replayed_required_bytes is not None:
            return self.replayed_required_bytes
        if self.workload.expandable_segments:
            return round(self.allocated_bytes * REQUIRED_RATIO_EXPANDABLE)
        slack = self.reserved_bytes - self.allocated_bytes
        if self.workload.equal_lengths:
            return round(self.allocated_bytes + REQUIRED_SHARE * slack)
        least = self.allocated_bytes * REQUIRED_RATIO_VARIED
        return round(max(least, self.allocated_bytes + REQUIRED_SHARE_VARIED * slack))

    def with_replay(self) -> Estimate:
        """The same with required bytes by a replay under the smallest limit.

        The closed form stays with expandable segments, whose blocks leave no gaps, and for a
        traced model.
        """
        if self.workload.expandable_segments or self.is_traced:
            return self
        return replace(self, replayed_required_bytes=_replayed_required(self))

    @property
    def process_bytes(self) -> int:
        """Bytes that NVML shows for the process on a roomy card: reserved + the card's context."""
        return self.reserved_bytes + self.hardware.context_bytes

    @property
    def parts(self) -> dict[str, int]:
        """`process_bytes` by what it is for; the allocator's slack and the context included."""
        slack = self.reserved_bytes - self.allocated_bytes
        rest = {"allocator_slack": slack, "context": self.hardware.context_bytes}
        return self.allocated_parts | {name: size for name, size in rest.items() if size}

    @property
    def trainable_parameters(self) -> int:
        if self.workload.trained_base_parameters:
            return self.workload.trained_base_parameters
        return self.workload.trainable_parameters + self.workload.whole_parameters

    def as_dict(self) -> dict[str, object]:
        """For the record and for JSON."""
        return {
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "required_bytes": self.required_bytes,
            "process_bytes": self.process_bytes,
            "moment": self.moment,
            "parts": self.parts,
        }


def predict(workload: Workload, hardware: Hardware = H200) -> Estimate:
    """Predicted peak of a training with its evaluations.

    Args:
        hardware: what the card and its driver add.
    """
    stays = {
        **_weights(workload),
        "adapter": adapter_bytes(workload),
        "optimizer": optimizer_bytes(workload),
        "workspaces": _workspaces(workload, hardware),
        "trained_modules": whole_module_bytes(workload),
        "trained_weights": trained_base_bytes(workload),
        "dequantized_experts": dequantized_expert_bytes(workload),
    }
    traced = traced_peaks(workload, prefers_cudnn=hardware.prefers_cudnn)
    candidates = moments(workload) if traced is None else _traced_moments(workload, traced)
    if start := initial_adapter_bytes(workload):
        without_states = max(0, start - optimizer_bytes(workload))
        candidates = {**candidates, "adapter start": {"initial_adapter": without_states}}
    if update := trained_base_step_bytes(workload):
        candidates = {**candidates, "optimizer step": {"temporaries": update}}
    moment = max(candidates, key=lambda name: sum(candidates[name].values()))
    named = stays | candidates[moment]
    if workload.trained_base_parameters:
        named |= dict.fromkeys(OF_ADAPTERS, 0)
    parts = {name: size for name, exact in named.items() if (size := round(exact))}
    routing = "" if traced is None else traced.routing
    return Estimate(workload, hardware, moment, parts, traced is not None, routing)


def _traced_moments(workload: Workload, peaks: TracedPeaks) -> dict[str, Parts]:
    """Parts at the peak of the training and of an evaluation, by a trace."""
    own = "recomputed_layer" if workload.gradient_checkpointing else "layer"
    peak = peaks.training
    is_loss = peak.phase in ("start", "head", "chunk", "tail")
    found: dict[str, Parts] = {
        "loss" if is_loss else "layer backward": {
            "saved_activations": peak.saved,
            "gradients": peak.gradients,
            "logits" if is_loss else own: peak.own,
        }
    }
    if peaks.evaluation is not None:
        copies = evaluation_copies(workload)
        found["evaluation"] = {"evaluation_logits": peaks.evaluation.total + copies}
    return found | optimizer_step(workload)


def predict_plausible(workload: Workload, hardware: Hardware) -> Estimate:
    """The estimate of a workload that some machine might hold.

    Raises:
        InputError: the sizes multiply to more than ABSURD_BYTES.
    """
    try:
        estimate = predict(workload, hardware)
    except OverflowError:
        estimate = None
    if estimate is None or estimate.required_bytes > ABSURD_BYTES:
        raise InputError(
            f"absurd sizes: micro-batch {workload.per_device_train_batch_size} x cutoff_len "
            f"{workload.cutoff_len} at lora_rank {workload.lora_rank} would need more than a "
            "million GiB on this model",
            "correct the largest of them, or the model's config.json",
        )
    return estimate


def estimate_base_bytes(shape: ModelShape) -> int:
    """Bytes of the base model on the card: NF4 with double quantisation, the rest in 16 bits."""
    return base_bytes(shape)


def _weights(workload: Workload) -> dict[str, int]:
    """Base weights and what their upcast adds."""
    saved = saved_expert_bytes(workload) - stored_checkpoint_bytes(workload)
    if workload.expandable_segments:
        double = workload.double_quantization
        base = base_bytes(workload.shape, workload.quantization, double=double, expandable=True)
        return {"base_weights": base - saved, "upcasts": upcast_bytes(workload)}
    base = _loaded(workload, upcast=False).allocated_bytes
    if not workload.prepare_for_kbit_training:
        return {"base_weights": base - saved}
    upcast = _loaded(workload, upcast=True).allocated_bytes
    return {"base_weights": base - saved, "upcasts": upcast - base}


def _not_replayed(workload: Workload) -> int:
    """Bytes that stay for the whole training and that `replayed` leaves out."""
    added = whole_module_bytes(workload) + dequantized_expert_bytes(workload)
    added += trained_base_bytes(workload)
    return added - saved_expert_bytes(workload) + stored_checkpoint_bytes(workload)


def _loaded(workload: Workload, *, upcast: bool) -> Loaded:
    shape = workload.shape
    if shape.tree is not None:
        return load_tree(
            shape.tree,
            workload.quantization,
            double=workload.double_quantization,
            upcast=upcast,
        )
    return load(
        shape,
        workload.quantization,
        double=workload.double_quantization,
        upcast=upcast,
    )


def _workspaces(workload: Workload, hardware: Hardware) -> int:
    biased = any(group.has_bias for group in workload.shape.linear_groups)
    threads = 2 if workload.gradient_checkpointing else 1
    return (
        2 * hardware.cublas_workspace_bytes + biased * threads * hardware.cublaslt_workspace_bytes
    )


def replayed(workload: Workload, hardware: Hardware) -> CachingAllocator:
    """The allocator after two optimizer steps and an evaluation."""
    return replay(*_replay_input(workload, hardware))


def _replayed_required(estimate: Estimate) -> int:
    """Allocated bytes, and what the smallest limit of a replay leaves beyond its own."""
    workload = estimate.workload
    lengths = EQUAL_STEPS if workload.equal_lengths else VARIED_STEPS
    found = smallest_limit(*_replay_input(workload, estimate.hardware), lengths)
    slack = max(0.0, found.limit - found.peak_allocated)
    return round(estimate.allocated_bytes * (1 + REPLAY_ERROR) + slack)


def _replay_input(workload: Workload, hardware: Hardware) -> tuple[Loaded, LayerEvents, Sizes]:
    shape = workload.shape
    layers = shape.num_hidden_layers
    adapter, states = adapter_blocks(workload), optimizer_blocks(workload)
    sizes = Sizes(
        tokens=workload.tokens,
        layers=layers,
        small_bytes=layers * _small_pool(adapter + states),
        small_cached_bytes=layers * _small_pool(adapter + adapter_copy_blocks(workload)),
        large_adapter=_large_pool(adapter),
        large_states=_large_pool(states),
        workspace=hardware.cublas_workspace_bytes,
        hidden_element=hidden_element(workload),
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        head_copy=head_copy_bytes(workload),
        softcap=shape.final_softcap,
        scaled_logits=shape.residual_multiplier,
        checkpointing=workload.gradient_checkpointing,
        fused_logits=fused_chunk_bytes(workload) if fuses_loss(workload) else 0,
        has_logits=not fuses_loss(workload),
        eval_tokens=workload.eval_tokens if computes_eval_logits(workload) else 0,
        eval_fp32_tokens=workload.eval_fp32_tokens,
        logit_bytes=workload.loss.peak_bytes(workload.texts),
        eval_logit_bytes=workload.loss.eval_logit_bytes,
    )
    counts = attentions(workload)
    most = max(counts, key=lambda attention: counts[attention])
    loaded = _loaded(workload, upcast=workload.prepare_for_kbit_training)
    return loaded, layer_events(layer_setup(workload, most)), sizes


def _small_pool(blocks: list[int]) -> int:
    return sum(size for size in blocks if size <= SMALL_REQUEST)


def _large_pool(blocks: list[int]) -> int:
    return sum(size for size in blocks if size > SMALL_REQUEST)
