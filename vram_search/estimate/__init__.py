"""Predicted bytes of a configuration, and the plan chosen by them. No GPU, no torch.

A name's module is imported when the name is first asked for (PEP 562): a prediction needs no
pydantic, the planner does.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from vram_search import CallablePackage

if TYPE_CHECKING:
    from vram_search.estimate.memory.predict import Estimate as Estimate
    from vram_search.estimate.memory.predict import estimate_base_bytes as estimate_base_bytes
    from vram_search.estimate.memory.predict import predict as predict
    from vram_search.estimate.planner import PlannedTrial as PlannedTrial
    from vram_search.estimate.planner import check_card_holds_base as check_card_holds_base
    from vram_search.estimate.planner import choose_plan as choose_plan
    from vram_search.estimate.planner import next_smaller as next_smaller
    from vram_search.estimate.planner import plans as plans
    from vram_search.estimate.planner import settle_plan as settle_plan
    from vram_search.estimate.planner import smallest as smallest
    from vram_search.estimate.planner import workload_of as workload_of
else:
    _MODULES = {
        "Estimate": "memory.predict",
        "PlannedTrial": "planner",
        "check_card_holds_base": "planner",
        "choose_plan": "planner",
        "estimate_base_bytes": "memory.predict",
        "next_smaller": "planner",
        "plans": "planner",
        "predict": "memory.predict",
        "settle_plan": "planner",
        "smallest": "planner",
        "workload_of": "planner",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"vram_search.estimate.{_MODULES[name]}"), name)


sys.modules[__name__].__class__ = CallablePackage
