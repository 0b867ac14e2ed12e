"""Trains an exported trial with the real tool and compares the result with its record."""

from __future__ import annotations

from vram_search.verify.compare import Check
from vram_search.verify.environment import ToolEnvironment, find_environment
from vram_search.verify.tools import REAL_TOOLS, RealTool
from vram_search.verify.verify import Recorded, Verification, question_of, verify

__all__ = [
    "REAL_TOOLS",
    "Check",
    "RealTool",
    "Recorded",
    "ToolEnvironment",
    "Verification",
    "find_environment",
    "question_of",
    "verify",
]
