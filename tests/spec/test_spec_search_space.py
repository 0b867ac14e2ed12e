"""The search space: pinned and listed values, LoRA targets, and what makes no space."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vram_search.errors import Fault
from vram_search.spec import Hyperparameters, SearchSpace, StudySpec
from vram_search.spec.hyperparameters import BY_NAME, DIMENSIONS, Ratio
from vram_search.spec.lora_targets import LORA_TARGET_SETS, parse_lora_target
from vram_search.spec.search_space import NotInSpaceError
from vram_search.spec.space_parts import LearningRateRange

LoadText = Callable[..., StudySpec]
FaultsOf = Callable[..., dict[str, Fault]]


@pytest.mark.parametrize("value", [".nan", ".inf", "0", "-1.0e-4", "1.5"])
def test_learning_rate_outside_zero_to_one_is_refused(faults_of: FaultsOf, value: str) -> None:
    assert "search_space.learning_rate.min" in faults_of(
        f"search_space: {{learning_rate: {value}}}"
    )


def test_learning_rate_without_a_decimal_point_is_a_number(load_text: LoadText) -> None:
    assert yaml.safe_load("2e-4") == "2e-4", "YAML 1.1 reads text"
    pinned = load_text("search_space: {learning_rate: 2e-4}").search_space
    assert pinned.learning_rate == LearningRateRange(min=2e-4, max=2e-4)
    ranged = load_text("search_space: {learning_rate: {min: 2e-5, max: 1e-3}}").search_space
    assert ranged.learning_rate == LearningRateRange(min=2e-5, max=1e-3)


def test_learning_rates_may_be_a_list(load_text: LoadText) -> None:
    space = load_text("search_space: {learning_rate: [5e-4, 1e-4]}").search_space
    assert space.options(BY_NAME["learning_rate"]) == (1e-4, 5e-4)


def test_reversed_range_is_explained(faults_of: FaultsOf) -> None:
    reversed_range = faults_of("search_space: {learning_rate: {min: 1.0e-3, max: 1.0e-4}}")
    assert "the range is empty" in reversed_range["search_space.learning_rate"].message


@pytest.mark.parametrize("name", ["lora_rank", "batch_size", "cutoff_len"])
@pytest.mark.parametrize(
    ("low", "high", "values"),
    [(16, 64, (16, 32, 64)), (16, 96, (16, 32, 64, 96)), (16, 16, (16,)), (24, 50, (24, 48, 50))],
)
def test_range_of_whole_numbers_is_doubled(
    load_text: LoadText, name: str, low: int, high: int, values: tuple[int, ...]
) -> None:
    space = load_text(f"search_space: {{{name}: {{min: {low}, max: {high}}}}}").search_space
    assert getattr(space, name) == values


@pytest.mark.parametrize(
    "value", ["{min: 0, max: 8}", "{min: 8}", "{min: 8, max: 16.5}", "{low: 8, high: 16}"]
)
def test_other_mappings_of_whole_numbers_are_explained(faults_of: FaultsOf, value: str) -> None:
    fault = faults_of(f"search_space: {{lora_rank: {value}}}")["search_space.lora_rank"]
    assert "a range {min: 8, max: 64}" in fault.message


def test_single_values_pin_a_hyperparameter(load_text: LoadText) -> None:
    space = load_text(
        """
        search_space: {optim: adamw_8bit, lora_target: qv, lora_rank: 8, cutoff_len: 256,
                       batch_size: 4, learning_rate: 1.0e-4}
        """
    ).search_space
    assert not any(space.is_searched(dimension) for dimension in DIMENSIONS)
    assert (space.optim, space.lora_target) == (("adamw_8bit",), ("qv",))
    assert (space.lora_rank, space.cutoff_len, space.batch_size) == ((8,), (256,), (4,))


@pytest.mark.parametrize("key", ["optim", "lora_target", "lora_rank", "cutoff_len", "batch_size"])
def test_empty_space_is_refused_in_plain_words(faults_of: FaultsOf, key: str) -> None:
    found = faults_of(f"search_space: {{{key}: []}}")
    assert list(found) == [f"search_space.{key}"]
    assert found[f"search_space.{key}"].message == "is empty: list at least one value"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points: best", "is not a list"),
        ("points: [[1]]", "is not a mapping of keys"),
        (f"points: [{', '.join(['{lora_rank: 4}'] * 101)}]", "holds 101 entries; 100 are allowed"),
    ],
)
def test_wrong_forms_are_called_by_words_of_yaml(
    faults_of: FaultsOf, text: str, message: str
) -> None:
    (fault,) = faults_of(text).values()
    assert fault.message == message


def test_list_of_faulty_values_alone_is_not_also_called_empty(faults_of: FaultsOf) -> None:
    assert list(faults_of("search_space: {lora_rank: [0]}")) == ["search_space.lora_rank[0]"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("lora_rank", "[8, 16, 8]"),
        ("optim", "[adamw_8bit, adamw_8bit]"),
        ("lora_target", "[qv, qv]"),
        ("lora_target", "[[q_proj, v_proj], 'q_proj, v_proj']"),
        ("lora_target", "[[q_proj, v_proj], [v_proj, q_proj]]"),
        ("lora_target", "[qv, [v_proj, q_proj]]"),
    ],
)
def test_value_listed_twice_is_refused(faults_of: FaultsOf, key: str, values: str) -> None:
    fault = faults_of(f"search_space: {{{key}: {values}}}")[f"search_space.{key}"]
    assert "listed twice" in fault.message


def test_numbers_of_a_space_are_sorted(load_text: LoadText) -> None:
    assert load_text("search_space: {lora_rank: [64, 4, 8]}").search_space.lora_rank == (4, 8, 64)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("lora_rank", "{min: 64, max: 8}", "min is above max"),
        ("lora_rank", "{min: 1, max: 1000000000}", "max 1000000000: input should be less than"),
        ("cutoff_len", "{min: 8, max: 64}", "min 8: input should be greater than"),
        ("lora_rank", "{min: 8}", "write a list such as"),
        ("num_train_epochs", "{min: 1, max: 3}", "is a mapping: write one value, or a list"),
        ("seed", "{min: 1, max: 3}", "is a mapping: write one value, or a list"),
        ("optim", "{min: 1, max: 3}", "is a mapping: write one value, or a list"),
        ("use_dora", "{min: 0, max: 1}", "is a mapping: write one value, or a list"),
    ],
)
def test_faulty_range_is_one_fault(faults_of: FaultsOf, key: str, value: str, why: str) -> None:
    found = faults_of(f"search_space: {{{key}: {value}}}")
    assert list(found) == [f"search_space.{key}"]
    assert why in found[f"search_space.{key}"].message


@pytest.mark.parametrize(
    ("schedules", "warmup", "is_refused"),
    [
        ("[constant]", "[0, 0.1]", True),
        ("[constant]", "{min: 0, max: 0.1}", True),
        ("[constant]", "0.1", False),
        ("[constant, cosine]", "[0, 0.1]", False),
        ("[constant_with_warmup]", "[0, 0.1]", False),
    ],
)
def test_warmup_is_not_searched_without_a_schedule_that_warms_up(
    load_text: LoadText, faults_of: FaultsOf, schedules: str, warmup: str, is_refused: bool
) -> None:
    space = f"search_space: {{lr_scheduler_type: {schedules}, warmup_ratio: {warmup}}}"
    if is_refused:
        (fault,) = faults_of(space).values()
        assert "needs a schedule with a warm-up" in fault.message
    else:
        load_text(space)


@pytest.mark.parametrize("rank", ["0", "-8", "1025", "[0]", "[8, 0]"])
def test_rank_outside_its_bounds_is_refused(faults_of: FaultsOf, rank: str) -> None:
    found = faults_of(f"search_space: {{lora_rank: {rank}}}")
    assert len(found) == 1
    (path,) = found
    assert path.startswith("search_space.lora_rank[")


def test_named_sets_and_module_lists_are_different_choices(load_text: LoadText) -> None:
    space = load_text(
        "search_space: {lora_target: [qv, [q_proj, k_proj], 'up_proj, down_proj', all]}"
    ).search_space
    assert space.lora_target == ("qv", "q_proj,k_proj", "up_proj,down_proj", "all")


def test_module_names_without_inner_brackets_are_explained(faults_of: FaultsOf) -> None:
    fault = faults_of("search_space: {lora_target: [q_proj, v_proj]}")["search_space.lora_target"]
    assert "brackets of their own" in fault.message
    assert "[[q_proj, v_proj]]" in fault.message
    assert "'q_proj,v_proj'" in fault.message


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ([], "one or more module names"),
        (["q_proj", 3], "one or more module names"),
        (7, "a set's name or a list"),
        ("q_proj,,v_proj", "name such as q_proj"),
        ("q proj", "name such as q_proj"),
        (["q_proj", "q_proj"], "named twice"),
        (["qv", "up_proj"], "stands alone"),
    ],
)
def test_faulty_lora_target_says_why(target: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_lora_target(target)


MODULES = st.lists(
    st.text(string.ascii_lowercase + "_", min_size=1, max_size=8).filter(
        lambda name: name.isidentifier() and name not in LORA_TARGET_SETS
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(MODULES)
def test_lora_target_means_the_same_as_list_and_as_text(names: list[str]) -> None:
    parsed = parse_lora_target(names)
    assert parsed.split(",") == names
    assert parse_lora_target(" , ".join(names)) == parsed
    assert parse_lora_target(parsed) == parsed


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(
    st.dictionaries(
        st.sampled_from([*SearchSpace.model_fields, "other"]),
        SCALARS | st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=4),
        max_size=4,
    )
)
def test_any_yaml_value_makes_a_valid_space_or_a_reported_fault(data: dict[str, object]) -> None:
    try:
        space = SearchSpace.model_validate(data)
    except ValidationError as error:
        assert error.errors()
        return
    assert SearchSpace.model_validate(space.model_dump(mode="json")) == space
    assert all(type(rank) is int and rank >= 1 for rank in space.lora_rank)


def test_alpha_is_a_list_of_values_or_of_multiples_of_the_rank(load_text: LoadText) -> None:
    ratios = load_text("search_space: {lora_alpha: {ratio: [2, 1]}}").search_space
    assert ratios.options(BY_NAME["lora_alpha"]) == (Ratio(1), Ratio(2))
    fixed = load_text("search_space: {lora_alpha: [32, 16]}").search_space
    assert fixed.options(BY_NAME["lora_alpha"]) == (16, 32)


def test_alpha_ratio_of_the_training_is_used_where_alpha_is_not_searched(
    load_text: LoadText,
) -> None:
    pinned = load_text("training: {lora_alpha_ratio: 3}").space
    assert pinned.options(BY_NAME["lora_alpha"]) == (Ratio(3),)
    both = "training: {lora_alpha_ratio: 3}\nsearch_space: {lora_alpha: {ratio: 1}}"
    assert load_text(both).space.options(BY_NAME["lora_alpha"]) == (Ratio(1),)


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        ("{ratio: []}", "lora_alpha.ratio", "is empty"),
        ("{ratio: [0]}", "lora_alpha.ratio[0]", "greater than or equal to 1"),
        ("{ratio: [1, 1]}", "lora_alpha.ratio", "listed twice"),
        ("{times: 2}", "lora_alpha.times", "unknown key"),
        ("[0]", "lora_alpha[0]", "greater than or equal to 1"),
        ("[16, 16]", "lora_alpha", "listed twice"),
        ("sixteen", "lora_alpha[0]", "valid integer"),
        ("{min: 8, max: 64}", "lora_alpha", "{ratio: [1, 2]}"),
        ("{min: 8}", "lora_alpha", "alpha has none"),
    ],
)
def test_faulty_alpha_is_refused_at_its_key(
    faults_of: FaultsOf, value: str, path: str, why: str
) -> None:
    found = faults_of(f"search_space: {{lora_alpha: {value}}}")
    assert why in found[f"search_space.{path}"].message
    assert len(found) == (2 if "times" in value else 1)


@pytest.mark.parametrize("ratios", ["[0.03, 0.1]", "{min: 0.03, max: 0.1}"])
def test_points_with_a_constant_schedule_differ_in_no_warmup(
    load_text: LoadText, ratios: str
) -> None:
    text = f"search_space: {{lr_scheduler_type: [constant, cosine], warmup_ratio: {ratios}}}"
    space = load_text(text).space
    constant = [
        space.point({"lr_scheduler_type": "constant", "warmup_ratio": ratio})
        for ratio in (0.03, 0.1)
    ]
    assert constant[0] == constant[1] and constant[0].warmup_ratio == 0
    assert space.contains(constant[0])
    assert space.exact({"lr_scheduler_type": "constant"}) == constant[0]
    cosine = space.exact({"lr_scheduler_type": "cosine", "warmup_ratio": 0.1})
    assert cosine.warmup_ratio == 0.1
    recorded_before = constant[0].model_copy(update={"warmup_ratio": 0.1})
    assert space.contains(recorded_before)
    with pytest.raises(NotInSpaceError, match="0, because it needs a schedule with a warm-up"):
        space.exact({"lr_scheduler_type": "constant", "warmup_ratio": 0.1})
    pinned = load_text("search_space: {warmup_ratio: [0.03, 0.1]}").space
    assert pinned.point({"warmup_ratio": 0.1}).warmup_ratio == 0.1


def test_dropout_is_a_list_or_a_range_of_shares(load_text: LoadText) -> None:
    space = load_text("search_space: {lora_dropout: [0.1, 0]}").search_space
    assert space.options(BY_NAME["lora_dropout"]) == (0.0, 0.1)
    space = load_text("search_space: {lora_dropout: {min: 0, max: 0.2}}").search_space
    assert space.words(BY_NAME["lora_dropout"]) == "0 to 0.2"
    pinned = load_text("search_space: {lora_dropout: 0.05}").search_space
    assert not pinned.is_searched(BY_NAME["lora_dropout"])
    assert pinned.point({}).lora_dropout == 0.05


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        ("1", "lora_dropout[0]", "less than or equal to 0.99"),
        ("[-0.1]", "lora_dropout[0]", "greater than or equal to 0"),
        ("{min: 0.2, max: 0.1}", "lora_dropout", "range is empty"),
        ("{min: 0}", "lora_dropout.max", "required"),
        ("[true]", "lora_dropout[0]", "a number is expected"),
        ("[]", "lora_dropout", "is empty"),
    ],
)
def test_faulty_dropout_is_refused_at_its_key(
    faults_of: FaultsOf, value: str, path: str, why: str
) -> None:
    found = faults_of(f"search_space: {{lora_dropout: {value}}}")
    assert why in found[f"search_space.{path}"].message


def test_table_of_hyperparameters_has_a_row_for_every_field() -> None:
    names = {dimension.name for dimension in DIMENSIONS}
    assert names == set(Hyperparameters.model_fields)
    assert names - {"model"} == set(SearchSpace.model_fields)  # listed under `model`
    for dimension in DIMENSIONS:
        field = Hyperparameters.model_fields[dimension.name]
        assert field.is_required() is not dimension.is_optional
        assert dimension.is_optional is False or field.default == dimension.default
