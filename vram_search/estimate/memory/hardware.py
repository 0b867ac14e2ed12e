"""Bytes that a card and its software stack add to a training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from vram_search.spec.allocator_sizes import (
    CUBLAS_WORKSPACE,
    CUBLAS_WORKSPACE_DATACENTER,
    CUBLASLT_WORKSPACE,
)

if TYPE_CHECKING:
    from vram_search.spec.card_facts import CardFacts

H200_CONTEXT = 794_820_608
"""Context of one process on the H200 that the predictions come from (driver 580, CUDA 13)."""


@dataclass(frozen=True)
class Hardware:
    """Bytes outside the training's own tensors."""

    context_bytes: int = H200_CONTEXT
    """Bytes of the process outside torch's allocator: CUDA context and loaded kernels."""
    cublas_workspace_bytes: int = CUBLAS_WORKSPACE_DATACENTER
    """One for each thread that multiplies: forward and backward."""
    cublaslt_workspace_bytes: int = CUBLASLT_WORKSPACE
    """One for each thread that multiplies and adds a bias."""
    prefers_cudnn: bool = True
    """Attention takes cuDNN's kernel where it can: Hopper and Blackwell of the data centre, from
    torch 2.11 on (ATen/native/transformers/cuda/sdp_utils.cpp, `check_prefer_cudnn_attention`)."""

    @classmethod
    def of(cls, card: CardFacts) -> Self:
        """By the card's figures and compute capability."""
        return cls(card.context_bytes).on(card.compute_capability)

    def on(self, compute_capability: str) -> Self:
        """The same where a device of this compute capability emulates the card: what a training
        allocates for cuBLAS, and its attention kernel, are then the device's."""
        datacenter = compute_capability.split(".")[0] in ("9", "10")
        workspace = CUBLAS_WORKSPACE_DATACENTER if datacenter else CUBLAS_WORKSPACE
        return replace(self, cublas_workspace_bytes=workspace, prefers_cudnn=datacenter)
