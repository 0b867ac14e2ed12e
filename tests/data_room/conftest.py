"""How Hypothesis runs in this room."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A fresh checkout builds Hypothesis' character tables in the first test; cores may be shared.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
