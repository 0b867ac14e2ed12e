"""Axolotl, TRL, Unsloth, peft: exports read back as their trial, under schemas of our own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import make_point
from vram_search.cli.main import cli
from vram_search.data import Example, Rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.export import TOOLS, export_files, exported_trial, parse_export, write_export
from vram_search.export.fields import LORA_MODULES
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan, load_shape
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.store import StudyRecord, TrialRecord
from vram_search.tools import EXPORTED

PHI_3 = load_shape(shipped("configs", "models", "phi-3-mini-4k"))
SCRIPTED = ["peft", "unsloth"]
one_answer = (
    Example((("user", "What is 2 + 2?"), ("assistant", "4"))),
    Example((("system", "Be brief."), ("user", "Sky?"), ("assistant", "Blüe."))),
)
targets = st.one_of(
    st.sampled_from(sorted(LORA_TARGET_SETS)),
    st.lists(st.sampled_from(["q_proj", "k_proj", "down_proj"]), min_size=1, unique=True).map(
        ",".join
    ),
)
plans = st.builds(
    MemoryPlan,
    per_device_train_batch_size=st.integers(1, 512),
    gradient_accumulation_steps=st.integers(1, 512),
    gradient_checkpointing=st.booleans(),
    enable_liger_kernel=st.booleans(),
    per_device_eval_batch_size=st.integers(1, 512),
    expandable_segments=st.booleans(),
)


@st.composite
def trained(draw: st.DrawFn) -> tuple[Hyperparameters, MemoryPlan, int]:
    plan = draw(plans)
    hp = make_point(
        optim=draw(st.sampled_from(sorted(OPTIMIZERS))),
        lora_target=draw(targets),
        lora_rank=draw(st.integers(1, 1024)),
        lora_alpha=draw(st.integers(1, 4096)),
        cutoff_len=draw(st.integers(16, 1_048_576)),
        batch_size=plan.batch_size,
        learning_rate=draw(st.floats(1e-300, 1.0)),
        lora_dropout=draw(st.sampled_from([0.0, 0.05, 0.99])),
    )
    return hp, plan, draw(st.integers(0, 2**31 - 1))


def files_of(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows, **options: Any
) -> dict[str, str]:
    return export_files(TOOLS[tool], exported_trial(study, trial, rows, **options))


def yaml_of(tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows) -> str:
    return files_of(tool, study, trial, rows)[f"demo-trial-7{TOOLS[tool].ending}.yaml"]


def with_plan(trial: TrialRecord, **changes: Any) -> TrialRecord:
    assert trial.plan is not None
    return replace(trial, plan=trial.plan | changes)


@pytest.mark.parametrize("tool", TOOLS)
@given(point=trained())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_trial_survives_the_way_there_and_back(
    tool: str,
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    point: tuple[Hyperparameters, MemoryPlan, int],
) -> None:
    hp, plan, seed = point
    recorded = replace(
        trial,
        hyperparameters=hp.model_dump(mode="json"),
        plan=plan.model_dump(mode="json"),
        seed=seed,
    )
    assert parse_export(TOOLS[tool], yaml_of(tool, study, recorded, rows)) == {
        "hyperparameters": recorded.hyperparameters,
        "plan": recorded.plan,
        "seed": seed,
    }


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (
            "axolotl",
            {
                "lora_target_modules": ["q_proj", "v_proj"],
                "lora_r": 16,
                "sequence_len": 256,
                "eval_sequence_len": 512,
                "excess_length_strategy": "truncate",
                "micro_batch_size": 2,
                "gradient_accumulation_steps": 4,
                "eval_batch_size": 4,
                "max_steps": 90,
                "warmup_steps": 9,
                "seed": 43,
                "lora_qkv_kernel": False,
                "bf16": True,
                "fp16": False,
            },
        ),
        (
            "trl",
            {
                "lora_target_modules": ["q_proj", "v_proj"],
                "lora_r": 16,
                "lora_dropout": 0.0,
                "max_length": 256,
                "use_bnb_nested_quant": True,
                "dtype": "bfloat16",
                "per_device_train_batch_size": 2,
                "per_device_eval_batch_size": 4,
                "max_steps": 90,
                "warmup_steps": 9,
                "data_seed": 43,
            },
        ),
    ],
)
def test_hyperparameters_stand_under_the_tools_own_names(
    tool: str, expected: dict[str, Any], study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config = yaml.safe_load(yaml_of(tool, study, trial, rows))
    assert {key: config.get(key) for key in expected} == expected


@pytest.mark.parametrize("tool", TOOLS)
def test_dropout_is_exported_and_read_back(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    dropped = replace(trial, hyperparameters={**trial.hyperparameters, "lora_dropout": 0.05})
    text = yaml_of(tool, study, dropped, rows)
    config = yaml.safe_load(text)
    assert config.get("lora", config)["lora_dropout"] == 0.05
    assert parse_export(TOOLS[tool], text)["hyperparameters"]["lora_dropout"] == 0.05
    assert "trust_remote_code" not in config


FURTHER = {
    "use_rslora": True,
    "use_dora": True,
    "loraplus_lr_ratio": 8.0,
    "neftune_noise_alpha": 5.0,
    "packing": True,
}
SETTINGS = {"weight_decay": 0.05, "lr_scheduler_type": "linear", "warmup_ratio": 0.2, "seed": 7}


@pytest.mark.parametrize("tool", TOOLS)
def test_further_hyperparameters_are_exported_and_read_back(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    searched = {**trial.hyperparameters, **FURTHER, **SETTINGS}
    text = yaml_of(tool, study, replace(trial, hyperparameters=searched), rows)
    found = parse_export(TOOLS[tool], text)["hyperparameters"]
    expected = dict(FURTHER)
    if tool == "trl":
        assert "TRL has no key for LoRA+: loraplus_lr_ratio 8" in text
        del expected["loraplus_lr_ratio"]
    if tool == "unsloth":
        assert "packing is not applied" in text
        del expected["packing"]
    assert {name: found.get(name) for name in expected} == expected
    training = yaml.safe_load(text)
    training = training.get("training", training)
    assert training["weight_decay"] == 0.05
    assert training.get("lr_scheduler_type", training.get("lr_scheduler")) == "linear"
    assert training["warmup_steps"] == math.ceil(0.2 * training["max_steps"])


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("method", ["olora", "pissa"])
def test_start_from_the_base_is_exported_where_the_tool_has_it_on_4_bits(
    tool: str, method: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    started = {**trial.hyperparameters, "init_lora_weights": method}
    text = yaml_of(tool, study, replace(trial, hyperparameters=started), rows)
    found = parse_export(TOOLS[tool], text)["hyperparameters"]
    has_it = method == "olora" and tool in ("axolotl", "peft")
    assert found.get("init_lora_weights") == (method if has_it else None)
    assert (f"init_lora_weights {method} is not applied" in text) is not has_it


@pytest.mark.parametrize("tool", SCRIPTED)
def test_scripts_get_their_arguments(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    files = files_of(tool, study, trial, rows)
    config = yaml.safe_load(files[f"demo-trial-7.{tool}.yaml"])
    assert config["lora"]["r"] == 16
    assert config["rows"]["cutoff_len"] == 256
    assert config["rows"]["eval_cutoff_len"] == 512
    assert config["training"]["optim"] == "adamw_8bit"
    assert 'if __name__ == "__main__":' in files["train_trial.py"]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_card_without_bfloat16_trains_in_fp16(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    old = study.spec["card"] | {"compute_capability": "7.5"}
    text = yaml_of(tool, replace(study, spec=study.spec | {"card": old}), trial, rows)
    assert "fp16: true" in text
    assert "bf16: false" in text
    assert "bfloat16" not in text


@pytest.mark.parametrize("tool", TOOLS)
def test_every_linear_layer_has_the_tools_own_word(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    everywhere = replace(trial, hyperparameters=trial.hyperparameters | {"lora_target": "all"})
    text = yaml_of(tool, study, everywhere, rows)
    words = {"axolotl": "lora_target_linear: true", "llama-factory": "lora_target: all"}
    assert words.get(tool, "all-linear") in text


def test_one_module_alone_is_a_regular_expression_for_trl(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    one = replace(trial, hyperparameters=trial.hyperparameters | {"lora_target": "down_proj"})
    config = yaml.safe_load(yaml_of("trl", study, one, rows))
    assert config["lora_target_modules"] == [r".*\.down_proj"]
    config["lora_target_modules"] = ["down_proj"]
    (fault,) = TOOLS["trl"].check(config, LORA_MODULES)
    assert "matches no layer" in str(fault)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("expandable", [True, False])
def test_scripts_start_the_yaml_with_the_allocators_setting_on_bash_alone(
    tool: str, expandable: bool, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    files = files_of(tool, study, with_plan(trial, expandable_segments=expandable), rows)
    stem = f"demo-trial-7{TOOLS[tool].ending}"
    bash, powershell = files[f"{stem}.sh"], files[f"{stem}.ps1"]
    first = files[f"{stem}.yaml"].splitlines()[0]
    assert f"{stem}.yaml" in first
    assert ("expandable_segments:True" in bash) is expandable
    assert ("expandable_segments:True" in first) is expandable
    assert ("expandable_segments:False" in bash) is (tool == "axolotl" and not expandable)
    assert "expandable" not in powershell
    assert powershell.isascii()
    assert f"{stem}.yaml @args" in powershell
    assert subprocess.run(["bash", "-n"], input=bash, text=True, check=False).returncode == 0


def test_the_bash_script_runs_in_its_own_folder_on_one_gpu(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "a folder"
    write_export(study, with_plan(trial, expandable_segments=True), rows, target, to="trl")
    fake = tmp_path / "bin" / "trl"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES|$PYTORCH_CUDA_ALLOC_CONF|$PWD|$*"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", str(target / "demo-trial-7.trl.sh"), "--extra"],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (
        f"0|expandable_segments:True|{target}|sft --config demo-trial-7.trl.yaml --extra"
    )


def test_trl_rows_are_prompt_and_completion_where_each_is_answered_once(
    study: StudyRecord, trial: TrialRecord
) -> None:
    files = files_of("trl", study, trial, Rows(one_answer, one_answer[:1], "d1"))
    written = [json.loads(line) for line in files["trl-rows/train.jsonl"].splitlines()]
    assert written[1] == {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sky?"},
        ],
        "completion": [{"role": "assistant", "content": "Blüe."}],
    }
    config = yaml.safe_load(files["demo-trial-7.trl.yaml"])
    assert (config["completion_only_loss"], config["assistant_only_loss"]) == (True, False)


def test_trl_rows_with_several_answers_keep_the_loss_on_all_of_them(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    files = files_of("trl", study, trial, rows)
    written = [json.loads(line) for line in files["trl-rows/train.jsonl"].splitlines()]
    assert written == [{"messages": example.turns} for example in rows.train]
    config = yaml.safe_load(files["demo-trial-7.trl.yaml"])
    assert (config["completion_only_loss"], config["assistant_only_loss"]) == (False, True)


@pytest.mark.parametrize("tool", ["axolotl", *SCRIPTED])
def test_other_tools_read_the_rows_as_messages(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    files = files_of(tool, study, trial, rows)
    assert json.loads(files["train.json"]) == [{"messages": row.turns} for row in rows.train]
    assert json.loads(files["eval.json"]) == [{"messages": row.turns} for row in rows.eval]


def test_notes_say_what_a_tool_does_whatever_its_keys(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    assert "prepare_model_for_kbit_training" in yaml_of("axolotl", study, trial, rows)
    assert "adapter in bf16" in yaml_of("trl", study, trial, rows)
    fused = with_plan(trial, enable_liger_kernel=True)
    assert "# enable_liger_kernel: true" in yaml_of("unsloth", study, fused, rows)
    one_step = replace(trial, steps_total=10, eval_loss_step=10)
    assert "2 warm-up steps of 1" in yaml_of("axolotl", study, one_step, rows)
    assert "pip install liger-kernel" in yaml_of("peft", study, fused, rows)


@pytest.mark.parametrize("tool", TOOLS)
def test_provenance_stands_at_the_top(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    text = yaml_of(tool, study, trial, rows)
    for part in (
        "demo, revision 2",
        "1.2345 nats",
        "data hash d1",
        "micro-batch 2 x 4",
        "peak bytes",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("tool", "keys"),
    [
        ("llama-factory", {"packing": True, "neat_packing": True}),
        (
            "axolotl",
            {"sample_packing": True, "eval_sample_packing": False, "pad_to_sequence_len": True},
        ),
        ("trl", {"packing": True, "packing_strategy": "bfd", "eval_packing": False}),
    ],
)
def test_packing_stands_under_the_keys_of_the_tool(
    tool: str, keys: dict[str, Any], study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    packed = replace(trial, hyperparameters={**trial.hyperparameters, "packing": True})
    config = yaml.safe_load(yaml_of(tool, study, packed, rows))
    assert {key: config[key] for key in keys} == keys
    alone = config | {list(keys)[-1]: not list(keys.values())[-1]}
    assert TOOLS[tool].check(alone, LORA_MODULES), "the keys go together"


def test_script_joins_the_rows_of_a_packing_trial(
    study: StudyRecord, trial: TrialRecord, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = replace(trial, hyperparameters={**trial.hyperparameters, "packing": True})
    files = files_of("peft", study, packed, rows)
    assert yaml.safe_load(files[f"demo-trial-7{TOOLS['peft'].ending}.yaml"])["rows"]["packing"]
    chat_rows = ModuleType("chat_rows")
    script: dict[str, Any] = {"__name__": "script"}
    monkeypatch.setitem(sys.modules, "chat_rows", chat_rows)
    exec(files["chat_rows.py"], vars(chat_rows))
    exec(files["train_trial.py"], script)
    (sequence,) = script["joined"]([{"input_ids": [5, 6], "labels": [5, 6]}] * 2, 4)
    assert sequence == {
        "input_ids": [5, 6, 5, 6],
        "labels": [-100, 6, -100, 6],
        "position_ids": [0, 1, 0, 1],
    }
    batch = script["collate"]([sequence], 0)
    assert "attention_mask" not in batch and batch["position_ids"].tolist() == [[0, 1, 0, 1]]


WRONG = [
    ("axolotl", "lora_r", -8),
    ("axolotl", "micro_batch_size", 0),
    ("axolotl", "unheard_of", 1),
    ("axolotl", "lora_target_modules", ["x_proj"]),
    ("axolotl", "lora_target_linear", True),
    ("axolotl", "liger_rope", True),
    ("axolotl", "fp16", True),
    ("axolotl", "datasets", []),
    ("axolotl", "sample_packing", True),
    ("axolotl", "eval_steps", 91),
    ("trl", "lora_r", 0),
    ("trl", "lora_target_modules", ["x_proj", "q_proj"]),
    ("trl", "dtype", "float16"),
    ("trl", "assistant_only_loss", False),
    ("trl", "max_length", 0),
    ("trl", "save_steps", 7),
    ("trl", "output_dir", "output"),
    ("trl", "gradient_checkpointing_kwargs", {"use_reentrant": True}),
    ("peft", "lora", {"r": 1}),
    ("peft", "loader", "unsloth"),
    ("unsloth", "training", {}),
]


@pytest.mark.parametrize(("tool", "key", "value"), WRONG)
def test_what_would_not_run_is_refused_by_its_key(
    tool: str, key: str, value: Any, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config = yaml.safe_load(yaml_of(tool, study, trial, rows))
    assert TOOLS[tool].check(config, LORA_MODULES) == []
    faults = TOOLS[tool].check(config | {key: value}, LORA_MODULES)
    assert faults
    with pytest.raises(FaultyFileError):
        parse_export(TOOLS[tool], yaml.safe_dump(config | {key: value}))


@pytest.mark.parametrize("tool", SCRIPTED)
@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("lora", "r", -8),
        ("lora", "target_modules", ["x_proj"]),
        ("training", "max_steps", 0),
        ("training", "bf16", False),
        ("training", "warmup_steps", 91),
        ("rows", "cutoff_len", 0),
        ("model", "unheard_of", 1),
    ],
)
def test_arguments_that_would_not_run_are_refused(
    tool: str,
    part: str,
    key: str,
    value: Any,
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
) -> None:
    config = yaml.safe_load(yaml_of(tool, study, trial, rows))
    config[part][key] = value
    assert any(fault.path.startswith(part) for fault in TOOLS[tool].check(config, LORA_MODULES))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_target_that_the_model_lacks_is_refused(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    with pytest.raises(FaultyFileError, match=r"v_proj"):
        files_of(tool, study, trial, rows, shape=PHI_3)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("text", ["a: [", "- 1", "lora_rank: 8\n"])
def test_what_no_export_wrote_is_refused(tool: str, text: str) -> None:
    with pytest.raises(InputError):
        parse_export(TOOLS[tool], text)


def test_exports_to_all_tools_share_a_folder(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    first = [write_export(study, trial, rows, tmp_path / "out", to=tool)[0] for tool in TOOLS]
    assert len(set(first)) == len(TOOLS)
    assert all(path.suffix == ".yaml" and path.is_file() for path in first)


def test_a_template_by_name_is_for_llama_factory_alone(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no templates by name"):
        write_export(study, trial, rows, tmp_path, to="trl", template="qwen")


def test_every_tool_has_its_keys_in_the_table_that_the_command_reads() -> None:
    assert {name: tool.keys for name, tool in TOOLS.items()} == EXPORTED


def test_the_command_offers_every_tool() -> None:
    command = cli.get_command(click.Context(cli), "export")
    assert command is not None
    (option,) = [parameter for parameter in command.params if parameter.name == "to"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(TOOLS)
    result = CliRunner().invoke(cli, ["export", "best", "--to", "word"])
    assert result.exit_code == 2
