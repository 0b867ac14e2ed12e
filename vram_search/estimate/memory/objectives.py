"""The losses that training tools compute, as far as they decide bytes.

Preference losses run two texts of a row together and keep the logits of two forward passes. Bytes
of a logit were counted in the tools' code and checked by traces of it (`bench/trace/preference.py`)
and on a GPU (`bench/gpu_dpo.py`); docs/experiments.md has both tables.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """One kind of loss: how it uses the texts of a row and their logits.

    Attributes:
        texts_per_row: texts of a row that run together.
        logit_bytes: bytes of one logit at the peak of a training step's loss; 0 where the loss is
            computed in chunks or without logits.
        eval_logit_bytes: the same in an evaluation.
        hidden_bytes: bytes of the loss's copies of one element of the last hidden states.
        slice_bytes: bytes of a logit that are added where several texts run together.
        has_tiles: the logits are computed tile by tile.
    """

    texts_per_row: int
    logit_bytes: int
    eval_logit_bytes: int
    hidden_bytes: int = 0
    slice_bytes: int = 0
    has_tiles: bool = False

    def peak_bytes(self, texts: int) -> int:
        """Bytes of a logit at the peak of a training step's loss."""
        return self.logit_bytes + (self.slice_bytes if texts > 1 else 0)


SFT = "sft"
"""Cross entropy of one text; its bytes are in `peaks`."""

OBJECTIVES: dict[str, Objective] = {
    # LLaMA-Factory 0.9.5, `train/dpo/trainer.py` and `train/trainer_utils.py` (`get_batch_logps`):
    # logits in fp32 and their log-softmax (8), then both of the reference, and the copy that
    # CUDA's log-softmax makes of a slice (12).
    "llamafactory dpo": Objective(2, 20, 20),
    # The same without a reference: ORPO and SimPO.
    "llamafactory orpo": Objective(2, 12, 12),
    # `train/kto/trainer.py`: log-softmax and the copies of chosen and rejected logits (8), the
    # reference's logits (4), and those of its KL texts (8; 12 where a slice is copied).
    "llamafactory kto": Objective(1, 20, 20, slice_bytes=4),
    # `train/rm/trainer.py`, TRL's `AutoModelForCausalLMWithValueHead`: logits in 16 bits and in
    # fp32, which the loss does not use, and the hidden states in 16 and 32 bits.
    "llamafactory rm": Objective(2, 6, 6, hidden_bytes=8),
    # TRL before 1.10 (1.9.0 is Axolotl 0.19's), `trainer/dpo_trainer.py`, `selective_log_softmax`:
    # in the backward pass logits, gradients by row, their stack and the gradient of the gather, all
    # in fp32. An evaluation has logits of policy and reference (8), and the copy of a slice whose
    # entropy is logged (4).
    "trl dpo": Objective(2, 16, 12),
    "trl dpo precomputed": Objective(2, 16, 8),
    "trl kto": Objective(1, 16, 12),
    # TRL from 1.10 on: `add_fused_lm_head`, in tiles of tokens and vocabulary.
    "trl dpo in chunks": Objective(2, 0, 0, has_tiles=True),
    "trl kto in chunks": Objective(1, 0, 0, has_tiles=True),
    # TRL's `RewardTrainer`: a model with one output in place of the head.
    "trl reward": Objective(2, 0, 0, hidden_bytes=4),
}
"""A tool's loss -> what it does."""

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Sizes of a tile of logits (TRL `kernels/chunked_logprob.py`, `trainer/utils.py`)."""


def objective_of(name: str) -> Objective:
    """The objective of a name in OBJECTIVES; of SFT one text and no bytes beyond `peaks`."""
    return OBJECTIVES.get(name, Objective(1, 0, 0))
