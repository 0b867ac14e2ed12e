"""An export is written whole, and never over another file unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vram_search.data import Rows
from vram_search.errors import FaultyFileError, InputError, VramSearchError
from vram_search.export import write_export
from vram_search.store import StudyRecord, TrialRecord

SCRIPTS = ["demo-trial-7.sh", "demo-trial-7.ps1"]
NAMES = ["demo-trial-7.yaml", *SCRIPTS, "dataset_info.json", "train.json", "eval.json"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_folder(study: StudyRecord, folder: Path, **changes: object) -> StudyRecord:
    """The study with a model that lies in `folder`."""
    model = study.spec["model"] | {"model_name_or_path": str(folder)} | changes
    return replace(study, spec=study.spec | {"model": model}, model={})


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    config = {"chat_template": CHATML, "bos_token": "<s>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_yaml_comes_first_and_nothing_else_is_left(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "a" / "b"
    paths = write_export(study, trial, rows, target)
    assert paths == [target / name for name in NAMES]
    assert sorted(contents(target)) == sorted(NAMES)


def test_writing_the_same_again_changes_nothing(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    paths = write_export(study, trial, rows, target)
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_export(study, trial, rows, target) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_two_trials_of_a_study_share_a_folder(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    write_export(study, trial, rows, target)
    write_export(study, replace(trial, number=8), rows, target)
    assert sorted(contents(target)) == sorted(
        [*NAMES, *(name.replace("7", "8") for name in ["demo-trial-7.yaml", *SCRIPTS])]
    )


def test_another_file_is_not_overwritten_without_force(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "dataset_info.json").write_text('{"mine": {}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"dataset_info.json: there already") as caught:
        write_export(study, trial, rows, target)
    assert "--force" in caught.value.remedy
    assert contents(target) == {"dataset_info.json": b'{"mine": {}}'}
    write_export(study, trial, rows, target, force=True)
    assert sorted(contents(target)) == sorted(NAMES)
    assert b"mine" not in contents(target)["dataset_info.json"]


def test_a_target_that_is_a_file_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(VramSearchError, match="cannot be written"):
        write_export(study, trial, rows, target)
    assert target.read_text(encoding="utf-8") == "mine"


def test_a_failed_write_leaves_the_old_files(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    write_export(study, trial, rows, target)
    (target / "train.json").unlink()
    (target / "train.json").mkdir()  # cannot be replaced by a file
    before = (target / "demo-trial-7.yaml").read_bytes()
    other = replace(trial, seed=1)
    with pytest.raises(VramSearchError, match="cannot be written"):
        write_export(study, other, rows, target, force=True)
    assert (target / "demo-trial-7.yaml").read_bytes() == before
    assert not list(target.glob(".*"))


def test_a_faulty_trial_writes_nothing(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    wrong = replace(trial, hyperparameters=trial.hyperparameters | {"lora_target": "x_proj"})
    with pytest.raises(FaultyFileError, match="lora_target"):
        write_export(study, wrong, rows, target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "x" * 65])
def test_a_study_name_that_leads_elsewhere_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        write_export(replace(study, name=name), trial, rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_local_models_own_chat_template_decides(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path, model_folder: Path
) -> None:
    paths = write_export(in_folder(study, model_folder), trial, rows, tmp_path / "out")
    text = paths[0].read_text(encoding="utf-8")
    assert "same text as the model's own chat template in 5 rows compared" in text
    assert yaml.safe_load(text)["template"] in ("qwen3_nothink", "chatml", "smollm", "yi")


def test_a_template_named_by_hand_is_compared_too(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path, model_folder: Path
) -> None:
    local = in_folder(study, model_folder)
    paths = write_export(local, trial, rows, tmp_path / "out", template="llama3")
    text = paths[0].read_text(encoding="utf-8")
    assert yaml.safe_load(text)["template"] == "llama3"
    assert "other text than the model's own chat template in 5 of 5 rows" in text


def test_an_unknown_template_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no template 'qwem'"):
        write_export(study, trial, rows, tmp_path / "out", template="qwem")


def test_targets_are_checked_against_a_local_models_layers(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path, model_folder: Path
) -> None:
    config = {
        "model_type": "phi3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (model_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FaultyFileError, match="q_proj"):
        write_export(in_folder(study, model_folder), trial, rows, tmp_path / "out")


def test_another_tokenizer_than_the_models_is_mentioned(
    study: StudyRecord, trial: TrialRecord, rows: Rows, tmp_path: Path, model_folder: Path
) -> None:
    other = in_folder(study, model_folder, tokenizer="org/other")
    paths = write_export(other, trial, rows, tmp_path / "out", template="qwen")
    assert 'The study read its tokenizer from "org/other";' in paths[0].read_text(encoding="utf-8")
