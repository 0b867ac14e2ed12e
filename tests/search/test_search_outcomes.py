"""What the sampler is told of each outcome, and what it learns of an out-of-memory."""

from __future__ import annotations


