"""Rows of a data set: both forms, both file kinds, faults of many rows, and a split for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.data import Example, Rows, load_rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.spec.dataset import DatasetSpec

Load = Callable[..., Rows]


def alpaca(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"ask {n}", "output": f"answer {n}"} for n in range(count)]


def as_jsonl(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes rows (or a text as it is) to a file and loads it; `name` and `seed` may be given."""

    def write_and_load(
        rows: list[Any] | str, *, name: str = "rows.jsonl", seed: int = 42, **dataset: Any
    ) -> Rows:
        file = tmp_path / name
        text = rows if isinstance(rows, str) else as_jsonl(rows)
        if not isinstance(rows, str) and file.suffix == ".json":
            text = json.dumps(rows, indent=1)
        file.write_text(text, encoding="utf-8")
        return load_rows(DatasetSpec(train=str(file), **dataset), seed)

    return write_and_load


def both(rows: Rows) -> list[Example]:
    return sorted([*rows.train, *rows.eval], key=lambda example: example.messages)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("form", ["auto", "alpaca"])
def test_alpaca_rows_become_a_question_and_an_answer(load: Load, name: str, form: str) -> None:
    rows = load(
        [
            {"instruction": "Sum up", "input": "the text", "output": "short", "extra": 1},
            {"instruction": "Greet", "input": "", "output": "hello"},
        ],
        name=name,
        format=form,
        val_size=1,
    )
    assert both(rows) == [
        Example((("user", "Greet"), ("assistant", "hello"))),
        Example((("user", "Sum up\nthe text"), ("assistant", "short"))),
    ]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("form", ["auto", "messages"])
def test_messages_rows_keep_their_turns(load: Load, name: str, form: str) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    ]
    rows = load([{"messages": turns}] * 2, name=name, format=form, val_size=1)
    assert rows.train == rows.eval
    assert rows.train[0].turns == turns


def test_own_column_names_are_used(load: Load) -> None:
    columns = {"prompt": "q", "query": "context", "response": "a"}
    rows = load([{"q": "why", "context": "here", "a": "so"}] * 2, columns=columns, val_size=1)
    assert rows.train[0].messages == (("user", "why\nhere"), ("assistant", "so"))
    talk = [{"talk": [{"role": "assistant", "content": "ho"}]}] * 2
    assert load(talk, columns={"messages": "talk"}, val_size=1).train[0].messages[0][1] == "ho"


def test_byte_order_mark_and_blank_lines_are_skipped(load: Load) -> None:
    plain = load(alpaca(4), val_size=1)
    text = as_jsonl(alpaca(4)).replace("\n", "\r\n\r\n")
    assert load("\ufeff" + text + "\r\n", val_size=1) == plain
    assert load("\ufeff" + json.dumps(alpaca(4)), name="rows.json", val_size=1) == plain


def test_only_line_breaks_separate_jsonl_rows(load: Load) -> None:
    text = "one\u2028two\u2029three\x85four"
    rows = load([{"instruction": text, "output": "b"}] * 2, val_size=1)
    assert rows.train[0].messages[0] == ("user", text)


def test_rows_of_no_known_form_name_their_fields(load: Load) -> None:
    with pytest.raises(InputError, match="row 1: has none of messages") as caught:
        load([{"id": 1, "translation": {"en": "a", "de": "b"}}])
    assert "its fields: id, translation.de, translation.en" in caught.value.message
    assert "dataset.columns={prompt: translation.en" in caught.value.remedy


def broken(count: int) -> list[Any]:
    return [{"instruction": "no answer"} for _ in range(count)]


def test_first_three_bad_rows_are_named_and_the_others_counted(load: Load) -> None:
    with pytest.raises(FaultyFileError) as caught:
        load([*alpaca(2), *broken(13)])
    assert [fault.path for fault in caught.value.faults] == [
        *(f"row {number}.output" for number in range(3, 6)),
        "...",
    ]
    assert caught.value.faults[0].message == "is missing; its fields: instruction"
    assert caught.value.faults[-1].message == "and 10 more rows"
    assert "13 of 15 rows cannot be used" in caught.value.message
    assert "dataset.on_bad_row=skip" in caught.value.remedy


def test_one_bad_row_in_a_hundred_is_skipped_and_named(load: Load) -> None:
    rows = load([*alpaca(99), *broken(1)], val_size=9)
    assert (len(rows.train), len(rows.eval), rows.bad) == (90, 9, 1)
    (note,) = rows.notes
    assert note == (
        "rows.jsonl: 1 of 100 rows cannot be used and are skipped: row 100.output: is missing; "
        "its fields: instruction"
    )
    with pytest.raises(FaultyFileError, match="2 of 100 rows cannot be used"):
        load([*alpaca(98), *broken(2)])


def test_study_chooses_to_skip_all_bad_rows_or_none(load: Load) -> None:
    rows = load([*alpaca(4), *broken(6)], on_bad_row="skip", val_size=1)
    assert (len(rows.train), rows.bad) == (3, 6)
    assert rows.data_hash == load(alpaca(4), val_size=1).data_hash
    with pytest.raises(FaultyFileError, match="1 of 1000 rows"):
        load([*alpaca(999), *broken(1)], on_bad_row="fail")
    with pytest.raises(FaultyFileError, match="2 of 2 rows"):
        load(broken(2), on_bad_row="skip")


@pytest.mark.parametrize(
    ("row", "path", "message"),
    [
        ({"output": "b"}, "row 2.instruction", "is missing"),
        ({"instruction": "a", "output": None}, "row 2.output", "is empty"),
        ({"instruction": "a", "output": {"b": 1}}, "row 2.output", "is not text"),
        ({"instruction": "a", "output": True}, "row 2.output", "is not text"),
        ({"instruction": " ", "output": "b"}, "row 2.instruction", "is empty"),
        ({"instruction": "a", "input": {}, "output": "b"}, "row 2.input", "is not text"),
        ({"instruction": "a", "output": "half \ud83d"}, "row 2.output", "half a character"),
        ("text", "row 2", "is not an object"),
        (None, "row 2", "is not an object"),
    ],
)
def test_faulty_alpaca_row_is_named_with_its_field(
    load: Load, row: Any, path: str, message: str
) -> None:
    with pytest.raises(FaultyFileError) as caught:
        load(json.dumps([*alpaca(1), row]), name="rows.json")
    (fault,) = caught.value.faults
    assert fault.path == path
    assert message in fault.message


@pytest.mark.parametrize(
    ("messages", "path", "message"),
    [
        ([], "row 2.messages", "not a list of messages"),
        ("hi", "row 2.messages", "is text, but not JSON"),
        (["hi"], "row 2.messages[0]", "is not an object"),
        ([{"role": "narrator", "content": "x"}], "row 2.messages[0].role", "unknown role"),
        ([{"role": ["user"], "content": "x"}], "row 2.messages[0].role", "unknown role"),
        ([{"role": "assistant"}], "row 2.messages[0].content", "is not text, or empty"),
        ([{"role": "user", "content": "\udc00"}], "row 2.messages[0].content", "half a character"),
        (
            [{"role": "user", "content": "x"}],
            "row 2.messages",
            "does not hold an answer of the assistant",
        ),
    ],
)
def test_faulty_messages_row_is_named_with_its_turn(
    load: Load, messages: Any, path: str, message: str
) -> None:
    good = {"messages": [{"role": "assistant", "content": "ho"}]}
    with pytest.raises(FaultyFileError) as caught:
        load(json.dumps([good, {"messages": messages}]), name="rows.json")
    (fault,) = caught.value.faults
    assert fault.path == path
    assert message in fault.message


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_empty_file_is_refused(load: Load, name: str, text: str) -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        load(text, name=name)


def test_empty_list_is_refused(load: Load) -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        load("[]", name="rows.json")


def test_broken_json_is_reported_with_its_line(load: Load) -> None:
    with pytest.raises(InputError, match=r"row 3: line 4 is not JSON"):
        load(as_jsonl(alpaca(2)) + "\n\n{'instruction': 1}")


def test_json_lines_in_a_json_file_are_read(load: Load) -> None:
    lines = load(as_jsonl(alpaca(4)), name="rows.json", val_size=1)
    assert lines == load(alpaca(4), val_size=1)


def test_text_that_is_not_json_is_refused(load: Load) -> None:
    with pytest.raises(InputError, match="not JSON"):
        load("[{'instruction': 1},\n{'instruction': 2}]", name="rows.json")


@pytest.mark.parametrize(
    ("mapping", "remedy"),
    [
        ({"version": 1, "data": alpaca(2)}, "under the key 'data'"),
        ({"test": alpaca(1), "train": alpaca(2)}, "under the key 'train'"),
        (dict(enumerate(alpaca(2))), "write them as a list"),
        (alpaca(1)[0], "put rows in brackets"),
    ],
)
def test_json_mapping_is_no_data_set(load: Load, mapping: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError, match="is a list of rows") as caught:
        load(json.dumps(mapping), name="rows.json")
    assert remedy in caught.value.remedy


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"instruction": "größe", "output": "b"}'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_rows(DatasetSpec(train=str(file)), 42)


def test_objects_over_several_lines_are_one_message(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, indent=2) for row in alpaca(3)), encoding="utf-8")
    with pytest.raises(InputError, match="objects go over several lines"):
        load_rows(DatasetSpec(train=str(file)), 42)


@pytest.mark.parametrize(
    ("val_size", "count"), [(0.1, 4), (0.25, 10), (0.001, 1), (1, 1), (7, 7), (39, 39)]
)
def test_val_size_is_a_share_below_one_and_else_a_count(
    load: Load, val_size: float, count: int
) -> None:
    rows = load(alpaca(40), val_size=val_size)
    assert (len(rows.train), len(rows.eval)) == (40 - count, count)


@pytest.mark.parametrize("val_size", [40, 41, 0.999])
def test_val_size_that_leaves_no_training_row_is_refused(load: Load, val_size: float) -> None:
    with pytest.raises(InputError, match="leaves no training row of 40") as caught:
        load(alpaca(40), val_size=val_size)
    assert "dataset.val_size" in caught.value.remedy


def test_single_row_cannot_be_split(load: Load) -> None:
    with pytest.raises(InputError, match="leaves no training row of 1"):
        load(alpaca(1))


def test_evaluation_file_takes_the_place_of_a_split(load: Load, tmp_path: Path) -> None:
    examination = tmp_path / "eval.jsonl"
    examination.write_text(as_jsonl([{"instruction": "evaluated", "output": "mark"}]))
    rows = load(alpaca(5), eval=str(examination))
    assert (len(rows.train), len(rows.eval)) == (5, 1)
    assert rows.eval[0].messages[0] == ("user", "evaluated")


def test_max_samples_takes_the_first_rows(load: Load) -> None:
    rows = load([*alpaca(6), {"broken": True}], max_samples=6, val_size=2)
    assert both(rows) == both(load(alpaca(6), val_size=2))


@given(
    count=st.integers(2, 60),
    seed=st.integers(0, 2**31 - 1),
    share=st.floats(0.01, 0.49) | st.integers(1, 59),
)
def test_split_is_deterministic_disjoint_and_in_file_order(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, share: float
) -> None:
    file = tmp_path_factory.getbasetemp() / "split.jsonl"
    file.write_text(as_jsonl(alpaca(count)))
    dataset = DatasetSpec(train=str(file), val_size=share)
    if share >= count:
        with pytest.raises(InputError):
            load_rows(dataset, seed)
        return
    rows = load_rows(dataset, seed)
    assert load_rows(dataset, seed) == rows
    order = [f"ask {n}" for n in range(count)]
    train, evaluation = ([e.messages[0][1] for e in part] for part in (rows.train, rows.eval))
    assert not set(train) & set(evaluation)
    assert sorted(train + evaluation) == sorted(order)
    assert train == sorted(train, key=order.index)
    assert evaluation == sorted(evaluation, key=order.index)


def test_split_depends_on_the_seed_and_not_on_the_content(load: Load) -> None:
    def numbers(rows: Rows) -> list[str]:
        return [example.messages[0][1].split()[-1] for example in rows.eval]

    first = load(alpaca(40), seed=1)
    assert numbers(load(alpaca(40), seed=2)) != numbers(first)
    other = [{"instruction": f"other {n}", "output": "x"} for n in range(40)]
    assert numbers(load(other, seed=1)) == numbers(first)


def test_hash_follows_content_and_split_and_not_the_file(load: Load) -> None:
    first = load(alpaca(20)).data_hash
    assert load(alpaca(20), name="renamed.json").data_hash == first
    assert load([{**row, "unused": 1} for row in alpaca(20)]).data_hash == first
    changed = alpaca(20)
    changed[7]["output"] += "."
    hashes = {
        first,
        load(changed).data_hash,
        load(alpaca(21)).data_hash,
        load(alpaca(20), seed=1).data_hash,
        load(alpaca(20), val_size=3).data_hash,
        load(list(reversed(alpaca(20)))).data_hash,
    }
    assert len(hashes) == 6


def test_hash_covers_training_and_evaluation_rows_and_tells_them_apart(tmp_path: Path) -> None:
    row_sets = [alpaca(3)[a:b] for a, b in ((0, 1), (1, 3), (0, 2), (2, 3))]
    files = [str(tmp_path / f"{n}.jsonl") for n in range(len(row_sets))]
    for file, rows in zip(files, row_sets, strict=True):
        Path(file).write_text(as_jsonl(rows))
    pairs = [(train, evaluation) for train in files for evaluation in files]
    datasets = [DatasetSpec(train=train, eval=evaluation) for train, evaluation in pairs]
    assert len({load_rows(dataset, 42).data_hash for dataset in datasets}) == len(pairs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["instruction", "input", "output", "messages", "role", "content", "other"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=5), st.sampled_from(["auto", "alpaca", "messages"]))
def test_any_json_rows_are_loaded_or_refused_with_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], form: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(rows))
    dataset = DatasetSpec.model_validate({"train": str(file), "format": form})
    try:
        loaded = load_rows(dataset, 42)
    except InputError as error:
        assert str(file) in error.message
        return
    assert len(loaded.train) + len(loaded.eval) + loaded.bad == len(rows)


def test_all_rows_leave_the_evaluation_rows_held_out(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{n % 9}", "output": f"a{n % 9}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    dataset = DatasetSpec.model_validate(
        {"train": str(tmp_path / "rows.jsonl"), "max_samples": 9, "val_size": 3}
    )
    few, every = load_rows(dataset, 1), load_rows(dataset, 1, all_rows=True)
    assert every.eval == few.eval
    assert len(few.train) == 6 and len(every.train) > 6
    assert not set(every.train) & set(every.eval), "a repeated row of the evaluation is left out"
    assert every.data_hash != few.data_hash
