"""Training files of LLaMA-Factory and Axolotl become the workload that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_search.data import Example, Rows
from vram_search.errors import InputError
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes.axolotl import UNMODELLED as AXOLOTL_UNMODELLED
from vram_search.estimate.recipes.llamafactory import UNMODELLED as LLAMAFACTORY_UNMODELLED
from vram_search.estimate.recipes.load import load_recipe
from vram_search.export import TOOLS, export_files, exported_trial
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan, StudySpec, load_shape
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.search_space import LORA_TARGET_SETS
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
        prepare_for_kbit_training=True,
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
        ({"quantization_bit": 4, "double_quantization": False}, "double_quantization", False),
        ({"quantization_bit": 4}, "prepare_for_kbit_training", False),
        ({"lora_rank": 64}, "lora_rank", 64),
        ({"lora_target": "q_proj, v_proj,q_proj"}, "lora_modules", ("q_proj", "v_proj")),
        ({"lora_target": ["up_proj", "k_proj"]}, "lora_modules", ("up_proj", "k_proj")),
        ({"cutoff_len": 512}, "cutoff_len", 512),
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size", 2),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps", 4),
        ({"optim": "adamw_bnb_8bit"}, "optimizer", "adamw_8bit"),
        ({"optim": "paged_adamw_8bit"}, "optimizer", "paged_adamw_8bit"),
        ({"enable_liger_kernel": True}, "fused_linear_cross_entropy", True),
        ({"disable_gradient_checkpointing": True}, "gradient_checkpointing", False),
        ({"flash_attn": "disabled"}, "attention", "eager"),
        ({"flash_attn": "fa2"}, "attention", "sdpa"),
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
        (LORA | {"load_in_8bit": True}, "prepare_for_kbit_training", True),
        ({"lora_r": 32}, "lora_rank", 32),
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
        ({"optimizer": "adamw_bnb_8bit"}, "optimizer", "adamw_8bit"),
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
    [(LLAMAFACTORY, key) for key in LLAMAFACTORY_UNMODELLED]
    + [(AXOLOTL, key) for key in AXOLOTL_UNMODELLED],
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
        (LLAMAFACTORY, {"stage": "dpo"}, "stage: dpo"),
        (LLAMAFACTORY, {}, "bf16: off"),
        (AXOLOTL, {}, "prepare_for_kbit_training: on"),
        (AXOLOTL, {"bf16": False}, "bf16: off"),
        (AXOLOTL, {"gradient_checkpointing": "offload"}, "gradient_checkpointing: offload"),
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


@pytest.mark.parametrize("value", [0, -1, 2**31 + 1, 1.5, "8", True, [8], {}])
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
    with pytest.raises(InputError, match=r"lora_rank: is not a whole number .*is a huge number"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (LLAMAFACTORY, "finetuning_type", "full"),
        (LLAMAFACTORY, "finetuning_type", "freeze"),
        (LLAMAFACTORY, "stage", "other"),
        (LLAMAFACTORY, "model_name_or_path", 7),
        (LLAMAFACTORY, "model_name_or_path", ""),
        (LLAMAFACTORY, "model_name_or_path", "nobody/unknown-3b"),
        (LLAMAFACTORY, "model_name_or_path", "x" * 9000),
        (LLAMAFACTORY, "model_name_or_path", "a\0b"),
        (LLAMAFACTORY, "base_model", MODEL),
        (LLAMAFACTORY, "quantization_bit", 3),
        (LLAMAFACTORY, "quantization_bit", True),
        (LLAMAFACTORY, "quantization_bit", "4"),
        (LLAMAFACTORY | {"quantization_bit": 4}, "quantization_method", "hqq"),
        (LLAMAFACTORY, "quantization_type", "int4"),
        (LLAMAFACTORY, "double_quantization", "yes"),
        (LLAMAFACTORY, "lora_target", "q_proj,qkv_proj"),
        (LLAMAFACTORY, "lora_target", "qv"),
        (LLAMAFACTORY, "lora_target", 5),
        (LLAMAFACTORY, "lora_target", [5]),
        (LLAMAFACTORY, "optim", "sgd"),
        (LLAMAFACTORY, "optim", 1),
        (LLAMAFACTORY, "flash_attn", "fast"),
        (LLAMAFACTORY, "val_size", -0.1),
        (LLAMAFACTORY, "val_size", float("nan")),
        (LLAMAFACTORY, "val_size", "0.1"),
        (LLAMAFACTORY, "eval_strategy", "sometimes"),
        (LLAMAFACTORY, "packing", 1),
        (AXOLOTL, "adapter", None),
        (AXOLOTL, "adapter", "llama-adapter"),
        (AXOLOTL, "load_in_4bit", False),
        (AXOLOTL, "load_in_8bit", True),
        (AXOLOTL, "lora_r", None),
        (AXOLOTL, "base_model", "nobody/unknown-3b"),
        (AXOLOTL | {"lora_target_linear": False}, "lora_target_modules", None),
        (AXOLOTL | {"lora_target_linear": False}, "lora_target_modules", ["qkv_proj"]),
        (AXOLOTL, "optimizer", "came_pytorch"),
        (AXOLOTL, "gradient_checkpointing", "sometimes"),
        (AXOLOTL, "gradient_checkpointing", 1),
        (AXOLOTL, "plugins", "liger"),
        (AXOLOTL, "val_set_size", -1),
        (AXOLOTL, "flash_attention", "on"),
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
        ("optim", "sgd", "adamw_torch, .*paged_lion_8bit, adamw_bnb_8bit"),
        ("lora_target", "qkv_proj", "it has q_proj, .*down_proj"),
        ("model_name_or_path", "nobody/unknown", r"folder with its config\.json"),
    ):
        with pytest.raises(InputError, match=remedy):
            load_recipe(write(LLAMAFACTORY, **{key: value}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"a: 2024-13-45", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"- model_name_or_path", "no mapping"),
        (b"", "no mapping"),
        (b"lora_rank: 8", "neither LLaMA-Factory nor Axolotl"),
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
    hp = Hyperparameters(
        optim=optim,
        lora_target=lora_target,
        lora_rank=16,
        lora_alpha=32,
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
