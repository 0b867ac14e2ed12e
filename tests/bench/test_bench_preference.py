"""`bench.trace.preference`: bytes of preference losses against real loss code on fake tensors."""

from __future__ import annotations

import pytest

from bench.preference_losses import losses
from bench.trace.preference import compare
from vram_search.estimate.memory.objectives import OBJECTIVES


def test_every_traced_loss_is_an_objective() -> None:
    assert set(losses()) <= set(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["llamafactory dpo", "llamafactory kto"])
def test_predicted_bytes_agree_with_traced_ones(objective: str) -> None:
    result = compare("qwen2.5-1.5b", objective, losses()[objective])
    assert abs(result.difference) < 0.01
