"""The validated specifications that a person writes: studies, spaces, plans, cards, model shapes.

A name's module is imported when the name is first asked for (PEP 562): a model's shape needs no
pydantic, which takes 0.1 s to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_search.spec.card import Card as Card
    from vram_search.spec.load import find_study_file as find_study_file
    from vram_search.spec.load import load_study as load_study
    from vram_search.spec.plan import MemoryPlan as MemoryPlan
    from vram_search.spec.plan import PlanPins as PlanPins
    from vram_search.spec.point import Hyperparameters as Hyperparameters
    from vram_search.spec.search_space import SearchSpace as SearchSpace
    from vram_search.spec.shape import ModelShape as ModelShape
    from vram_search.spec.shape import load_shape as load_shape
    from vram_search.spec.strategy_name import StrategyName as StrategyName
    from vram_search.spec.study import StudySpec as StudySpec
else:
    _MODULES = {
        "Card": "card",
        "Hyperparameters": "point",
        "MemoryPlan": "plan",
        "ModelShape": "shape",
        "PlanPins": "plan",
        "SearchSpace": "search_space",
        "StrategyName": "strategy_name",
        "StudySpec": "study",
        "find_study_file": "load",
        "load_shape": "shape",
        "load_study": "load",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"vram_search.spec.{_MODULES[name]}"), name)
