"""What a person writes: studies, spaces, plans, cards, model shapes. Pure data, validated."""

from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import Hyperparameters, SearchSpace
from vram_search.spec.load import find_study_file, load_study
from vram_search.spec.plan import MemoryPlan, PlanPins
from vram_search.spec.shape import ModelShape, load_shape
from vram_search.spec.study import StudySpec

__all__ = [
    "Card",
    "Hyperparameters",
    "MemoryPlan",
    "ModelShape",
    "PlanPins",
    "SearchSpace",
    "StudySpec",
    "find_study_file",
    "load_shape",
    "load_study",
]
