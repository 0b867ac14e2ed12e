"""A run's stage, finetuning type and adapter are kept; a prediction is no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.importing.conftest import (
    ADAPTER,
    AXOLOTL,
    RESULTS,
    TRAINING_ARGS,
    Load,
    WriteRun,
    trainer_log,
    trainer_state,
)
from vram_search.errors import InputError
from vram_search.importing.folder import load_run
from vram_search.importing.load import load_runs

DPO = TRAINING_ARGS.replace("stage: sft", "stage: dpo")
TRL = """\
model_name_or_path: Qwen/Qwen2.5-3B-Instruct
dataset_name: own
max_length: 1024
use_peft: true
"""


def ended() -> dict[str, Any]:
    return {"trainer_state.json": trainer_state()}


def rewarded() -> dict[str, Any]:
    state = trainer_state()
    state["log_history"][0]["rewards/accuracies"] = 0.7
    return {"trainer_state.json": state, "adapter_config.json": ADAPTER}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.yaml": TRAINING_ARGS}, None),
        ({"a.yaml": DPO}, "dpo"),
        ({"a.yaml": TRAINING_ARGS.replace("stage: sft", "stage: KTO")}, "kto"),
        (
            {"a.yaml": TRAINING_ARGS.replace("finetuning_type: lora", "finetuning_type: full")},
            "sft, full",
        ),
        (
            {"a.yaml": DPO.replace("finetuning_type: lora", "finetuning_type: freeze")},
            "dpo, freeze",
        ),
        ({"a.yaml": AXOLOTL}, None),
        ({"a.yaml": AXOLOTL + "rl: simpo"}, "simpo"),
        ({"a.yaml": AXOLOTL + "reward_model: true"}, "rm"),
        ({"a.yaml": AXOLOTL + "pretraining_dataset: x"}, "pt"),
        ({"a.yaml": AXOLOTL.replace("adapter: qlora", "")}, "full"),
        ({"a.yaml": TRL}, None),
        ({"a.yaml": TRL + "beta: 0.1"}, "preference"),
        ({"a.yaml": TRL.replace("use_peft: true", "")}, "full"),
        ({"adapter_config.json": ADAPTER}, None),
        ({"adapter_config.json": ADAPTER | {"peft_type": "IA3"}}, "ia3"),
        ({"adapter_config.json": ADAPTER | {"task_type": "SEQ_CLS"}}, "seq_cls"),
        ({"adapter_config.json": ADAPTER, "value_head.safetensors": b"w"}, "rm"),
        ({"model.safetensors": b"w"}, "full"),
        (rewarded(), "preference"),
        (
            {"trainer_log.jsonl": trainer_log().replace('"loss"', '"accuracy": 0.6, "loss"')},
            "preference",
        ),
        ({"all_results.json": RESULTS | {"eval_rewards/margins": 0.1}}, "preference"),
    ],
)
def test_training_that_is_no_supervised_lora_is_named(
    load: Load, files: dict[str, Any], expected: str | None
) -> None:
    run = load(ended() | files)
    assert (run.result.outcome, run.other_training) == ("complete", expected)


@pytest.mark.parametrize(
    "files",
    [
        {"adapter_config.json": ADAPTER | {"use_dora": True, "modules_to_save": ["lm_head"]}},
        {"a.yaml": TRAINING_ARGS + "use_dora: true\nadditional_target: lm_head"},
        {"a.yaml": AXOLOTL + "peft_use_dora: true\nlora_modules_to_save: [lm_head]"},
        {"a.yaml": TRL + "use_dora: true\nlora_modules_to_save: [lm_head]"},
    ],
)
def test_adapters_variant_is_kept_under_pefts_names(load: Load, files: dict[str, Any]) -> None:
    adapter = load(ended() | files).provenance["adapter"]
    assert adapter["use_dora"] is True
    assert adapter["modules_to_save"] in (["lm_head"], "lm_head")


def test_plain_adapter_has_no_variant(load: Load) -> None:
    plain = {
        "use_rslora": False,
        "rank_pattern": {},
        "layers_to_transform": None,
        "bias": "none",
        "init_lora_weights": True,
    }
    assert load({"adapter_config.json": ADAPTER | plain}).provenance["adapter"] == {}


def test_very_long_rank_pattern_is_kept_by_its_size(load: Load) -> None:
    pattern = {f"layers.{number}.q_proj": 8 for number in range(500)}
    run = load({"adapter_config.json": ADAPTER | {"rank_pattern": pattern}})
    assert run.provenance["adapter"] == {"rank_pattern": "500 entries"}


@pytest.mark.parametrize(
    "pattern",
    [
        r"model.language_model.layers.[\d]{1,2}.(mlp|self_attn).(up|down|gate|q|k|v|o)_proj",
        r".*\.(q_proj|v_proj)",
        "^model,.*q_proj$",
    ],
)
def test_pattern_stays_whole_with_its_commas(load: Load, pattern: str) -> None:
    run = load({"adapter_config.json": ADAPTER | {"target_modules": pattern}})
    assert run.hyperparameters["lora_target"] == pattern


def test_many_module_paths_are_kept_by_their_last_names(load: Load) -> None:
    paths = [f"model.layers.{n}.self_attn.{m}_proj" for n in range(80) for m in "qv"]
    run = load({"adapter_config.json": ADAPTER | {"target_modules": paths}})
    assert run.hyperparameters["lora_target"] == "qv"


PREDICTION = {"predict_rouge-1": 13.0, "predict_runtime": 610.2}
PREDICTION_YAML = TRAINING_ARGS.replace("do_train: true", "do_predict: true")


@pytest.mark.parametrize(
    "files",
    [
        {"all_results.json": PREDICTION},
        {"all_results.json": PREDICTION, "training_args.yaml": PREDICTION_YAML},
        {
            "trainer_log.jsonl": '{"current_steps": 5, "total_steps": 9}\n',
            "generated_predictions.jsonl": "",
        },
        {
            "all_results.json": {"eval_loss": 1.1},
            "a.yaml": TRAINING_ARGS.replace("do_train: true", "do_eval: true"),
        },
    ],
)
def test_prediction_alone_is_no_run(write_run: WriteRun, files: dict[str, Any]) -> None:
    folder = write_run("pred", files)
    with pytest.raises(InputError, match="a prediction or an evaluation, no training"):
        load_run(folder)


def test_training_with_a_prediction_after_it_is_a_run(load: Load) -> None:
    run = load(
        {"all_results.json": RESULTS | PREDICTION, "a.yaml": TRAINING_ARGS + "do_predict: true"}
    )
    assert run.result.outcome == "complete"


def test_predictions_between_runs_are_passed_over(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("train", {"all_results.json": RESULTS})
    folder = write_run("pred", {"all_results.json": PREDICTION})
    found = load_runs(tmp_path)
    assert [run.provenance["run"] for run in found.runs] == ["train"]
    assert found.predictions == [folder]


def test_runs_of_a_nested_saves_folder_are_found(tmp_path: Path, write_run: WriteRun) -> None:
    for model in ("Qwen", "Llama"):
        for run in ("train_1", f"train_{model}"):
            folder = tmp_path / "saves" / model / "lora" / run / "checkpoint-50"
            folder.mkdir(parents=True)
            source = write_run(f"{model}{run}", {"s": trainer_state(50, ended=False)})
            (source / "s").rename(folder / "trainer_state.json")
    names = [run.provenance["run"] for run in load_runs(tmp_path / "saves").runs]
    assert names == ["Llama/lora/train_1", "train_Llama", "Qwen/lora/train_1", "train_Qwen"]


def test_checkpoints_adapter_is_read_where_the_run_has_none(write_run: WriteRun) -> None:
    state = {"checkpoint-9/trainer_state.json": trainer_state(9, ended=False)}
    bare = load_run(write_run("bare", state))
    adapter = {"checkpoint-5/adapter_config.json": ADAPTER}
    run = load_run(write_run("with-adapter", state | adapter))
    assert run.hyperparameters["lora_rank"] == 8
    assert run.fingerprint == bare.fingerprint


def test_checkpoint_is_named_with_its_run(write_run: WriteRun) -> None:
    folder = write_run("run", {"checkpoint-50/trainer_state.json": trainer_state(50, ended=False)})
    run = load_run(folder / "checkpoint-50")
    assert run.provenance["run"] == "run/checkpoint-50"
    assert run.result.steps_done == 50


def test_weights_of_the_whole_run_say_that_it_ended(load: Load) -> None:
    state = trainer_state(40, ended=False)
    files = {"checkpoint-40/trainer_state.json": state, "adapter_config.json": ADAPTER}
    run = load(files | {"adapter_model.safetensors": b"weights"})
    assert run.result.outcome == "complete"
