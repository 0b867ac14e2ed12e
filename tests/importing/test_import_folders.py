"""A run's folder, whole or in part, says what it says, and no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.importing.conftest import (
    ADAPTER,
    AXOLOTL,
    EVAL_LOSSES,
    LOSSES,
    RESULTS,
    STEPS,
    TRAINING_ARGS,
    Load,
    WriteRun,
    trainer_log,
    trainer_state,
)
from vram_search.errors import InputError
from vram_search.importing import files as import_files
from vram_search.importing.folder import NO_LOGS, load_run
from vram_search.importing.load import load_runs
from vram_search.store import ImportedTrial
from vram_search.units import GIB

LLAMA_FACTORY: dict[str, Any] = {
    "adapter_config.json": ADAPTER,
    "adapter_model.safetensors": b"weights",
    "all_results.json": RESULTS,
    "trainer_log.jsonl": trainer_log(),
    "trainer_state.json": trainer_state(),
    "training_args.bin": b"\x80\x05never read",
    "training_args.yaml": TRAINING_ARGS,
}


def unknown(run: ImportedTrial) -> set[str]:
    return set(run.provenance["unknown"])


def test_whole_llamafactory_folder_is_a_complete_trial(load: Load) -> None:
    run = load(LLAMA_FACTORY)
    result = run.result
    assert run.hyperparameters == {
        "optim": "adamw_8bit",
        "lora_target": "qv",
        "lora_rank": 8,
        "lora_alpha": 16,
        "cutoff_len": 512,
        "batch_size": 16,
        "learning_rate": 1e-4,
    }
    assert (result.outcome, result.steps_done, result.steps_total) == ("complete", STEPS, STEPS)
    assert (result.eval_loss, result.eval_loss_step) == (1.1901, STEPS)
    assert result.seconds == {"train": 174.3}
    assert {loss.step: loss.loss for loss in result.step_losses} == LOSSES
    assert all(loss.grad_norm == 0.5 for loss in result.step_losses)
    assert [row.step for row in result.evaluations] == [*EVAL_LOSSES, STEPS]
    assert result.evaluations[0].fraction == 25 / STEPS
    assert result.trainable_parameters == 1_843_200
    assert (run.seed, run.provenance["source"], unknown(run)) == (7, "llamafactory", set())
    assert run.provenance["reported"] == {"adapter_bytes": 7, "train_loss": 1.4512}
    assert run.provenance["model"]["parameters"] > 3e9


def test_secrets_of_the_yaml_and_the_binary_arguments_are_not_kept(load: Load) -> None:
    run = load(LLAMA_FACTORY)
    assert "not-to-be-kept" not in json.dumps(run.provenance)
    assert "training_args.bin" not in run.provenance["files"]


def test_best_evaluation_counts_and_the_last_is_kept_beside_it(load: Load) -> None:
    result = load({"all_results.json": RESULTS | {"eval_loss": 1.5}, **logs()}).result
    assert (result.eval_loss, result.eval_loss_step, result.last_eval_loss) == (1.1973, 50, 1.5)


def logs() -> dict[str, Any]:
    return {"trainer_log.jsonl": trainer_log()}


def test_killed_run_is_lost_and_says_where_its_logs_end(load: Load) -> None:
    result = load({"trainer_log.jsonl": trainer_log(last_step=30)}).result
    assert (result.outcome, result.steps_done, result.steps_total) == ("lost", 30, STEPS)
    assert result.error is not None
    assert "step 30 of 51" in result.error["message"]
    assert result.eval_loss == EVAL_LOSSES[25]


def test_line_cut_off_by_the_kill_is_left_out_with_a_note(load: Load) -> None:
    whole = trainer_log(last_step=20)
    run = load({"trainer_log.jsonl": whole + '{"current_steps": 30, "los'})
    assert run.result.steps_done == 20
    assert run.provenance["notes"] == ["line 3 of trainer_log.jsonl is cut off and was left out"]


def test_run_without_evaluation_has_no_eval_loss(load: Load) -> None:
    state = trainer_state()
    state["log_history"] = [entry for entry in state["log_history"] if "eval_loss" not in entry]
    run = load({"trainer_state.json": state, "adapter_config.json": ADAPTER})
    assert (run.result.outcome, run.result.eval_loss) == ("complete", None)
    assert unknown(run) >= {"eval_loss", "learning_rate", "seed"}
    assert run.provenance["source"] == "trainer"


def test_adapter_without_logs_is_complete_as_far_as_its_weights_tell(load: Load) -> None:
    run = load({"adapter_config.json": ADAPTER, "adapter_model.safetensors": b"weights"})
    assert (run.result.outcome, run.result.eval_loss, run.result.error) == ("complete", None, None)
    assert run.provenance["notes"][0] == NO_LOGS
    assert "eval_loss" in unknown(run)


def test_adapter_config_alone_does_not_tell_how_the_run_ended(load: Load) -> None:
    run = load({"adapter_config.json": ADAPTER})
    assert run.result.outcome == "unknown"
    assert run.result.error is not None
    assert run.result.error["message"] == "how it ended is not known"
    assert run.hyperparameters["lora_rank"] == 8
    assert run.hyperparameters["batch_size"] is None


@pytest.mark.parametrize(("dropout", "expected"), [(0.05, 0.05), (0.0, None), (None, None)])
def test_dropout_of_an_adapter_is_a_hyperparameter_where_it_is_set(
    load: Load, dropout: float | None, expected: float | None
) -> None:
    run = load({"adapter_config.json": ADAPTER | {"lora_dropout": dropout}})
    assert run.hyperparameters.get("lora_dropout") == expected


def test_further_hyperparameters_of_a_run_are_known(load: Load) -> None:
    run = load(
        {
            "adapter_config.json": ADAPTER | {"use_dora": True, "use_rslora": None},
            "a.yaml": TRAINING_ARGS
            + "loraplus_lr_ratio: 16\nneftune_noise_alpha: 5\nweight_decay: 0.1\n"
            "lr_scheduler_type: cosine_with_restarts\n",
        }
    )
    found = run.hyperparameters
    assert found["use_dora"] is True and "use_rslora" not in found
    assert (found["loraplus_lr_ratio"], found["neftune_noise_alpha"]) == (16, 5)
    assert found["weight_decay"] == 0.1
    assert "lr_scheduler_type" not in found


@pytest.mark.parametrize(
    ("keys", "packing"),
    [("packing: true\n", True), ("neat_packing: true\n", True), ("packing: false\n", None)],
)
def test_packing_of_a_run_is_known(load: Load, keys: str, packing: bool | None) -> None:
    run = load({"adapter_config.json": ADAPTER, "a.yaml": TRAINING_ARGS + keys})
    assert run.hyperparameters.get("packing") is packing


def test_axolotl_folder_reads_its_own_keys_and_the_last_checkpoint(load: Load) -> None:
    run = load(
        {
            "adapter_config.json": ADAPTER | {"base_model_name_or_path": "Qwen/Qwen2.5-1.5B"},
            "config.yml": AXOLOTL,
            "checkpoint-9/trainer_state.json": trainer_state(9, ended=False),
            "checkpoint-50/trainer_state.json": trainer_state(50, ended=False),
        }
    )
    assert run.provenance["source"] == "axolotl"
    assert run.hyperparameters == {
        "optim": "paged_adamw_8bit",
        "lora_target": "all",
        "lora_rank": 16,
        "lora_alpha": 32,
        "cutoff_len": 1024,
        "batch_size": 16,
        "learning_rate": 2e-4,
    }
    assert (run.result.outcome, run.result.steps_done) == ("lost", 50)


@pytest.mark.parametrize("named", ["./outputs/qlora", "../project/outputs/qlora", "{run}"])
def test_yaml_beside_the_folder_that_names_it_is_read(tmp_path: Path, named: str) -> None:
    run = tmp_path / "project" / "outputs" / "qlora"
    run.mkdir(parents=True)
    (run / "adapter_config.json").write_text(json.dumps(ADAPTER), encoding="utf-8")
    yaml = tmp_path / "project" / "qlora.yml"
    yaml.write_text(f"{AXOLOTL}output_dir: {named.format(run=run)}\n", encoding="utf-8")
    (tmp_path / "project" / "other.yml").write_text(f"{AXOLOTL}output_dir: ./other\n")
    read = load_run(run)
    assert read.provenance["source"] == "axolotl"
    assert read.hyperparameters["learning_rate"] == 2e-4
    assert f"settings of {yaml}, whose output_dir is this folder" in read.provenance["notes"]
    (tmp_path / "project" / "again.yml").write_text(yaml.read_text())
    two = load_run(run)
    assert two.fingerprint == read.fingerprint
    assert two.hyperparameters["learning_rate"] is None  # two files name it


@pytest.mark.parametrize(
    ("keys", "eval_loss"),
    [(["eval_alpaca_loss"], 1.3), (["eval_a_loss", "eval_b_loss"], None), (["eval_loss"], 1.3)],
)
def test_loss_of_one_named_evaluation_set_is_the_eval_loss(
    load: Load, keys: list[str], eval_loss: float | None
) -> None:
    entries = [{key: 1.3, "step": 20} for key in keys]
    state = {"global_step": 20, "max_steps": 20, "log_history": entries}
    assert load({"trainer_state.json": json.dumps(state)}).result.eval_loss == eval_loss


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ([{"loss": 1.0, "grad_norm": float("nan")}, {"loss": 0.0}], "diverged"),
        ([{"loss": float("nan")}, {"loss": 0.0}], "diverged"),
        ([{"loss": 1.0, "grad_norm": 2.0}, {"loss": 0.0}], "complete"),
        ([{"loss": 1.0, "grad_norm": float("inf")}, {"loss": 0.9}], "complete"),
    ],
)
def test_loss_of_0_after_nan_is_a_diverged_run(
    load: Load, losses: list[dict[str, Any]], outcome: str
) -> None:
    entries = [{**entry, "step": 10 * (i + 1)} for i, entry in enumerate(losses)]
    state = {"global_step": 20, "max_steps": 20, "log_history": entries}
    assert load({"trainer_state.json": json.dumps(state)}).result.outcome == outcome


def test_interrupted_axolotl_run_is_not_complete_for_its_weights(load: Load) -> None:
    files = {"adapter_config.json": ADAPTER, "adapter_model.safetensors": b"w", "a.yml": AXOLOTL}
    assert load(files).result.outcome == "unknown"


def test_training_that_stopped_early_in_order_is_complete(load: Load) -> None:
    assert load({"trainer_state.json": trainer_state(30)}).result.outcome == "complete"


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_run_whose_last_loss_is_not_finite_diverged(load: Load, value: str) -> None:
    line = f'{{"current_steps": 51, "total_steps": 51, "epoch": 3.0, "loss": {value}}}\n'
    result = load({"trainer_log.jsonl": trainer_log(50) + line}).result
    assert result.outcome == "diverged"
    assert result.eval_loss == EVAL_LOSSES[50]


def test_resumed_run_counts_each_step_once(load: Load) -> None:
    again = trainer_log().replace("1.34", "1.33")
    result = load({"trainer_log.jsonl": trainer_log(30) + again}).result
    assert {loss.step: loss.loss for loss in result.step_losses} == LOSSES | {30: 1.33}


def test_logged_peaks_are_measured_bytes(load: Load) -> None:
    log = "".join(
        json.dumps(json.loads(line) | {"vram_allocated": 4.0 + n, "vram_reserved": 5.5}) + "\n"
        for n, line in enumerate(trainer_log(20).splitlines())
    )
    measured = load({"trainer_log.jsonl": log}).result.measured
    assert measured == {"allocated_bytes": 5 * GIB, "reserved_bytes": round(5.5 * GIB)}


def test_batches_of_an_evaluation_alone_are_no_steps(load: Load) -> None:
    line = '{"current_steps": 5, "total_steps": 90, "percentage": 5.5}\n'
    result = load({"trainer_log.jsonl": line, "all_results.json": {"eval_loss": 1.2}}).result
    assert (result.steps_done, result.steps_total, result.outcome) == (0, 0, "unknown")
    assert (result.eval_loss, result.eval_loss_step) == (1.2, None)


def test_modules_are_named_alike_in_any_order(load: Load) -> None:
    modules = ["up_proj", "k_proj", "down_proj", "o_proj", "q_proj", "gate_proj", "v_proj"]
    run = load({"adapter_config.json": ADAPTER | {"target_modules": modules}})
    assert run.hyperparameters["lora_target"] == "all"


def test_byte_order_mark_and_windows_line_ends_are_read(load: Load) -> None:
    log = b"\xef\xbb\xbf" + trainer_log().replace("\n", "\r\n").encode()
    assert load({"trainer_log.jsonl": log}).result.outcome == "complete"


def test_fingerprint_is_of_the_content_wherever_it_lies(write_run: WriteRun) -> None:
    one, two = (load_run(write_run(name, LLAMA_FACTORY)) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert one.provenance["path"] != two.provenance["path"]


def test_fingerprint_survives_the_deletion_of_weights_and_checkpoints(
    write_run: WriteRun,
) -> None:
    checkpoint = {"checkpoint-50/trainer_state.json": trainer_state(50, ended=False)}
    whole = load_run(write_run("whole", LLAMA_FACTORY | checkpoint))
    left = {name: LLAMA_FACTORY[name] for name in LLAMA_FACTORY if "model" not in name}
    assert load_run(write_run("left", left)).fingerprint == whole.fingerprint


def test_two_adapters_of_one_configuration_without_logs_are_two_runs(write_run: WriteRun) -> None:
    prints = set()
    for name in ("one", "two"):
        files = {"adapter_config.json": ADAPTER, "adapter_model.safetensors": name.encode()}
        prints.add(load_run(write_run(name, files)).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"trainer_log.jsonl": "{oops\n" + trainer_log()}, ["trainer_log.jsonl, line 1", "JSON"]),
        ({"trainer_log.jsonl": '{"epoch": 1, "loss": "x"}\n'}, ["line 1: loss:", "(is 'x')"]),
        ({"trainer_log.jsonl": b"\x80\xfe\x00"}, ["trainer_log.jsonl: not UTF-8 (byte 0)"]),
        ({"trainer_state.json": "[]"}, ["trainer_state.json: not valid JSON", "object"]),
        ({"trainer_state.json": "{\n\n]"}, ["trainer_state.json", "line 3"]),
        ({"trainer_state.json": "[" * 100_000}, ["trainer_state.json: not valid JSON"]),
        (
            {"trainer_state.json": {"max_steps": -1}},
            ["max_steps: is not", "(is -1)"],
        ),
        ({"trainer_state.json": {"max_steps": True}}, ["max_steps: is not a whole number"]),
        ({"trainer_state.json": {"max_steps": 10**300}}, ["max_steps: is not a whole number"]),
        ({"trainer_state.json": '{"max_steps": ' + "9" * 5000 + "}"}, ["not valid JSON"]),
        ({"trainer_state.json": {"log_history": {}}}, ["log_history: is not a list"]),
        (
            {"trainer_state.json": {"log_history": [{"step": 1.5}]}},
            ["log_history[0]: step: is not a whole number from 0 to 2147483647 (is 1.5)"],
        ),
        (
            {"adapter_config.json": ADAPTER | {"r": -8}},
            ["r: is not a whole number", "(is -8)"],
        ),
        ({"adapter_config.json": ADAPTER | {"target_modules": [1]}}, ["target_modules: is not"]),
        ({**logs(), "a.yaml": "model_name_or_path: [\n"}, ["a.yaml, line 2: not valid YAML"]),
        ({**logs(), "a.yaml": "x: 2024-13-45"}, ["a.yaml, line 1: not valid YAML"]),
        ({**logs(), "a.yaml": "x: !!bool maybe"}, ["a.yaml, line 1: not valid YAML"]),
        ({"trainer_state.json": '{"max_steps": ' + "9" * 400 + "}"}, ["more than 308 digits"]),
        ({**logs(), "a.yaml": TRAINING_ARGS, "b.yml": AXOLOTL}, ["a.yaml, b.yml are each"]),
        ({**logs(), "training_args.yaml": TRAINING_ARGS + "cutoff_len: many"}, ["cutoff_len: "]),
    ],
)
def test_malformed_file_is_refused_with_its_place_and_a_remedy(
    load: Load, files: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load(files)
    for word in words:
        assert word in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 2


def test_file_too_large_to_be_a_log_is_refused_unread(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_files, "MAX_TEXT_BYTES", 100)
    with pytest.raises(InputError, match=r"trainer_log.jsonl: too large"):
        load(logs())


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize(
    "name",
    ["trainer_log.jsonl", "adapter_config.json", "checkpoint-5/trainer_state.json", "run.yaml"],
)
def test_link_that_leads_out_of_the_folder_is_not_followed(
    write_run: WriteRun, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    folder = write_run("run", {"all_results.json": RESULTS})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(InputError, match="leads out of the folder") as caught:
        load_run(folder)
    assert "hidden" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_link_inside_the_folder_is_read(write_run: WriteRun) -> None:
    folder = write_run("run", {"old/log": trainer_log()})
    (folder / "trainer_log.jsonl").symlink_to(folder / "old" / "log")
    assert load_run(folder).result.outcome == "complete"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("target", ["trainer_log.jsonl", "nowhere"])
def test_link_to_itself_or_to_nothing_is_refused(write_run: WriteRun, target: str) -> None:
    folder = write_run("run", {})
    (folder / "trainer_log.jsonl").symlink_to(folder / target)
    with pytest.raises(InputError, match="cannot be read"):
        load_run(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_file_without_permission_is_refused(write_run: WriteRun) -> None:
    folder = write_run("run", logs())
    (folder / "trainer_log.jsonl").chmod(0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load_run(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipe_and_folder_in_place_of_a_file_are_refused(write_run: WriteRun) -> None:
    pipe, folder = write_run("pipe", {}), write_run("folder", {})
    os.mkfifo(pipe / "trainer_log.jsonl")
    (folder / "trainer_log.jsonl").mkdir()
    for run in (pipe, folder):
        with pytest.raises(InputError, match="is not a regular file"):
            load_run(run)


def test_folder_of_runs_gives_all_of_them_in_order(write_run: WriteRun, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_run(name, {"adapter_config.json": ADAPTER | {"r": ord(name)}})
    write_run("notes", {"readme.txt": "no run"})
    assert [run.provenance["run"] for run in load_runs(tmp_path).runs] == ["a", "b"]


@pytest.mark.parametrize("files", [{}, {"readme.txt": "x"}, {"training_args.bin": b"x"}])
def test_folder_without_a_run_is_refused(write_run: WriteRun, files: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="holds no run"):
        load_runs(write_run("empty", files))


def test_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_runs(tmp_path / "gone")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["global_step", "max_steps", "log_history", "loss", "step", "eval_loss"])


@given(st.dictionaries(KEYS, JSON_VALUES | st.lists(st.dictionaries(KEYS, JSON_VALUES))))
def test_any_trainer_state_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "trainer_state.json").write_text(json.dumps(state))
    try:
        run = load_run(folder)
    except InputError as error:
        assert str(folder) in error.message
    else:
        assert all(0 <= row.fraction <= 1 for row in run.result.evaluations)


@pytest.mark.parametrize(
    ("start", "known"),
    [(True, None), ("gaussian", None), ("olora", "olora"), ("pissa_niter_16", "pissa")],
)
def test_start_of_an_adapter_is_a_hyperparameter_where_a_search_has_it(
    load: Load, start: bool | str, known: str | None
) -> None:
    run = load({"adapter_config.json": ADAPTER | {"init_lora_weights": start}})
    assert run.hyperparameters.get("init_lora_weights") == known
