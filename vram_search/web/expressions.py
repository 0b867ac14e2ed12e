"""Refuses regular expressions that take too long to match.

Python holds up every thread of a process while it matches, so that one expression such as `(.|.)*x`
would stop the whole service. They are tried in a process of their own first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from vram_search.errors import InputError
from vram_search.spec.lora_targets import is_expression

SECONDS = 10.0
"""A usual expression takes microseconds; a Python process starts in 0.03 s, on a machine that is
busy with much else in seconds."""
_NAMES = (
    "model.layers.10.self_attn.q_proj",
    "model.language_model.layers.10.mlp.experts.gate_up_proj",
    "transformer.h.10.attn.dense_h_to_4h",
    "backbone.layers.10.mixer.in_proj",
    "lm_head",
)
"""Qualified names as models have them."""
_MATCH = """
import json, re, sys
expressions, names = json.load(sys.stdin)
for expression in expressions:
    for name in names:
        try:
            re.fullmatch(expression, name)
        except (re.error, RecursionError, OverflowError):
            break
"""


def refuse_slow(targets: Sequence[str]) -> None:
    """Matches the expressions in a process of their own, which has a time limit.

    Raises:
        InputError: one of the LoRA targets is an expression that takes too long.
    """
    expressions = [target for target in targets if is_expression(target)]
    if not expressions:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([expressions, _NAMES]).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"lora_target {expressions[0][:100]!r}: the expression takes too long to match",
            "write one without repeated groups, or names with commas",
        ) from None
