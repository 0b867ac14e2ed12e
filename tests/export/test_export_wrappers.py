"""Models of several parts: every tool trains the layers of the text part that the trial trained."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import yaml

from tests.export.conftest import recorded_trial
from vram_search.data import Rows
from vram_search.errors import InputError
from vram_search.export.axolotl import AXOLOTL
from vram_search.export.llamafactory import LLAMA_FACTORY
from vram_search.export.script import PEFT, UNSLOTH
from vram_search.export.slots import WRAPPER_SLOTS
from vram_search.export.template import WRAPPER_TEMPLATES, slots_for, template_by_name
from vram_search.export.template_names import TEMPLATE_NAMES
from vram_search.export.tool import Tool, export_files
from vram_search.export.trial import exported_trial
from vram_search.export.trl import TRL
from vram_search.models.tree import with_tree
from vram_search.resources import shipped
from vram_search.spec.model_tree import LinearGroup, ModelTree, Part, TensorGroup
from vram_search.spec.shape import ModelShape, load_shape
from vram_search.store import StudyRecord

NAMES = [
    f"language_model.layers.{layer}.self_attn.{kind}"
    for kind in ("q_proj", "v_proj")
    for layer in range(2)
]


def linears(prefix: str, part: Part) -> list[LinearGroup]:
    return [
        LinearGroup(
            f"{prefix}.layers.{{}}.self_attn.{kind}",
            ((0,), (1,)),
            64,
            64,
            False,
            "nf4",
            part,
            "Linear4bit",
            part == "text",
        )
        for kind in ("q_proj", "v_proj")
    ]


def wrapper(model_type: str) -> ModelShape:
    """A shape whose vision tower has layers of the same names as the text part."""
    tree = ModelTree(
        model_type=model_type,
        text_model_type="gemma3_text",
        class_name="Gemma3ForConditionalGeneration",
        auto_class="AutoModelForImageTextToText",
        tied=True,
        num_hidden_layers=2,
        layers_pattern="model.language_model.layers.{}",
        layer_types=(),
        linears=(
            *linears("model.language_model", "text"),
            *linears("model.vision_tower.encoder", "vision"),
        ),
        tensors=(TensorGroup("model.embed_tokens.weight", ((),), (300, 64), 2, "text"),),
        transformers_version="5",
        config="{}",
        filled_config="{}",
    )
    return with_tree(load_shape(shipped("configs", "models", "gemma-3-1b")), tree)


def exported(tool: Tool, study: StudyRecord, rows: Rows, model_type: str) -> tuple[Any, str]:
    """The YAML of an export and its text."""
    trial = exported_trial(study, recorded_trial(), rows, shape=wrapper(model_type))
    files = export_files(tool, trial)
    text = next(text for name, text in files.items() if name.endswith(".yaml"))
    return yaml.safe_load(text), text


def test_llamafactory_freezes_the_other_parts_and_has_the_models_own_template(
    study: StudyRecord, rows: Rows
) -> None:
    config, _ = exported(LLAMA_FACTORY, study, rows, "gemma3")
    assert config["freeze_vision_tower"] is config["freeze_multi_modal_projector"] is True
    assert [name.removeprefix("model.") for name in config["lora_target"].split(",")] == NAMES
    assert config["template"] == "gemma3"


def test_other_tools_name_the_layers_of_the_text_part(study: StudyRecord, rows: Rows) -> None:
    axolotl, _ = exported(AXOLOTL, study, rows, "gemma3")
    assert axolotl["freeze_mm_modules"] is True
    trl, trl_text = exported(TRL, study, rows, "gemma3")
    assert "TRL has no key for vision and audio towers" in trl_text
    peft, _ = exported(PEFT, study, rows, "gemma3")
    assert peft["auto_class"] == "AutoModelForImageTextToText"
    unsloth, unsloth_text = exported(UNSLOTH, study, rows, "gemma3")
    assert "trains no vision layers" in unsloth_text
    for names in (
        axolotl["lora_target_modules"],
        trl["lora_target_modules"],
        peft["lora"]["target_modules"],
        unsloth["lora"]["target_modules"],
    ):
        assert [name.removeprefix("model.") for name in names] == NAMES


def test_model_of_text_alone_gets_none_of_these_keys(study: StudyRecord, rows: Rows) -> None:
    trial = exported_trial(study, recorded_trial(), rows)
    for tool in (LLAMA_FACTORY, AXOLOTL, PEFT, UNSLOTH, TRL):
        text = "".join(export_files(tool, trial).values())
        assert "freeze_" not in text and "auto_class:" not in text


@pytest.mark.parametrize(
    ("model", "model_type", "template"),
    [
        ("/models/mine", "gemma3", "gemma3"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "qwen2_vl"),
        ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", "qwen3_vl_nothink"),
        ("Qwen/Qwen3-VL-4B-Thinking", "qwen3_vl", "qwen3_vl"),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral3", "mistral_small"),
        ("OpenGVLab/InternVL3-2B-hf", "internvl", "intern_vl"),
    ],
)
def test_wrapper_gets_a_template_with_inputs_for_images(
    model: str, model_type: str, template: str
) -> None:
    assert template_by_name(model, model_type, date(2026, 3, 1)).name == template


def test_model_without_a_template_of_its_own_needs_one_by_name() -> None:
    with pytest.raises(InputError, match="no LLaMA-Factory template is known for x/SmolVLM"):
        template_by_name("x/SmolVLM", "smolvlm", date(2026, 3, 1))


def test_templates_of_wrappers_exist_and_are_kept_from_models_of_text_alone() -> None:
    named = {name for names in WRAPPER_TEMPLATES.values() for name in names}
    assert named <= TEMPLATE_NAMES
    assert set(WRAPPER_SLOTS) <= named
    assert not set(WRAPPER_SLOTS) & set(slots_for("qwen2"))
    assert set(slots_for("gemma3")) == {"gemma3"}
