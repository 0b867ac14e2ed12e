"""Training files of LLaMA-Factory and Axolotl become the workload that they describe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import make_point
from tests.model_code.in_process import read_in_this_process
from vram_search.data import Example, Rows
from vram_search.errors import InputError, ModelNotFoundError
from vram_search.estimate.memory.peaks import (
    computes_eval_logits,
    fused_chunk_bytes,
    fuses_loss,
)
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes import axolotl, llamafactory, trl
from vram_search.estimate.recipes.load import load_recipe, load_without_model
from vram_search.estimate.recipes.optimizers import NEAREST, SAME
from vram_search.export import TOOLS, export_files, exported_trial
from vram_search.resources import shipped
from vram_search.spec import MemoryPlan, StudySpec, load_shape
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.store import StudyRecord, TrialRecord

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
SHAPE = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
ALL = tuple(linear.name for linear in SHAPE.linears)
LLAMAFACTORY: dict[str, Any] = {"model_name_or_path": MODEL}
AXOLOTL: dict[str, Any] = {
    "base_model": MODEL,
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_target_linear": True,
}

TRL: dict[str, Any] = {
    "model_name_or_path": MODEL,
    "use_peft": True,
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_target_modules": ["q_proj", "v_proj"],
    "max_length": 512,
}
READ = [(LLAMAFACTORY, llamafactory), (AXOLOTL, axolotl), (TRL, trl)]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A YAML of one tool; keywords replace its keys."""

    def write(base: dict[str, Any], **keys: Any) -> Path:
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(base | keys), encoding="utf-8")
        return file

    return write


def test_llamafactory_has_its_own_defaults(write: Write) -> None:
    recipe = load_recipe(write(LLAMAFACTORY))
    assert (recipe.model, recipe.source) == (MODEL, "llamafactory")
    assert recipe.workload == Workload(
        shape=SHAPE,
        lora_modules=ALL,
        lora_rank=8,
        optimizer="adamw_torch",
        per_device_train_batch_size=8,
        cutoff_len=2048,
        quantization="none",
        has_autocast=False,
        reentrant_checkpointing=True,
        prediction_loss_only=False,
        equal_lengths=False,
    )
    assert [note.split(":")[0] for note in recipe.notes] == ["bf16"]


def test_axolotl_has_its_own_defaults(write: Write) -> None:
    recipe = load_recipe(write(AXOLOTL))
    assert (recipe.model, recipe.source) == (MODEL, "axolotl")
    assert recipe.workload == Workload(
        shape=SHAPE,
        lora_modules=ALL,
        lora_rank=16,
        optimizer="adamw_torch_fused",
        per_device_train_batch_size=1,
        cutoff_len=512,
        gradient_checkpointing=False,
        reentrant_checkpointing=True,
        prediction_loss_only=False,
        equal_lengths=False,
    )


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ({"quantization_bit": 4}, "quantization", "nf4"),
        ({"quantization_bit": 8}, "quantization", "int8"),
        ({"quantization_bit": None}, "quantization", "none"),
        ({"quantization_bit": "none"}, "quantization", "none"),
        ({"quantization_bit": 6, "quantization_method": "hqq"}, "quantization", "int8"),
        ({"quantization_bit": 3, "quantization_method": "hqq"}, "quantization", "nf4"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, "quantization", "int8"),
        ({"quantization_bit": 4, "double_quantization": False}, "double_quantization", False),
        ({"quantization_bit": 4}, "prepare_for_kbit_training", False),
        ({"lora_rank": 64}, "lora_rank", 64),
        ({"lora_dropout": 0.1}, "lora_dropout", 0.1),
        ({}, "lora_dropout", 0.0),
        ({"lora_target": "q_proj, v_proj,q_proj"}, "lora_modules", ("q_proj", "v_proj")),
        ({"lora_target": ["up_proj", "k_proj"]}, "lora_modules", ("up_proj", "k_proj")),
        ({"cutoff_len": 512}, "cutoff_len", 512),
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size", 2),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps", 4),
        ({"optim": "adamw_bnb_8bit"}, "optimizer", "adamw_bnb_8bit"),
        ({"optim": "paged_adamw_8bit"}, "optimizer", "paged_adamw_8bit"),
        ({"enable_liger_kernel": True}, "fused_linear_cross_entropy", True),
        ({"disable_gradient_checkpointing": True}, "gradient_checkpointing", False),
        ({"flash_attn": "disabled"}, "attention", "eager"),
        ({"flash_attn": "fa2"}, "attention", "sdpa"),
        ({"flash_attn": True}, "attention", "sdpa"),
        ({"max_source_length": 32, "max_target_length": 16}, "cutoff_len", 48),
        ({"flash_attn": False}, "attention", "eager"),
        ({"packing": True}, "equal_lengths", True),
        ({"neat_packing": True}, "equal_lengths", True),
        ({"val_size": 0.1, "eval_strategy": "steps"}, "per_device_eval_batch_size", 8),
        ({"val_size": 0.1, "do_eval": True}, "per_device_eval_batch_size", 8),
        ({"eval_dataset": "e", "eval_strategy": "epoch"}, "eval_cutoff_len", 2048),
        ({"eval_dataset": "e", "eval_strategy": "no"}, "per_device_eval_batch_size", 0),
        ({"eval_dataset": "e", "eval_strategy": False}, "per_device_eval_batch_size", 0),
        ({"val_size": 0.0, "eval_strategy": "steps"}, "per_device_eval_batch_size", 0),
        ({"per_device_eval_batch_size": 4}, "per_device_eval_batch_size", 0),
    ],
)
def test_a_llamafactory_key_sets_its_field(
    write: Write, keys: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(load_recipe(write(LLAMAFACTORY, **keys)).workload, field) == value


LIGER = {"plugins": ["axolotl.integrations.liger.LigerPlugin"]}
FUSED = {"liger_fused_linear_cross_entropy": True}
LORA = {"adapter": "lora", "load_in_4bit": False}


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        (LORA, "quantization", "none"),
        (LORA, "prepare_for_kbit_training", False),
        (LORA | {"load_in_8bit": True}, "quantization", "int8"),
        (LORA | {"load_in_8bit": True}, "prepare_for_kbit_training", False),
        ({"lora_r": 32}, "lora_rank", 32),
        ({"lora_dropout": 0.05}, "lora_dropout", 0.05),
        ({"lora_dropout": None}, "lora_dropout", 0.0),
        ({"lora_target_modules": ["q_proj"]}, "lora_modules", ALL),
        (
            {"lora_target_linear": False, "lora_target_modules": ["q_proj"]},
            "lora_modules",
            ("q_proj",),
        ),
        (
            {"lora_target_linear": None, "lora_target_modules": "all-linear"},
            "lora_modules",
            ALL,
        ),
        ({"sequence_len": 4096}, "cutoff_len", 4096),
        ({"micro_batch_size": 2}, "per_device_train_batch_size", 2),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps", 4),
        ({"val_set_size": 0.05, "micro_batch_size": 2}, "per_device_eval_batch_size", 2),
        ({"val_set_size": 0.05, "eval_batch_size": 3}, "per_device_eval_batch_size", 3),
        ({"val_set_size": 0.05}, "eval_cutoff_len", 512),
        ({"val_set_size": 0.05, "eval_strategy": "no"}, "per_device_eval_batch_size", 0),
        ({"eval_batch_size": 3}, "per_device_eval_batch_size", 0),
        ({"optimizer": "adamw_bnb_8bit"}, "optimizer", "adamw_bnb_8bit"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing", True),
        ({"gradient_checkpointing": "offload"}, "gradient_checkpointing", True),
        ({"eager_attention": True}, "attention", "eager"),
        ({"flash_attention": True}, "attention", "sdpa"),
        ({"sdp_attention": True}, "attention", "sdpa"),
        ({"sample_packing": True}, "equal_lengths", True),
        (LIGER | FUSED, "fused_linear_cross_entropy", True),
        (LIGER, "fused_linear_cross_entropy", False),
        (FUSED, "fused_linear_cross_entropy", False),
    ],
)
def test_an_axolotl_key_sets_its_field(
    write: Write, keys: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(load_recipe(write(AXOLOTL, **keys)).workload, field) == value


@pytest.mark.parametrize(
    ("base", "key"),
    [(base, key) for base, tool in READ for key in tool.UNMODELLED],
)
def test_what_is_not_modelled_is_noted_where_it_is_switched_on(
    write: Write, base: dict[str, Any], key: str
) -> None:
    def noted(value: object) -> bool:
        notes = load_recipe(write(base, **{key: value})).notes
        return any(note.startswith(f"{key}: ") for note in notes)

    assert noted(0.1) and noted(["x"]) and noted(True)
    assert not noted(None) and not noted(False) and not noted(0.0) and not noted([])


@pytest.mark.parametrize(
    ("base", "keys", "note"),
    [
        (LLAMAFACTORY, {"quantization_bit": 4}, "prepare_for_kbit_training: off"),
        (LLAMAFACTORY, {}, "bf16: off"),
        (
            LLAMAFACTORY,
            {"lora_ranks": 64},
            "lora_ranks: unknown key, LLaMA-Factory stops at it; did",
        ),
        (LLAMAFACTORY, {"evaluation_strategy": "steps"}, "evaluation_strategy: former name of"),
        (LLAMAFACTORY, {"optim": "lomo"}, "optim: lomo (it updates weights during"),
        (LLAMAFACTORY, {"lora_target": "q_proj,qkv_proj"}, "lora_target: qkv_proj is not a linear"),
        (AXOLOTL, {"optimizer": "came_pytorch"}, "optimizer: came_pytorch is counted as"),
        (AXOLOTL, {"sequence_length": 9}, "sequence_length: unknown key, Axolotl ignores it"),
        (AXOLOTL, {"cut_cross_entropy": True}, "cut_cross_entropy: without effect"),
        (AXOLOTL, {"bf16": False}, "bf16: off"),
        (AXOLOTL, FUSED, "liger_fused_linear_cross_entropy: without effect"),
        (AXOLOTL, LIGER, "plugins: liger"),
    ],
)
def test_a_tools_own_ways_are_noted(
    write: Write, base: dict[str, Any], keys: dict[str, Any], note: str
) -> None:
    notes = load_recipe(write(base, **keys)).notes
    assert [text for text in notes if text.startswith(note)]


@pytest.mark.parametrize("bf16", [{"bf16": True}, {"fp16": True}])
def test_an_ordinary_16_bit_training_has_no_notes(write: Write, bf16: dict[str, Any]) -> None:
    assert load_recipe(write(LLAMAFACTORY, **bf16)).notes == []
    assert load_recipe(write(AXOLOTL | LORA, **bf16)).notes == []


SIZES = [
    *((LLAMAFACTORY, key) for key in ("lora_rank", "cutoff_len", "per_device_train_batch_size")),
    *((LLAMAFACTORY, key) for key in ("gradient_accumulation_steps", "per_device_eval_batch_size")),
    *((AXOLOTL, key) for key in ("lora_r", "sequence_len", "micro_batch_size")),
    *((AXOLOTL, key) for key in ("gradient_accumulation_steps", "eval_batch_size")),
]


@pytest.mark.parametrize("value", [0, -1, 2**31 + 1, 1.5, "8k", True, [8], {}])
@pytest.mark.parametrize(("base", "key"), SIZES)
def test_a_size_that_is_none_is_refused(
    write: Write, base: dict[str, Any], key: str, value: object
) -> None:
    file = write(base, **{key: value})
    with pytest.raises(InputError, match=rf"train\.yaml: {key}: ") as caught:
        load_recipe(file)
    assert caught.value.remedy


def test_a_number_too_long_to_print_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: {MODEL}\nlora_rank: 0x{'f' * 5000}")
    with pytest.raises(InputError, match=r"line 2, column 12: .* more than 308 digits"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (LLAMAFACTORY, "finetuning_type", "most"),
        (LLAMAFACTORY, "stage", "other"),
        (LLAMAFACTORY, "model_name_or_path", 7),
        (LLAMAFACTORY, "model_name_or_path", ""),
        (LLAMAFACTORY, "model_name_or_path", "nobody/unknown-3b"),
        (LLAMAFACTORY, "model_name_or_path", "x" * 9000),
        (LLAMAFACTORY, "model_name_or_path", "a\0b"),
        (LLAMAFACTORY, "base_model", MODEL),
        (LLAMAFACTORY, "quantization_bit", 3),
        (LLAMAFACTORY, "quantization_bit", True),
        (LLAMAFACTORY | {"quantization_method": "hqq"}, "quantization_bit", 7),
        (LLAMAFACTORY | {"quantization_method": "eetq"}, "quantization_bit", 4),
        (LLAMAFACTORY, "additional_target", 5),
        (AXOLOTL, "lora_modules_to_save", [5]),
        (LLAMAFACTORY, "quantization_type", "int4"),
        (LLAMAFACTORY, "double_quantization", "perhaps"),
        (LLAMAFACTORY, "lora_target", "qkv_proj"),
        (LLAMAFACTORY, "lora_target", "model.(.*"),
        (LLAMAFACTORY, "lora_target", r"encoder\..*"),
        (LLAMAFACTORY, "lora_target", "qv"),
        (LLAMAFACTORY, "lora_target", 5),
        (LLAMAFACTORY, "lora_target", [5]),
        (LLAMAFACTORY, "optim", "adam_of_the_moon"),
        (LLAMAFACTORY, "optim", 1),
        (LLAMAFACTORY, "flash_attn", "fast"),
        (LLAMAFACTORY, "val_size", -0.1),
        (LLAMAFACTORY, "val_size", float("nan")),
        (LLAMAFACTORY, "val_size", "a tenth"),
        (LLAMAFACTORY, "eval_strategy", "sometimes"),
        (LLAMAFACTORY, "packing", 2),
        (AXOLOTL, "adapter", "llama-adapter"),
        (AXOLOTL, "load_in_4bit", False),
        (AXOLOTL, "load_in_8bit", True),
        (AXOLOTL, "lora_r", None),
        (AXOLOTL, "base_model", "nobody/unknown-3b"),
        (AXOLOTL | {"lora_target_linear": False}, "lora_target_modules", ["qkv_proj"]),
        (AXOLOTL | {"lora_target_linear": False}, "lora_target_modules", [".*q_proj", ".*v_proj"]),
        (AXOLOTL, "optimizer", "came"),
        (AXOLOTL, "gradient_checkpointing", "sometimes"),
        (AXOLOTL, "gradient_checkpointing", 2),
        (AXOLOTL, "plugins", "liger"),
        (AXOLOTL, "val_set_size", -1),
        (AXOLOTL, "flash_attention", "fast"),
        (AXOLOTL, "adapter", None),
        (TRL, "use_peft", False),
        (LLAMAFACTORY | {"quantization_bit": 4}, "finetuning_type", "full"),
        (LLAMAFACTORY | {"finetuning_type": "freeze"}, "freeze_trainable_layers", 0),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_file_key_and_remedy(
    write: Write, base: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write(base, **{key: value}))
    named = "adapter" if (key, value) == ("load_in_4bit", False) else key
    assert f"train.yaml: {named}: " in caught.value.message
    assert caught.value.remedy


def test_remedies_say_what_is_there(write: Write) -> None:
    for key, value, remedy in (
        ("optim", "sgdd", "adamw_torch, .*paged_lion_8bit, .*adamw_bnb_8bit"),
        ("lora_target", "qkv_proj", "it has q_proj, .*down_proj"),
        ("model_name_or_path", "nobody/unknown", r"folder with its config\.json"),
    ):
        with pytest.raises(InputError, match=remedy):
            load_recipe(write(LLAMAFACTORY, **{key: value}))


@pytest.mark.parametrize(
    "keys",
    [
        {"stage": "sft", "template": "qwen", "cutoff_len": 64, "lora_rank": 4},
        {"adapter": "lora", "sequence_len": 64, "micro_batch_size": 1, "lora_r": 4},
    ],
)
def test_a_file_without_a_model_takes_the_given_one(write: Write, keys: dict[str, Any]) -> None:
    file = write(keys)
    with pytest.raises(InputError, match="is missing") as caught:
        load_recipe(file)
    assert "--model" in caught.value.remedy
    workload = load_recipe(file, "qwen2.5-0.5b").workload
    assert (workload.cutoff_len, workload.lora_rank) == (64, 4)


def test_a_file_in_utf_16_is_read(write: Write) -> None:
    file = write(LLAMAFACTORY, cutoff_len=128)
    file.write_bytes(file.read_text("utf-8").encode("utf-16"))
    assert load_recipe(file).workload.cutoff_len == 128


@pytest.mark.parametrize(
    ("model", "is_fused"), [("qwen3-30b-a3b", True), ("granite-3.3-2b", False), ("mpt-7b", False)]
)
def test_without_a_trace_liger_fuses_the_loss_of_the_models_that_it_knows(
    write: Write, model: str, is_fused: bool
) -> None:
    keys = {"model_name_or_path": model, "enable_liger_kernel": True}
    assert fuses_loss(load_recipe(write(keys)).workload) == is_fused


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        (LLAMAFACTORY, {"finetuning_type": "full", "use_galore": True}),
        (LLAMAFACTORY, {"finetuning_type": "full", "optim": "apollo_adamw"}),
        ({"base_model": MODEL}, {"optimizer": "galore_adamw_8bit"}),
        ({"model_name_or_path": MODEL, "dataset_name": "d"}, {"optim": "lomo"}),
    ],
)
def test_a_full_tuning_with_a_lean_optimizer_may_need_less(
    write: Write, base: dict[str, Any], keys: dict[str, Any]
) -> None:
    recipe = load_recipe(write(base, **keys))
    assert any("keeps less than" in reason for reason in recipe.needs_less)
    assert not any("low-rank matrices train" in note for note in recipe.notes)


def test_a_quantization_method_without_bits_gets_a_note(write: Write) -> None:
    recipe = load_recipe(write(LLAMAFACTORY, quantization_method="bnb"))
    assert recipe.workload.quantization == "none"
    assert any(note.startswith("quantization_method: without effect") for note in recipe.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"a: 2024-13-45", "not valid YAML"),
        (b"a: !!timestamp x", "not valid YAML"),
        (b"a: !!bool maybe", "not valid YAML"),
        (b'a: !!float ""', "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"- model_name_or_path", "no mapping"),
        (
            b"model: {id: m}\ntraining: {max_seq_length: 9}\ndata: d",
            "no training file that is known",
        ),
        (b"base_model: m\nphase: 1\ngpu: T4\nvalid: true", "no training file that is known"),
        (b"", "no mapping"),
        (
            b"lora_rank: 8",
            "no training file that is known; supported are LLaMA-Factory, Axolotl, TRL",
        ),
        (b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_a_file_of_neither_tool_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(file)
    assert "train.yaml" in caught.value.message
    assert caught.value.remedy


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load_recipe(path)


@pytest.mark.parametrize(
    ("base", "key"), [(LLAMAFACTORY, "model_name_or_path"), (AXOLOTL, "base_model")]
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_with_a_config_gives_the_shape(
    write: Write, tmp_path: Path, tiny_config: str, base: dict[str, Any], key: str, relative: bool
) -> None:
    folder = tmp_path / "Qwen2.5-0.5B"  # not the shape shipped under this name
    folder.mkdir()
    (folder / "config.json").write_text(tiny_config)
    name = folder.name if relative else str(folder)
    assert load_recipe(write(base, **{key: name})).workload.shape.hidden_size == 64


@pytest.mark.parametrize(
    ("base", "key"),
    [
        (LLAMAFACTORY, "model_name_or_path"),
        (AXOLOTL, "base_model"),
        (TRL, "model_name_or_path"),
        ({"model": MODEL, "train_dataset": "x.yaml", "peft_config": {"name": "lora"}}, "model"),
    ],
)
def test_a_file_of_an_unknown_model_is_read_without_it(
    write: Write, monkeypatch: pytest.MonkeyPatch, base: dict[str, Any], key: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known = load_recipe(write(base)).workload
    for name in ("/path/to/model", "acme/unheard-of"):
        file = write(base, **{key: name})
        with pytest.raises(ModelNotFoundError, match=name):
            load_recipe(file)
        recipe = load_without_model(file)
        assert recipe.model == name
        assert any("its layers depend on the model" in note for note in recipe.notes)
        assert replace(recipe.workload, shape=SHAPE, lora_modules=known.lora_modules) == known
        given = load_recipe(file, MODEL)
        assert (given.workload, given.model) == (known, MODEL)


def test_a_folder_of_another_machine_is_known_by_its_name(write: Write) -> None:
    recipe = load_recipe(write(LLAMAFACTORY, model_name_or_path="/models/Qwen2.5-0.5B-Instruct"))
    assert recipe.workload == load_recipe(write(LLAMAFACTORY)).workload
    assert "whose name stands in it" in recipe.notes[-1]


def test_a_faulty_value_is_refused_also_where_the_model_is_not_found(write: Write) -> None:
    with pytest.raises(InputError, match="lora_rank"):
        load_without_model(write(LLAMAFACTORY, model_name_or_path="/path/to/model", lora_rank="x"))


@pytest.mark.parametrize(
    ("base", "more", "less"),
    [
        (LLAMAFACTORY, {"stage": "ppo"}, {}),
        (LLAMAFACTORY, {"finetuning_type": "full"}, {}),
        (LLAMAFACTORY, {"additional_target": "embed_tokens,score"}, {}),
        (LLAMAFACTORY, {}, {"deepspeed": "ds.json"}),
        (AXOLOTL | {"load_in_4bit": False}, {"adapter": None}, {}),
        (AXOLOTL, {"rl": "orpo"}, {}),
        (AXOLOTL, {"lora_modules_to_save": ["lm_head", "classifier"]}, {}),
        (AXOLOTL, {}, {"gradient_checkpointing": "offload"}),
        (TRL | {"load_in_4bit": False}, {"use_peft": False}, {}),
        (TRL, {"num_generations": 8}, {}),
        (TRL, {}, {"activation_offloading": True}),
    ],
)
def test_what_turns_the_answer_is_a_reason_and_no_note(
    write: Write, base: dict[str, Any], more: dict[str, Any], less: dict[str, Any]
) -> None:
    recipe = load_recipe(write(base, **more, **less))
    assert [reason.split(":")[0] for reason in recipe.needs_more] == list(more)
    assert [reason.split(":")[0] for reason in recipe.needs_less] == list(less)


@pytest.mark.parametrize(
    ("base", "changes", "objective", "texts"),
    [
        (LLAMAFACTORY, {"stage": "dpo"}, "llamafactory dpo", 2),
        (LLAMAFACTORY, {"stage": "dpo", "pref_loss": "simpo"}, "llamafactory orpo", 2),
        (LLAMAFACTORY, {"stage": "kto"}, "llamafactory kto", 1),
        (LLAMAFACTORY, {"stage": "rm"}, "llamafactory rm", 2),
        (LLAMAFACTORY, {"stage": "pt"}, "sft", 1),
        (AXOLOTL, {"rl": "dpo"}, "trl dpo", 2),
        (AXOLOTL, {"rl": True}, "trl dpo", 2),
        (AXOLOTL, {"rl": "ipo"}, "trl dpo", 2),
        (AXOLOTL, {"rl": "dpo", "precompute_ref_log_probs": True}, "trl dpo precomputed", 2),
        (AXOLOTL, {"rl": "kto"}, "trl kto", 1),
        (AXOLOTL, {"reward_model": True}, "trl reward", 2),
        (TRL, {"beta": 0.1}, "trl dpo in chunks", 2),
        (TRL, {"beta": 0.1, "torch_dtype": "bfloat16"}, "trl dpo", 2),
        (TRL, {"desirable_weight": 1.0}, "trl kto in chunks", 1),
        (TRL, {"loss_type": ["sigmoid", "sft"]}, "trl dpo in chunks", 2),
        (TRL, {"loss_type": "ipo"}, "trl dpo in chunks", 2),
        (TRL, {"loss_type": "kto"}, "trl kto in chunks", 1),
        (TRL, {"center_rewards_coefficient": 0.01}, "trl reward", 2),
    ],
)
def test_preference_training_is_counted_with_its_texts_and_its_loss(
    write: Write, base: dict[str, Any], changes: dict[str, Any], objective: str, texts: int
) -> None:
    recipe = load_recipe(write(base, **changes))
    workload = recipe.workload
    assert (workload.objective, recipe.needs_more) == (objective, [])
    assert workload.tokens == texts * workload.per_device_train_batch_size * workload.cutoff_len


@pytest.mark.parametrize(
    ("model", "counted"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "int8"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "nf4"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "nf4"),
    ],
)
def test_a_quantised_checkpoint_has_the_bits_of_its_name(
    write: Write, model: str, counted: str
) -> None:
    recipe = load_recipe(write(LLAMAFACTORY, model_name_or_path=model, quantization_bit=None))
    assert recipe.workload.quantization == counted


def test_dpo_needs_more_than_sft_and_dropout_is_switched_off(write: Write) -> None:
    sft = load_recipe(write(LLAMAFACTORY, lora_dropout=0.1)).workload
    dpo = load_recipe(write(LLAMAFACTORY, lora_dropout=0.1, stage="dpo")).workload
    assert (sft.lora_dropout, dpo.lora_dropout) == (0.1, 0.0)
    assert predict(dpo).required_bytes > 1.5 * predict(sft).required_bytes


@pytest.mark.parametrize(("base", "tool"), READ)
def test_every_key_that_adds_or_saves_bytes_is_a_reason(
    write: Write, base: dict[str, Any], tool: Any
) -> None:
    for key in tool.NEEDS_MORE:
        assert load_recipe(write(base, **{key: "x"})).needs_more, key
    for key in tool.NEEDS_LESS:
        assert load_recipe(write(base, **{key: True})).needs_less, key


@pytest.mark.parametrize(
    ("model", "changes", "is_known"),
    [
        ("hunyuan-0.5b", {}, False),
        ("afm-4.5b", {}, False),
        ("qwen3-0.6b", {}, True),
        ("hunyuan-0.5b", {"val_set_size": 0}, True),
        ("hunyuan-0.5b", {"cut_cross_entropy": False}, True),
    ],
)
def test_whole_logits_of_an_evaluation_are_the_most_where_published_sizes_disagree(
    write: Write, model: str, changes: dict[str, Any], is_known: bool
) -> None:
    plugin = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
    keys = {"base_model": model, "plugins": [plugin], "val_set_size": 0.1}
    recipe = load_recipe(write(AXOLOTL, **{**keys, **changes}))
    assert not recipe.needs_more
    assert (not recipe.needs_less) is is_known
    assert is_known or "is not modelled: the figure is an upper bound" in recipe.needs_less[0]
    assert is_known or computes_eval_logits(recipe.workload)


def test_adapter_on_parameters_alone_is_at_least_what_is_counted(write: Write) -> None:
    path = write(
        AXOLOTL, lora_target_parameters=["mlp.experts.gate_up_proj"], lora_target_linear=False
    )
    recipe = load_recipe(path)
    assert len(recipe.workload.lora_modules) == 1
    assert "parameters outside the linear layers" in recipe.needs_more[0]


@pytest.mark.parametrize("cuts", [{}, {"cut_cross_entropy": False}])
def test_the_plugin_alone_switches_cut_cross_entropy_on(
    write: Write, cuts: dict[str, bool]
) -> None:
    plugin = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
    keys = {"sequence_len": 4096, "val_set_size": 0.1, "gradient_checkpointing": True}
    workload = load_recipe(write(AXOLOTL, plugins=[plugin], **keys, **cuts)).workload
    assert workload.cut_cross_entropy is not bool(cuts)
    plain = load_recipe(write(AXOLOTL, **keys)).workload
    saved = predict(plain).required_bytes - predict(workload).required_bytes
    whole_logits = 4 * SHAPE.vocab_size * 4096
    assert saved == 0 if cuts else saved > whole_logits


def test_reentrant_checkpoints_keep_no_int8_inputs(write: Write) -> None:
    keys = {"quantization_bit": 8, "cutoff_len": 1024, "per_device_train_batch_size": 2}
    reentrant = predict(load_recipe(write(LLAMAFACTORY, **keys)).workload)
    other = predict(load_recipe(write(LLAMAFACTORY, **keys, use_reentrant_gc=False)).workload)
    nf4 = predict(load_recipe(write(LLAMAFACTORY, **keys | {"quantization_bit": 4})).workload)
    kept = reentrant.parts["saved_activations"]
    assert kept == nf4.parts["saved_activations"]
    assert other.parts["saved_activations"] > 4 * kept


def test_every_optimizer_of_transformers_is_answered(write: Write) -> None:
    from transformers.training_args import OptimizerNames

    for optimizer in OptimizerNames:
        assert load_recipe(write(LLAMAFACTORY, optim=optimizer.value)).workload.optimizer
    assert {*SAME.values(), *NEAREST.values()} <= set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        (r"model\.layers\.\d+\.self_attn\.[qv]_proj", ("q_proj", "v_proj")),
        (
            r"model.language_model.layers.[\d]+.(mlp|cross_attn).(up|down)_proj",
            ("up_proj", "down_proj"),
        ),
        (["self_attn.q_proj", "shared.k_proj_of_another", "q_proj"], ("q_proj",)),
        (["q_proj", ".*v_proj"], ("q_proj",)),
        ("all-linear", ALL),
    ],
)
def test_modules_are_found_as_peft_finds_them(
    write: Write, target: object, modules: tuple[str, ...]
) -> None:
    keys = {"lora_target_linear": False, "lora_target_modules": target}
    assert set(load_recipe(write(AXOLOTL, **keys)).workload.lora_modules) == set(modules)


@pytest.mark.parametrize(("method", "counted"), [("awq", "nf4"), ("gptq", "nf4"), ("fp8", "int8")])
def test_a_checkpoint_that_is_quantised_stays_so(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: str,
    method: str,
    counted: str,
) -> None:
    monkeypatch.setattr(subprocess, "run", read_in_this_process)
    config = json.loads(tiny_config) | {"quantization_config": {"quant_method": method}}
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "config.json").write_text(json.dumps(config))
    recipe = load_recipe(write(LLAMAFACTORY, model_name_or_path="stored"))
    assert recipe.workload.quantization == counted
    assert [note for note in recipe.notes if method in note]


def test_llamafactory_reads_quantised_weights_before_its_own_setting(
    write: Write, tmp_path: Path, tiny_config: str
) -> None:
    folder = tmp_path / "stored"
    folder.mkdir()
    keys = {"model_name_or_path": "stored", "quantization_bit": 8}
    for method, more in (("awq", 0), ("fp8", 1)):
        config = json.loads(tiny_config) | {"quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(config))
        recipe = load_recipe(write(LLAMAFACTORY, **keys))
        assert recipe.workload.quantization == ("int8" if method == "fp8" else "nf4")
        assert len(recipe.needs_more) == more


@pytest.mark.parametrize(
    ("base", "keys", "element_bytes"),
    [
        (LLAMAFACTORY, {"additional_target": "embed_tokens,lm_head"}, 4),
        (LLAMAFACTORY, {"additional_target": "embed_tokens,lm_head", "pure_bf16": True}, 2),
        (LLAMAFACTORY, {"resize_vocab": True}, 4),
        (AXOLOTL, {"lora_modules_to_save": ["model.embed_tokens", "lm_head"]}, 2),
        (TRL, {"lora_modules_to_save": ["embed_tokens", "lm_head"]}, 2),
    ],
)
def test_embeddings_and_heads_that_are_trained_whole_are_counted(
    write: Write, base: dict[str, Any], keys: dict[str, Any], element_bytes: int
) -> None:
    recipe, plain = load_recipe(write(base, **keys)), load_recipe(write(base))
    assert not recipe.needs_more
    table = SHAPE.vocab_size * SHAPE.hidden_size
    workload = recipe.workload
    assert (workload.whole_parameters, workload.whole_head_parameters) == (2 * table, table)
    part = predict(workload).parts["trained_modules"]
    assert part >= 4 * 2 * table * element_bytes  # copy, gradients and two states
    more = predict(workload).required_bytes - predict(plain.workload).required_bytes
    assert part <= more < 1.15 * part
    trainable = (
        predict(workload).trainable_parameters - predict(plain.workload).trainable_parameters
    )
    assert trainable == 2 * table


def test_axolotl_can_quantise_the_experts_too(write: Write) -> None:
    keys = {"base_model": "Qwen/Qwen3-30B-A3B", "sequence_len": 512}
    plain = predict(load_recipe(write(AXOLOTL, **keys)).workload)
    quantised = predict(load_recipe(write(AXOLOTL, **keys, quantize_moe_experts=True)).workload)
    shape = quantised.workload.shape
    saved = plain.parts["base_weights"] - quantised.parts["base_weights"]
    assert 1.4 * shape.expert_parameters < saved < 1.5 * shape.expert_parameters
    layer = 2 * shape.expert_parameters // shape.num_hidden_layers
    assert quantised.parts["dequantized_experts"] == layer
    assert quantised.required_bytes < plain.required_bytes - saved + 1.1 * layer


def test_a_file_with_former_keys_of_trl_holds_all_logits(write: Write) -> None:
    old = {key: value for key, value in TRL.items() if key != "max_length"}
    former = load_recipe(write(old, max_seq_length=512))
    today = load_recipe(write(TRL))
    assert today.workload.cut_cross_entropy and not former.workload.cut_cross_entropy
    assert any("max_seq_length is a key of TRL before 1" in note for note in former.notes)


@pytest.mark.parametrize(
    ("changes", "vocabulary"),
    [({}, 151_936), ({}, 2_000), ({"use_liger_kernel": True}, 2_000), ({"beta": 0.1}, 2_000)],
)
def test_trls_tile_of_logits_is_as_wide_for_every_vocabulary(
    write: Write, changes: dict[str, Any], vocabulary: int
) -> None:
    workload = load_recipe(write(TRL, **changes)).workload
    workload = replace(workload, shape=replace(workload.shape, vocab_size=vocabulary))
    small = replace(workload, cutoff_len=256)
    assert small.tokens <= 4096
    assert fused_chunk_bytes(small) == 2 * small.tokens * 32_768
    assert fused_chunk_bytes(replace(workload, cutoff_len=100_000)) == 2 * 4096 * 32_768


QWEN_05B = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
    "dtype": "bfloat16",
    "use_liger_kernel": True,
    "gradient_checkpointing": False,
    "lora_r": 8,
    "lora_dropout": 0.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch",
    "eval_strategy": "steps",
    "per_device_eval_batch_size": 4,
}


@pytest.mark.parametrize(("tokens", "measured"), [(256, 1_619_322_880), (2048, 8_866_550_784)])
def test_trl_with_liger_holds_no_logits_in_an_evaluation(
    write: Write, tokens: int, measured: int
) -> None:
    """Measured on an H200 with TRL 1.16 and rows of equal length (docs/experiments.md)."""
    keys = {**TRL, **QWEN_05B, "max_length": tokens, "lora_target_modules": ["all-linear"]}
    keys["use_bnb_nested_quant"] = True
    workload = load_recipe(write(keys)).workload
    found = predict(replace(workload, equal_lengths=True))
    assert found.moment == "fused loss"
    assert found.allocated_bytes == pytest.approx(measured, rel=0.005)


@pytest.mark.parametrize(("tokens", "measured"), [(256, 1_605_668_352), (2048, 8_734_244_352)])
def test_the_script_for_peft_has_no_tiles_of_trl(write: Write, tokens: int, measured: int) -> None:
    """Measured with peft 0.21.2, transformers' Trainer and an evaluation batch of 2 rows."""
    script = {
        "loader": "peft",
        "model": {"pretrained_model_name_or_path": QWEN_05B["model_name_or_path"]},
        "quantization": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        "lora": {"r": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
        "rows": {"cutoff_len": tokens},
        "training": {**QWEN_05B, "per_device_eval_batch_size": 2},
    }
    workload = load_recipe(write(script)).workload
    found = predict(replace(workload, equal_lengths=True))
    assert found.allocated_bytes == pytest.approx(measured, rel=0.0005)


def test_a_file_of_trl_trains_lora_only_if_use_peft_is_on(write: Write) -> None:
    keys = {key: value for key, value in TRL.items() if key not in ("use_peft", "load_in_4bit")}
    (reason,) = load_recipe(write(keys)).needs_more
    assert reason.startswith("use_peft: off, whatever the lora keys say")


def test_chatglm_is_read_and_needs_more_by_its_own_code(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", read_in_this_process)
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "num_layers": 28,
        "num_attention_heads": 32,
        "kv_channels": 128,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "padded_vocab_size": 65024,
        "add_qkv_bias": True,
        "tie_word_embeddings": False,
    }
    (tmp_path / "glm").mkdir()
    (tmp_path / "glm" / "config.json").write_text(json.dumps(config))
    recipe = load_recipe(
        write(LLAMAFACTORY, model_name_or_path="glm", lora_target="query_key_value")
    )
    shape = recipe.workload.shape
    assert (shape.vocab_size, shape.num_key_value_heads) == (65024, 2)
    assert any("copies of the logits" in reason for reason in recipe.needs_more)


def test_a_file_of_trl_is_not_taken_for_llamafactorys(write: Write) -> None:
    recipe = load_recipe(write(TRL, torch_dtype="bfloat16", max_seq_length=None))
    assert recipe.source == "trl"
    assert (recipe.workload.quantization, recipe.workload.lora_rank) == ("nf4", 16)
    assert recipe.workload.cutoff_len == 512
    assert not recipe.workload.double_quantization
    old = {key: value for key, value in TRL.items() if key != "max_length"}
    assert load_recipe(write(old, max_seq_length=256)).workload.cutoff_len == 256


def test_llamafactorys_json_reads_as_its_yaml(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text("{\n\t" + json.dumps(LLAMAFACTORY | {"lora_rank": 4})[1:])
    assert load_recipe(file) == load_recipe(write(LLAMAFACTORY, lora_rank=4))


def test_llamafactorys_v1_file_is_read_by_its_sections(write: Write) -> None:
    keys: dict[str, Any] = {
        "model": MODEL,
        "peft_config": {"name": "lora", "r": 4, "target_modules": "all"},
        "quant_config": {"name": "bnb", "quantization_bit": 4},
        "micro_batch_size": 2,
        "global_batch_size": 8,
        "cutoff_len": 256,
        "train_dataset": "d.yaml",
    }
    recipe = load_recipe(write(keys))
    workload = recipe.workload
    assert recipe.source == "llamafactory v1"
    assert (workload.quantization, workload.lora_rank, workload.cutoff_len) == ("nf4", 4, 256)
    assert (workload.per_device_train_batch_size, workload.gradient_accumulation_steps) == (2, 4)
    assert load_recipe(write(keys, peft_config=None, quant_config=None)).needs_more


def test_numbers_and_flags_may_be_quoted(write: Write) -> None:
    quoted = {"lora_r": "16", "sequence_len": "2e3", "micro_batch_size": 2.0, "val_set_size": "0.1"}
    flags = {"load_in_4bit": "true", "lora_target_linear": "yes", "gradient_checkpointing": 1}
    written = {"gradient_checkpointing_kwargs": {"use_reentrant": "False"}}
    plain = {"lora_r": 16, "sequence_len": 2000, "micro_batch_size": 2, "val_set_size": 0.1}
    meant = {"load_in_4bit": True, "lora_target_linear": True, "gradient_checkpointing": True}
    recipe = load_recipe(write(AXOLOTL, **quoted, **flags, **written))
    plain_kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
    assert recipe == load_recipe(write(AXOLOTL, **plain, **meant, **plain_kwargs))


@pytest.mark.parametrize(
    ("base", "changes", "bytes_per_parameter"),
    [
        # LLaMA-Factory's README: 120 GB for full tuning of a 7B model, 60 GB with pure_bf16.
        (LLAMAFACTORY, {"finetuning_type": "full", "bf16": True, "optim": "adamw_torch"}, 18),
        (LLAMAFACTORY, {"finetuning_type": "full", "pure_bf16": True}, 8),
        (AXOLOTL, {"adapter": None, "load_in_4bit": False, "bf16": "auto"}, 8),
        (AXOLOTL, {"adapter": None, "load_in_4bit": False, "bf16": False}, 18),
        (TRL, {"use_peft": None, "load_in_4bit": False, "optim": "adamw_torch_fused"}, 18),
        (TRL, {"use_peft": None, "load_in_4bit": False, "dtype": "bfloat16"}, 8),
    ],
)
def test_full_tuning_counts_weights_gradients_and_states(
    write: Write, base: dict[str, Any], changes: dict[str, Any], bytes_per_parameter: int
) -> None:
    workload = load_recipe(write(base, **changes)).workload
    parts = predict(workload).allocated_parts
    weights = sum(parts.get(name, 0) for name in ("base_weights", "upcasts", "trained_weights"))
    if bytes_per_parameter == 18:  # embeddings and head are in fp32 alone
        weights += 2 * SHAPE.embedding_parameters
    assert weights / SHAPE.parameters == pytest.approx(bytes_per_parameter, rel=0.01)
    assert "adapter" not in parts
    assert predict(workload).trainable_parameters == SHAPE.parameters


def test_freeze_tuning_counts_the_trained_layers_alone(write: Write) -> None:
    def trained(**keys: Any) -> int:
        workload = load_recipe(write(LLAMAFACTORY, finetuning_type="freeze", **keys)).workload
        return workload.trained_base_parameters

    in_layers = SHAPE.parameters - SHAPE.embedding_parameters
    assert trained() == trained(freeze_trainable_layers=-2) == round(in_layers * 2 / 24)
    assert trained(freeze_trainable_layers=99) == in_layers


def test_pure_bf16_keeps_the_adapter_in_fp32_with_fp32_inputs(write: Write) -> None:
    """peft widens the adapter (`autocast_adapter_dtype`), and no autocast narrows its inputs."""
    mixed = load_recipe(write(LLAMAFACTORY, bf16=True)).workload
    pure = load_recipe(write(LLAMAFACTORY, pure_bf16=True)).workload
    assert (pure.has_autocast, pure.adapter_element_bytes) == (False, 4)
    assert predict(pure).allocated_parts["adapter"] == predict(mixed).allocated_parts["adapter"]
    at_2048 = {"per_device_train_batch_size": 1, "disable_gradient_checkpointing": True}
    kept = [
        predict(load_recipe(write(LLAMAFACTORY, **at_2048, **one)).workload)
        for one in ({"bf16": True}, {"pure_bf16": True})
    ]
    assert kept[1].allocated_bytes > kept[0].allocated_bytes


def test_trl_loads_in_fp32_unless_the_file_names_another_dtype(write: Write) -> None:
    wide, half = load_recipe(write(TRL)), load_recipe(write(TRL, dtype="bfloat16"))
    assert wide.workload.prepare_for_kbit_training
    assert any(note.startswith("dtype: float32") for note in wide.notes)
    assert not half.workload.prepare_for_kbit_training


SCRIPT = """#!/bin/bash
MODEL="Qwen/Qwen2.5-0.5B-Instruct"
# trl sft --model_name_or_path nobody/else
CUDA_VISIBLE_DEVICES=0 trl sft \\
    --model_name_or_path $MODEL --use_peft --load_in_4bit \\
    --lora_target_modules q_proj v_proj \\
    --lora-r=16 --max_length 512 | tee log.txt
"""


def test_the_flags_of_a_shell_script_are_read(write: Write, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(SCRIPT)
    recipe = load_recipe(script)
    assert recipe.source == "trl"
    assert recipe.workload == load_recipe(write(TRL)).workload


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.sh", "swift sft --model m", "a shell script for ms-swift; supported are"),
        ("a.sh", "axolotl train x.yaml", "starts Axolotl with x.yaml"),
        ("a.sh", "llamafactory-cli train a/b.yaml", "starts LLaMA-Factory with a/b.yaml"),
        ("a.sh", "trl sft --config x.yaml", "starts TRL with x.yaml"),
        ("a.sh", "accelerate launch -m axolotl.cli.train x.yml", "starts Axolotl with x.yml"),
        ("a.sh", "echo hello", "starts no training that is known"),
        ("a.sh", "litgpt finetune_lora m --config x.yaml", "a shell script for LitGPT; supported"),
        ("a.sh", "deepspeed --module openrlhf.cli.train_sft \\\n --bf16", "script for OpenRLHF;"),
        ("a.sh", "python3 -m verl.trainer.main_ppo a=b", "a shell script for verl; supported"),
        ("a.sh", "NPROC_PER_NODE=8 xtuner train x.py", "a shell script for XTuner; supported"),
        ("a.sh", "mlx_lm.lora --model m --train", "a shell script for mlx-lm; supported"),
        ("a.sh", "oumi train -c x.yaml", "a shell script for Oumi; supported"),
        ("a.sh", "ludwig train --config x.yaml", "a shell script for Ludwig; supported"),
        ("a.sh", "torchrun -m torchtitan.train", "a shell script for torchtitan; supported"),
        ("a.sh", "automodel finetune llm -c x.yaml", "a shell script for NVIDIA NeMo; supported"),
        ("a.py", "import trl", "this is a Python program; supported are"),
        ("a.py", "from xtuner.model import X", "this is a Python program for XTuner; supported"),
        ("a.ipynb", '{"source": ["import trl"]}', "this is a notebook; supported are"),
        (
            "a.ipynb",
            '{"cells": [{"source": ["from unsloth import X\\n", "from trl import Y"]}]}',
            "this is a notebook for Unsloth; supported are",
        ),
        ("a.toml", "[job]\ndump_folder = 'o'\n", "this is a file of torchtitan; supported are"),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[training]\nsteps = 1",
            "this is a file of torchtitan;",
        ),
        ("a.toml", "[package]\nname = 'x'\n", "this is no training file that is known; supported"),
        ("a.toml", "a = ", "a.toml: not valid TOML"),
    ],
)
def test_a_script_that_is_not_read_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(file)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("keys", "purpose"),
    [
        ({"export_dir": "out", "adapter_name_or_path": "a"}, "merges or exports a model"),
        ({"infer_backend": "vllm", "template": "qwen"}, "chats with a model"),
        ({"stage": "sft", "do_predict": True, "eval_dataset": "x"}, "predicts"),
    ],
)
def test_a_file_of_llamafactory_that_trains_nothing_gets_a_note(
    write: Write, keys: dict[str, Any], purpose: str
) -> None:
    note = load_recipe(write(LLAMAFACTORY, **keys)).notes[0]
    assert note.startswith(f"this file {purpose} and trains nothing")
    trains = load_recipe(write(LLAMAFACTORY, do_train=True, **keys))
    assert not any("trains nothing" in note for note in trains.notes)


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ({"model": "m", "training": {"training_type": "lora"}, "lora": {}}, "Unsloth Studio"),
        ({"training": {"max_seq_length": 2048}, "lora": {"lora_r": 8}}, "Unsloth Studio"),
        ({"model": {"_component_": "torchtune.models.x"}, "batch_size": 4}, "torchtune"),
        ({"task": "llm-sft", "base_model": "m", "params": {"lr": 1}}, "AutoTrain"),
        ({"model": "m", "data_path": "d", "project_name": "p", "peft": True}, "AutoTrain"),
        ({"model_type": "qwen2_5", "sft_type": "lora", "dataset": "d"}, "ms-swift"),
        ({"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO"}, "Accelerate"),
        ({"model": "m", "tuner_type": "lora", "torch_dtype": "bfloat16"}, "ms-swift"),
        ({"model": "m", "target_modules": "all-linear", "max_length": 2048}, "ms-swift"),
        ({"model": {"model_name": "m"}, "training": {"optimizer": "sgd"}}, "Oumi"),
        ({"peft_type": "LORA", "target_modules": ["q_proj"], "r": 8}, "peft"),
        ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}, "DeepSpeed"),
        ({"llm_backbone": "m", "architecture": {}}, "H2O LLM Studio"),
        ({"checkpoint_dir": "c", "out_dir": "o", "lora_r": 8}, "LitGPT"),
        ({"model": "m", "lora_parameters": {"rank": 8}, "iters": 10}, "mlx-lm"),
        ({"model": "m", "train": True, "data": "d", "iters": 10}, "mlx-lm"),
        (
            {"model_type": "llm", "base_model": "m", "input_features": [], "output_features": []},
            "Lud",
        ),
        ({"model_name": "m", "out_dir": "o", "train": {"global_batch_size": 4}}, "LitGPT"),
        ({"data": {}, "train": {"micro_batch_size": 4}, "precision": "bf16-true"}, "LitGPT"),
        ({"actor_rollout_ref": {"model": {"path": "m"}}, "algorithm": {}}, "verl"),
        ({"data": {"train_files": "d"}, "model": {"partial_pretrain": "m"}}, "verl"),
        ({"data": {"train_files": "d"}, "model": {"path": "m"}, "trainer": {"seed": 1}}, "verl"),
        ({"trainer": {"devices": 1}, "model": {"peft": {}}, "exp_manager": {"name": "n"}}, "NeMo"),
        ({"step_scheduler": {"max_steps": 1}, "model": {"_target_": "nemo_automodel.X"}}, "NeMo"),
        ({"policy": {"model_name": "m"}, "cluster": {"num_nodes": 1}, "dpo": {}}, "NeMo"),
        ({"pretrain": "m", "micro_train_batch_size": 2, "max_len": 2048}, "OpenRLHF"),
        ({"model_cfg": {"type": "X"}, "lr_cfg": {"lr_type": "cosine"}}, "XTuner"),
        ({"distributed_type": "FSDP", "mixed_precision": "bf16", "fsdp_config": {}}, "Accelerate"),
        ({"fsdp_transformer_layer_cls_to_wrap": "X", "xla": False}, "FSDP settings"),
        ({"train_micro_batch_size_per_gpu": 1, "fp16": {"enabled": True}}, "DeepSpeed"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "a model"),
        ({"output_dir": "o", "learning_rate": 1e-4, "optim": "sgd"}, "TrainingArguments"),
        ({"base_model": "m", "services": {"train": {"image": "x"}}}, "Docker Compose"),
        ({"base_model": "m", "merge_method": "slerp", "models": [{"model": "m"}]}, "mergekit"),
        ({"model_name_or_path": "m", "train_file": "d", "lora_rank": 8}, "TrainingArguments"),
        (
            {
                "model_name_or_path": "m",
                **dict.fromkeys(("data_tag", "refresh", "data_max_length", "warmup"), 1),
                **dict.fromkeys(("output_dir", "learning_rate", "seed"), 1),
            },
            "TrainingArguments",
        ),
    ],
)
def test_a_file_of_another_tool_is_named(write: Write, values: dict[str, Any], title: str) -> None:
    with pytest.raises(InputError, match=f"this is a file of .*{title}.*; supported are") as caught:
        load_recipe(write(values))
    assert "--model" in caught.value.remedy


def _recorded(tmp_path: Path) -> tuple[StudyRecord, TrialRecord, Rows]:
    """A study, a trial and rows as the store records them."""
    (tmp_path / "rows.json").write_text("[]")
    spec = StudySpec.model_validate(
        {
            "study": "demo",
            "model": {"model_name_or_path": MODEL},
            "dataset": {"train": str(tmp_path / "rows.json")},
            "card": {"name": "test", "title": "Test Card 8 GB", "total_bytes": "8 GiB"},
            "search_space": {"cutoff_len": [256]},
        }
    ).model_dump(mode="json")
    when = datetime(2026, 3, 1, tzinfo=UTC)
    study = StudyRecord(1, "demo", when, when, 1, spec, "d1", spec["card"], {"model_type": "qwen2"})
    fields: dict[str, Any] = dict.fromkeys(TrialRecord.__dataclass_fields__)
    fields |= {"id": 1, "study_id": 1, "number": 7, "outcome": "complete", "seed": 43}
    fields |= {"data_hash": "d1", "seconds": {}, "versions": {}, "steps_done": 90}
    fields |= {"steps_total": 90, "eval_loss_step": 60, "eval_loss": 1.0, "device": "CPU"}
    fields |= {"own_cutoff_eval_loss": 1.0, "last_eval_loss": 1.0}
    fields |= {"started_at": when, "finished_at": when}
    example = Example((("user", "What is 2 + 2?"), ("assistant", "4")))
    return study, TrialRecord(**fields), Rows((example,), (example,), "d1")


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
@pytest.mark.parametrize("lora_target", sorted(LORA_TARGET_SETS))
@pytest.mark.parametrize(("checkpointing", "liger"), [(True, False), (False, True)])
def test_an_export_of_ours_reads_back_as_the_workload_of_its_trial(
    tmp_path: Path, optim: str, lora_target: str, checkpointing: bool, liger: bool
) -> None:
    study, trial, rows = _recorded(tmp_path)
    plan = MemoryPlan(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        gradient_checkpointing=checkpointing,
        enable_liger_kernel=liger,
        per_device_eval_batch_size=3,
    )
    hp = make_point(
        optim=optim,
        lora_target=lora_target,
        cutoff_len=256,
        batch_size=plan.batch_size,
        learning_rate=2e-4,
    )
    trial = replace(trial, hyperparameters=hp.model_dump(mode="json"), plan=plan.model_dump())
    file = tmp_path / "demo-trial-7.yaml"
    files = export_files(TOOLS["llama-factory"], exported_trial(study, trial, rows))
    file.write_text(files[file.name], encoding="utf-8")
    recipe = load_recipe(file)
    assert recipe.workload == Workload(
        shape=SHAPE,
        lora_modules=tuple(SHAPE.target_modules(lora_target)),
        lora_rank=16,
        optimizer=optim,
        per_device_train_batch_size=2,
        cutoff_len=256,
        gradient_checkpointing=checkpointing,
        gradient_accumulation_steps=4,
        fused_linear_cross_entropy=liger,
        per_device_eval_batch_size=3,
        eval_cutoff_len=256,
        prediction_loss_only=False,
        equal_lengths=False,
    )
    assert [note.split(":")[0] for note in recipe.notes] == ["prepare_for_kbit_training"]
    assert predict(recipe.workload).required_bytes > 0


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("lora_target", ["all", "qv", "down_proj"])
def test_every_export_of_ours_is_read_as_its_own_tools(
    tmp_path: Path, tool: str, lora_target: str
) -> None:
    study, trial, rows = _recorded(tmp_path)
    plan = MemoryPlan(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        enable_liger_kernel=False,
        per_device_eval_batch_size=3,
    )
    hp = make_point(
        optim="lion_8bit",
        lora_target=lora_target,
        lora_rank=32,
        lora_alpha=32,
        cutoff_len=256,
        batch_size=plan.batch_size,
        learning_rate=2e-4,
    )
    trial = replace(trial, hyperparameters=hp.model_dump(mode="json"), plan=plan.model_dump())
    name, text = next(iter(export_files(TOOLS[tool], exported_trial(study, trial, rows)).items()))
    (tmp_path / name).write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / name)
    workload = recipe.workload
    assert recipe.source == tool.replace("-", "")
    assert workload.lora_modules == tuple(SHAPE.target_modules(lora_target))
    assert (workload.lora_rank, workload.optimizer, workload.cutoff_len) == (32, "lion_8bit", 256)
    assert (workload.per_device_train_batch_size, workload.gradient_accumulation_steps) == (2, 4)
    assert (workload.quantization, workload.double_quantization) == ("nf4", True)
    assert workload.gradient_checkpointing and not workload.reentrant_checkpointing
    assert not [note for note in recipe.notes if "unknown key" in note]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
known = st.sampled_from(
    [
        "lora_target",
        "lora_rank",
        "optim",
        "flash_attn",
        "val_size",
        "plugins",
        "adapter",
        "lora_r",
        "quantization_bit",
        "eval_strategy",
        "model_name_or_path",
        "base_model",
        "use_dora",
        "peft",
    ]
)


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        (LLAMAFACTORY, {"quantization_bit": 4, "use_dora": True}),
        (AXOLOTL, {"peft_use_dora": True}),
    ],
)
def test_dora_adds_magnitudes_and_a_residual_stream_in_fp32(
    write: Write, base: dict[str, Any], keys: dict[str, Any]
) -> None:
    plain, dora = load_recipe(write(base)).workload, load_recipe(write(base, **keys)).workload
    assert dora.use_dora and not plain.use_dora
    outputs = sum(layer.out_features for layer in SHAPE.linears) * SHAPE.num_hidden_layers
    ranks = dora.lora_rank / plain.lora_rank
    assert dora.trainable_parameters - ranks * plain.trainable_parameters == outputs
    assert dora.widens_hidden_states


def test_dora_on_weights_that_peft_cannot_combine_it_with_is_refused(write: Write) -> None:
    file = write(
        LLAMAFACTORY, quantization_bit=8, quantization_method="eetq", use_dora=True, bf16=True
    )
    with pytest.raises(InputError, match="peft has no DoRA on"):
        load_recipe(file)


@given(keys=st.dictionaries(known, values))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_give_a_recipe_or_an_input_error(write: Write, keys: dict[str, Any]) -> None:
    for base in (LLAMAFACTORY, AXOLOTL):
        try:
            recipe = load_recipe(write(base, **keys))
        except InputError as error:
            assert error.message and error.remedy
        else:
            assert recipe.workload.lora_modules


def test_trl_makes_one_sequence_of_a_packed_micro_batch(write: Write) -> None:
    packed = TRL | {"packing": True, "per_device_train_batch_size": 2, "max_length": 512}
    joined = load_recipe(write(packed))
    assert joined.workload.packed
    assert joined.workload.per_device_train_batch_size == 1
    assert joined.workload.cutoff_len == 1024
    assert any("one sequence of a micro-batch, here 2 x 512" in note for note in joined.notes)
    alone = load_recipe(write(packed, packing=False)).workload
    assert predict(joined.workload).allocated_bytes > predict(alone).allocated_bytes


@pytest.mark.parametrize(
    "keys",
    [
        {"attn_implementation": "flash_attention_2"},
        {"packing_strategy": "wrapped"},
        {"max_length": None, "max_seq_length": 512},
    ],
)
def test_trl_keeps_a_packed_micro_batch_apart(write: Write, keys: dict[str, Any]) -> None:
    packed = TRL | {"packing": True, "per_device_train_batch_size": 2, "max_length": 512}
    workload = load_recipe(write(packed | keys)).workload
    assert not workload.packed
    assert (workload.per_device_train_batch_size, workload.cutoff_len) == (2, 512)


def test_trl_without_padding_joins_rows_of_training_and_evaluation(write: Write) -> None:
    keys = {"padding_free": True, "eval_strategy": "steps", "per_device_eval_batch_size": 3}
    workload = load_recipe(write(TRL | {"per_device_train_batch_size": 2}, **keys)).workload
    assert (workload.per_device_train_batch_size, workload.cutoff_len) == (1, 1024)
    assert (workload.per_device_eval_batch_size, workload.eval_cutoff_len) == (1, 1536)


def test_experts_that_peft_trains_in_place_of_layers_are_counted(write: Write) -> None:
    keys = {"base_model": "arcee-ai/Trinity-Nano-Preview", "lora_r": 16}
    recipe = load_recipe(write(AXOLOTL, **keys))
    assert 487e6 < recipe.workload.trainable_parameters < 489e6  # 1,953 MB in fp32 on an H200
    assert recipe.needs_more[0].startswith("lora_target_linear: peft 0.19 and newer train adapters")
    assert "of all experts of afmoe in place of down_proj" in recipe.needs_more[0]
    attention = {"lora_target_linear": False, "lora_target_modules": ["q_proj", "o_proj"]}
    plain = load_recipe(write(AXOLOTL, **keys, **attention))
    assert not plain.needs_more and not plain.workload.expert_features


@pytest.mark.parametrize(
    ("target", "share"),
    [("all-linear", 3), (["q_proj", "w1", "w3"], 2), (["w2"], 1), ([r".*\.experts\.w2"], 1)],
)
def test_experts_of_mixtral_are_counted_by_their_former_names(
    write: Write, target: object, share: int
) -> None:
    name = "mistralai/Mixtral-8x7B-v0.1"
    recipe = load_recipe(write(TRL, model_name_or_path=name, lora_target_modules=target))
    two, one = 2 * 8 * (4096 + 2 * 14336), 8 * (4096 + 14336)
    each = {3: two + one, 2: two, 1: one}[share]
    assert sum(count * size for count, size in recipe.workload.expert_features) == 32 * each
    assert recipe.needs_more


def test_llamafactorys_peft_trains_the_linear_layers_of_a_mixture(write: Write) -> None:
    name = "deepseek-ai/DeepSeek-V2-Lite"
    recipe = load_recipe(write(LLAMAFACTORY, model_name_or_path=name, lora_target="all"))
    assert {"gate_proj", "up_proj", "down_proj"} <= set(recipe.workload.lora_modules)
    assert not recipe.workload.expert_features
