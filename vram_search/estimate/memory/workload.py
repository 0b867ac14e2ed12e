"""Everything that decides the bytes of a training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vram_search.estimate.memory.objectives import SFT, Objective, objective_of
from vram_search.spec.model_tree import LinearGroup
from vram_search.spec.shape import ModelShape


@dataclass(frozen=True)
class Workload:
    """One QLoRA (or LoRA) training with its evaluations. Names as in transformers and peft."""

    shape: ModelShape
    lora_modules: tuple[str, ...]
    """Names as `ModelShape.estimated_modules` gives them."""
    lora_rank: int
    optimizer: str
    per_device_train_batch_size: int
    cutoff_len: int
    gradient_checkpointing: bool = True
    gradient_accumulation_steps: int = 1
    quantization: str = "nf4"
    """`nf4`, `int8` or `none` (bf16 weights)."""
    double_quantization: bool = True
    attention: str = "sdpa"
    prepare_for_kbit_training: bool = False
    """Weights that are not quantised are in fp32: peft's `prepare_model_for_kbit_training`, or a
    model that was loaded so."""
    has_autocast: bool = True
    """torch's autocast to 16 bits. Without it peft computes the adapter's part in fp32."""
    fused_linear_cross_entropy: bool = False
    """Liger's kernels (`use_liger_kernel`)."""
    cut_cross_entropy: bool = False
    """The loss is computed without logits, in evaluations too (Cut Cross Entropy, TRL's chunked
    loss); the layers are as they are."""
    tiled_loss: bool = False
    """And in TRL's tiles (`kernels/chunked_logprob.py`, from TRL 1.15 on)."""
    reentrant_checkpointing: bool = False
    """torch's re-entrant checkpoints: the first forward pass runs without autograd, so that 8-bit
    layers keep no inputs."""
    per_device_eval_batch_size: int = 0
    """0: no evaluation."""
    eval_cutoff_len: int = 0
    eval_loss_tokens: int | None = None
    """Tokens whose evaluation logits are in fp32 at once; None: all of a batch, as transformers'
    `Trainer` does."""
    prediction_loss_only: bool = True
    lora_dropout: float = 0.0
    use_dora: bool = False
    init_lora_weights: str = "default"
    """`pissa` and `olora` decompose the weights of the layers with an adapter."""
    expert_features: tuple[tuple[int, int], ...] = ()
    """Pairs of (how many, features) of the matrices of an adapter on all experts of a mixture, each
    of rank x features."""
    whole_parameters: int = 0
    """Parameters of embedding and head that are trained whole, beside the adapter."""
    whole_head_parameters: int = 0
    """The part of them that belongs to the head."""
    whole_element_bytes: int = 4
    """Bytes of an element in their trained copies: 4 (fp32) or 2."""
    trained_base_parameters: int = 0
    """Parameters of the base model itself that are trained, in full and freeze tuning. Then the
    adapter only stands for what the linear layers keep: their inputs."""
    trained_base_element_bytes: int = 4
    """Bytes of an element of them, and of their gradients."""
    quantized_experts: bool = False
    """The experts of a mixture are quantised as the linear layers are."""
    equal_lengths: bool = True
    """Every batch has the same length, so the allocator meets one shape only."""
    packed: bool = False
    """Rows are joined to sequences, and each row sees itself alone: attention takes a mask of
    tokens x tokens even in a batch of one sequence."""
    expandable_segments: bool = False
    objective: str = SFT
    """`sft`, or a key of OBJECTIVES: a preference loss of a tool."""
    adapter_element_bytes: int = 4
    """Bytes of an element of the adapter and its gradients: 4 (fp32), or 2 (bf16: TRL over a
    quantised base)."""

    @property
    def loss(self) -> Objective:
        """The loss that is computed."""
        return objective_of(self.objective)

    @property
    def texts(self) -> int:
        """Texts of one micro-batch."""
        return self.loss.texts_per_row * self.per_device_train_batch_size

    @property
    def has_mask(self) -> bool:
        """True if attention takes a mask of tokens x tokens: for padded and for joined rows."""
        return self.packed or (not self.equal_lengths and self.texts > 1)

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.texts * self.cutoff_len

    @property
    def eval_tokens(self) -> int:
        """Tokens of one evaluation batch."""
        return self.loss.texts_per_row * self.per_device_eval_batch_size * self.eval_cutoff_len

    @property
    def eval_fp32_tokens(self) -> int:
        """Tokens whose evaluation logits are in fp32 at once."""
        if self.eval_loss_tokens is None:
            return self.eval_tokens
        return min(self.eval_tokens, self.eval_loss_tokens)

    @cached_property
    def lora_groups(self) -> tuple[LinearGroup, ...]:
        """The linear layers with an adapter.

        Raises:
            ValueError: the model has no layer of a name.
        """
        if not self.lora_modules:
            return ()
        names = ",".join(self.lora_modules)
        return self.shape.selected(names, self.shape.linear_groups).groups

    @property
    def lora_layers(self) -> int:
        """How many linear layers have an adapter."""
        if self.shape.tree is not None:
            return sum(group.count for group in self.lora_groups)
        return self.shape.num_hidden_layers * len(self.lora_modules)

    @property
    def widens_hidden_states(self) -> bool:
        """DoRA's magnitudes turn the output of a target into fp32, and the residual stream with it
        (peft `tuners/lora/dora.py`). Attention narrows its inputs again."""
        attention_inputs = {"q_proj", "k_proj", "v_proj", "qkv_proj"}
        names = {name.rpartition(".")[2] for name in self.lora_modules}
        return self.use_dora and not names <= attention_inputs

    @property
    def magnitudes(self) -> tuple[tuple[int, int], ...]:
        """Pairs of (how many, elements) for the magnitude vectors of DoRA."""
        if not self.use_dora:
            return ()
        if self.shape.tree is not None:
            return tuple((group.count, group.out_features) for group in self.lora_groups)
        return tuple(
            (self.shape.num_hidden_layers, linear.out_features)
            for linear in self.shape.linears
            if linear.name in self.lora_modules
        )

    @property
    def largest_target(self) -> tuple[int, int]:
        """Outputs and inputs of the largest linear layer with an adapter."""
        if self.shape.tree is not None:
            sizes = [(group.out_features, group.in_features) for group in self.lora_groups]
        else:
            sizes = [
                (linear.out_features, linear.in_features)
                for linear in self.shape.linears
                if linear.name in self.lora_modules
            ]
        return max(sizes, key=lambda size: size[0] * size[1])

    @property
    def trainable_parameters(self) -> int:
        """Elements of the adapter."""
        matrices = self._matrix_parameters
        matrices += self.lora_rank * sum(count * size for count, size in self.expert_features)
        return matrices + sum(count * size for count, size in self.magnitudes)

    @property
    def _matrix_parameters(self) -> int:
        if self.shape.tree is not None:
            features = ((g.count, g.in_features + g.out_features) for g in self.lora_groups)
            return self.lora_rank * sum(count * size for count, size in features)
        per_layer = sum(
            linear.lora_parameters(self.lora_rank)
            for linear in self.shape.linears
            if linear.name in self.lora_modules
        )
        return self.shape.num_hidden_layers * per_layer
