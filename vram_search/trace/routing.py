"""How many tokens each expert of a mixture gets, for classes that ask for it.

Most classes of transformers 5 multiply the tokens of all experts in one grouped product
(`integrations/moe.py`, `grouped_mm_experts_forward`), which takes the same bytes for any routing.
Some loop over their experts or split the tokens by expert (DBRX, JetMoE, LongCat-Flash, Step 3.7).
Fake tensors have no values, so what these ask of their router is answered here, for one routing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
ASKED = frozenset(
    {
        aten.topk.default,
        aten.nonzero.default,
        aten.eq.Scalar,
        aten.unbind.int,
        aten._local_scalar_dense.default,
    }
)
"""Operations that a routing is read from or asked by."""


class Routing:
    """The routing of the tokens to the experts, from the latest choice of a router on.

    Attributes:
        worst: all tokens go to the same experts; otherwise every expert gets equally many.
        was_asked: bytes depend on it.
    """

    def __init__(self) -> None:
        self.worst = True
        self.was_asked = False
        self._tokens = self._experts = self._per_token = 0

    def answer(self, function: Any, args: Any) -> Any:
        """Returns an operation's result where it is the routing's; otherwise None."""
        if function is aten._local_scalar_dense.default:
            return getattr(args[0], "known_value", None)
        if function is not aten.nonzero.default or not self._experts:
            return None
        mask: Tensor = args[0]
        if tuple(mask.shape) == (self._per_token, self._tokens):  # one expert's tokens
            self.was_asked = True
            tokens = self._tokens if self.worst else self._share(0)
            return mask.new_empty((tokens, 2), dtype=torch.int64)
        if mask.ndim == 1 and mask.shape[0] - self._experts in (0, 1):  # experts with a token
            self.was_asked = True
            hit = self._per_token if self.worst else self._experts
            return mask.new_empty((hit, 1), dtype=torch.int64)
        return None

    def note(self, function: Any, args: Any, result: Any) -> None:
        """Reads a router's choice, and notes the values that are asked for later."""
        if function is aten.topk.default and args[0].ndim == 2:
            self._tokens, self._experts = args[0].shape
            self._per_token = args[1]
        elif function is aten.eq.Scalar and args[1] == self._experts and args[0].numel() == 1:
            result.known_value = False  # no token goes to an expert beyond the last
        elif function is aten.unbind.int and self._experts:
            counts: Tensor = args[0]
            if tuple(counts.shape) == (self._experts,) and counts.dtype == torch.int64:
                self.was_asked = True
                for expert, element in enumerate(result):
                    element.known_value = self._count(expert)

    def _count(self, expert: int) -> int:
        if self.worst:
            return self._tokens if expert < self._per_token else 0
        return self._share(expert)

    def _share(self, expert: int) -> int:
        """Tokens of an expert if all get equally many; the first get one more."""
        whole, rest = divmod(self._tokens * self._per_token, self._experts)
        return whole + (expert < rest)
