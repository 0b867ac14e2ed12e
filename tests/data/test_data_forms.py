"""Every usual form of a row becomes the conversation that it means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vram_search.data import Example, Rows, load_rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.spec.dataset import DatasetSpec

Load = Callable[..., Rows]
TALK = (("user", "Sky?"), ("assistant", "Blue."))
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"q": "x"}'}}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the rows twice over, so that they can be split."""

    def write_and_load(*rows: Any, **dataset: Any) -> Rows:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows * 2), encoding="utf-8")
        return load_rows(DatasetSpec(train=str(file), val_size=len(rows), **dataset), 42)

    return write_and_load


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}]},
        {"messages": [{"from": "USER", "value": "Sky?"}, {"from": "Bot", "value": "Blue."}]},
        {"conversation": [{"role": "human", "text": "Sky?"}, {"role": "model", "text": "Blue."}]},
        {"messages": '[{"role":"user","content":"Sky?"},{"role":"assistant","content":"Blue."}]'},
        {
            "conversations": [
                {"from": "question", "value": "Sky?"},
                {"from": "agent", "value": "Blue."},
            ]
        },
        {"conversations": {"from": ["human", "gpt"], "value": ["Sky?", "Blue."]}},
        {"messages": {"role": ["user", "assistant"], "content": ["Sky?", "Blue."]}},
        {"conversation": [{"input": "Sky?", "output": "Blue."}]},
        {"conversations": ["Sky?", "Blue."]},  # LIMA
        {"data": ["Sky?", "Blue."]},  # UltraChat
        {
            "contents": [
                {"role": "user", "parts": [{"text": "Sky?"}]},
                {"role": "model", "parts": [{"text": "Blue."}]},
            ]
        },
        [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."}],
        {"conversation": [{"assistant": "Blue.", "human": "Sky?"}]},
        {"messages": "[{'role': 'user', 'content': 'Sky?'}, {'role': 'gpt', 'content': 'Blue.'}]"},
        {  # Claude's export
            "chat_messages": [
                {"sender": "human", "text": "Sky?", "content": [{"type": "text", "text": "Sky?"}]},
                {"sender": "assistant", "text": "Blue."},
            ]
        },
        {"instruction": "Sky?", "input": float("nan"), "output": "Blue."},
        {
            "messages": [
                {"role": "user", "content": "Sky?"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "Blue."}]},
            ]
        },
        {"messages": None, "instruction": "Sky?", "output": "Blue."},
        {"instruction": None, "output": None, "prompt": "Sky?", "completion": "Blue."},
        {"prompt": "Sky?", "completion": "Blue."},
        {
            "prompt": [{"role": "user", "content": "Sky?"}],
            "completion": [{"role": "assistant", "content": "Blue."}],
        },
        {"question": "Sky?", "answer": "Blue."},
        {"Question ": "Sky?", "Answer": "Blue."},
        {"instruction": "Sky?", "context": "", "response": "Blue."},
        {"instruction": None, "input": "Sky?", "output": "Blue."},
        {"input": "Sky?", "output": "Blue."},
        {"human": "Sky?", "assistant": "Blue."},
        {"kind": "QA", "input": "Sky?", "target": "Blue."},
        {"question": "Sky?", "context": {"sentences": ["a"]}, "answer": "Blue."},
        {"dialogue": [{"speaker": "user", "text": "Sky?"}, {"speaker": "ai", "text": "Blue."}]},
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": [{"type": "text", "text": "Sky?"}]},
                {"role": "assistant", "content": [{"type": "text", "value": "Blue."}]},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"text": "Sky?"}]},
                {"role": "assistant", "content": [{"text": "Blue."}]},
            ]
        },
    ],
    ids=lambda row: "-".join(map(str, row)),
)
def test_question_and_answer_are_found_in_every_form(load: Load, row: dict[str, Any]) -> None:
    rows = load(row)
    assert rows.train[0].messages == TALK
    assert rows.train[0].is_plain
    assert rows.data_hash == load({"instruction": "Sky?", "output": "Blue."}).data_hash


def test_forms_may_differ_from_row_to_row(load: Load) -> None:
    rows = load(
        {"instruction": "Sky?", "output": "Blue."}, {"prompt": "Sky?", "completion": "Blue."}
    )
    assert {example.messages for example in rows.train} == {TALK}
    assert rows.forms == {"instruction, output": 2, "prompt, completion": 2}


def test_history_and_system_of_alpaca_rows_are_turns_and_change_the_hash(load: Load) -> None:
    plain = {"instruction": "Sky?", "output": "Blue."}
    row = {**plain, "system": "Be brief.", "history": [["Hi", "Ho"]]}
    rows = load(row)
    assert rows.train[0].messages == (
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Ho"),
        *TALK,
    )
    hashes = {load(row).data_hash, load(plain).data_hash, load({**row, "history": []}).data_hash}
    assert len(hashes) == 3
    assert load({**plain, "system": "", "history": []}).data_hash == load(plain).data_hash


def test_system_column_and_developer_turn_are_system_messages(load: Load) -> None:
    talk = [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."}]
    column = load({"messages": talk, "system": "Be brief."}).train[0]
    developer = load({"messages": [{"role": "developer", "content": "Be brief."}, *talk]}).train[0]
    assert column.messages == developer.messages == (("system", "Be brief."), *TALK)


@pytest.mark.parametrize(
    "system",
    [
        {"system": [{"text": "Be brief."}]},  # Bedrock
        {"systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]}},  # Gemini
    ],
)
def test_system_in_parts_is_a_system_message(load: Load, system: dict[str, Any]) -> None:
    talk = [{"role": role, "content": content} for role, content in TALK]
    assert load({"messages": talk, **system}).train[0].messages[0] == ("system", "Be brief.")


def test_tool_use_of_anthropic_is_a_call_and_its_result_a_turn(load: Load) -> None:
    use = {"type": "tool_use", "id": "c1", "name": "look", "input": {"q": "x"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "b"}],
    }
    anthropic = {
        "messages": [
            {"role": "user", "content": "Sky?"},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
            {"role": "assistant", "content": "Blue."},
        ],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    }
    openai = {
        "messages": [
            {"role": "user", "content": "Sky?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "b"},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": "Blue."},
        ],
        "tools": [{"name": "look", "parameters": {"type": "object"}}],
    }
    assert load(anthropic).data_hash == load(openai).data_hash


def test_unknown_roles_are_named_under_tags(load: Load) -> None:
    row = {"messages": [{"role": "用户", "content": "Sky?"}, {"role": "助手", "content": "Blue."}]}
    with pytest.raises(InputError) as caught:
        load(row)
    assert "'dataset.tags={user_tag: 用户, assistant_tag: 助手}'" in caught.value.remedy
    tags = {"user_tag": "用户", "assistant_tag": "助手"}
    assert load(row, tags=tags).train[0].messages == TALK


def test_tool_calls_results_and_tools_are_kept(load: Load) -> None:
    tool = {"name": "look", "parameters": {}}
    openai = {
        "messages": [
            {"role": "user", "content": "Sky?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": {"colour": "blue"}},
            {"role": "assistant", "content": "Blue."},
        ],
        "tools": [{"type": "function", "function": tool}],
    }
    example = load(openai).train[0]
    turns = example.turns
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert turns[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": {"q": "x"}}
    assert turns[2]["content"] == '{"colour": "blue"}'
    assert example.tool_list == openai["tools"]

    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Sky?"},
            {"from": "function_call", "value": '{"name": "look", "arguments": {"q": "x"}}'},
            {"from": "observation", "value": '{"colour": "blue"}'},
            {"from": "gpt", "value": "Blue."},
        ],
        "tools": json.dumps([tool]),
    }
    other = load(sharegpt).train[0]
    assert other.messages == example.messages
    assert other.tool_list == example.tool_list
    without = {**openai, "tools": []}
    assert load(openai).data_hash != load(without).data_hash


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "4", "reasoning_content": "2 and 2"},
        {"content": "4", "thinking": "2 and 2"},
        {"content": [{"type": "reasoning", "value": "2 and 2"}, {"type": "text", "value": "4"}]},
    ],
)
def test_reasoning_is_kept_beside_the_answer(load: Load, answer: dict[str, Any]) -> None:
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", **answer}]
    turn = load({"messages": talk}).train[0].turns[-1]
    assert turn == {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}


@pytest.mark.parametrize("key", ["weight", "loss_weight", "train"])
def test_answer_of_weight_nought_has_no_loss(load: Load, key: str) -> None:
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "bad", key: 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "good", key: 1},
    ]
    assert load({"messages": talk}).train[0].untrained == (1,)
    with pytest.raises(FaultyFileError, match="no answer that is to be trained"):
        load({"messages": talk[:2]})


def test_plain_text_is_one_text(load: Load) -> None:
    example = load({"text": "Once upon a time"}).train[0]
    assert example == Example((("text", "Once upon a time"),))
    assert example.is_text


def test_numbers_are_taken_as_text_and_counted(load: Load) -> None:
    rows = load({"instruction": "Is it?", "output": 0})
    assert rows.train[0].messages[-1] == ("assistant", "0")
    assert "2 rows have numbers, which are taken as text" in rows.notes[0]


def test_turns_after_the_last_answer_are_left_out_and_counted(load: Load) -> None:
    talk = [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}]
    rows = load({"conversations": [*talk, {"from": "human", "value": "Thanks"}]})
    assert rows.train[0].messages == TALK
    assert "2 rows end without an answer" in rows.notes[0]


def test_nested_fields_are_named_with_a_dot(load: Load) -> None:
    row = {"translation": {"en": "Sky?", "de": "Blue."}}
    columns = {"prompt": "translation.en", "response": "translation.de"}
    assert load(row, columns=columns).train[0].messages == TALK


def test_part_that_is_no_text_makes_a_bad_row(load: Load) -> None:
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    with pytest.raises(FaultyFileError, match="part of the type 'image_url'; text alone"):
        load({"messages": [{"role": "user", "content": [picture]}]})


def test_columns_that_are_not_used_are_named_once(load: Load) -> None:
    row = {"instruction": "Sky?", "output": "Blue.", "id": 3, "source": "x", "images": ["a.png"]}
    assert load(row).notes == (
        "rows.jsonl: columns that are not used: id, images, source",
        "rows.jsonl: images, sounds and videos are not trained: the text alone is",
    )


def test_text_beside_a_question_is_a_part_of_it(load: Load) -> None:
    rows = load({"question": "Colour?", "context": "The sky.", "answer": "Blue."})
    assert rows.train[0].messages[0] == ("user", "Colour?\nThe sky.")


def test_rows_of_two_question_fields_are_not_guessed(load: Load) -> None:
    with pytest.raises(InputError) as caught:
        load({"id": "7", "query": "Sky?", "problem": "Sea?", "target": "Blue."})
    assert "{prompt: query, response: target}" in caught.value.remedy


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"url": "x", "essay": "Blue."}, "{text: essay}"),
        ({"label": 1}, "{prompt: QUESTION, response: ANSWER}"),
        ({"title": "t", "tools": "[]", "query": "a"}, "{prompt: query, response: ANSWER}"),
        ({"summary": "b", "query": "a"}, "{prompt: query, response: summary}"),
        ({"context": "c", "question": "a"}, "{prompt: question, response: ANSWER}"),
        (
            {"id": "7", "data": {"messages": [{"role": "user", "content": "a"}]}},
            "{messages: data.messages}",
        ),
        (
            {"chosen": [{"role": "user", "content": "a"}], "rejected": [{}]},
            "{messages: chosen}",
        ),
    ],
)
def test_remedy_names_columns_of_the_row_itself(
    load: Load, row: dict[str, Any], columns: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(row)
    assert f"dataset.columns={columns}" in caught.value.remedy


def test_messages_without_a_role_name_their_keys(load: Load) -> None:
    with pytest.raises(InputError) as caught:
        load({"messages": [{"actor": "user", "utterance": "Sky?"}]})
    assert "messages[0]: has no role; its keys: actor, utterance" in str(caught.value)
    assert "dataset.tags={role_tag:" in caught.value.remedy
    with pytest.raises(InputError, match="has no text; its keys: speaker, utterance") as caught:
        load({"messages": [{"speaker": "user", "utterance": "Sky?"}]})
    assert "content_tag: utterance" in caught.value.remedy


def test_list_of_texts_is_no_answer(load: Load) -> None:
    with pytest.raises(InputError, match=r"row 1\.output: is not text"):
        load({"instruction": "Sky?", "output": ["Blue."]})


ASKED, SAID = ({"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."})


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "Sky?", "chosen": "Blue."}, "{prompt: prompt, response: chosen}"),
        ({"input": "Sky?", "chosen": "Blue."}, "{prompt: input, response: chosen}"),
        ({"prompt": [ASKED], "chosen": [SAID]}, "{prompt: prompt, response: chosen}"),
        ({"prompt": "Sky?", "chosen": [ASKED, SAID]}, "{messages: chosen}"),
        (
            {
                "conversations": [{"from": "human", "value": "Sky?"}],
                "chosen": {"from": "gpt", "value": "Blue."},
            },
            "{prompt: conversations, response: chosen}",
        ),
        (
            {"input": {"messages": [ASKED]}, "preferred_output": [SAID]},
            "{prompt: input.messages, response: preferred_output}",
        ),
        ({"chosen": "Human: Sky? Assistant: Blue."}, "{text: chosen}"),
    ],
)
def test_preference_pairs_are_refused_and_their_remedy_reads_the_chosen_answers(
    load: Load, row: dict[str, Any], columns: str
) -> None:
    row = {**row, "rejected": "Red.", "non_preferred_output": "Red."}
    with pytest.raises(InputError, match=r"preference training .* is not done here") as caught:
        load(row)
    assert f"dataset.columns={columns}'" in caught.value.remedy
    chosen = load(row, columns=yaml.safe_load(columns))
    said = "\n".join(text for _, text in chosen.train[0].messages)
    assert "Sky?" in said and "Blue." in said and "Red." not in said
    assert "preference training" in chosen.notes[-1]


def test_list_of_rows_in_a_list_is_no_conversation(load: Load) -> None:
    with pytest.raises(InputError, match="is not an object"):
        load(
            [
                {"instruction": "Sky?", "output": "Blue."},
                {"instruction": "Sea?", "output": "Green."},
            ]
        )


def test_row_whose_answer_is_nan_has_none(load: Load) -> None:
    with pytest.raises(FaultyFileError, match=r"row 1\.output: is empty"):
        load({"instruction": "Sky?", "output": float("nan")})


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ({"mapping": {}, "current_node": "n1"}, "ChatGPT's export, a tree of messages"),
        ({"What is it?": "x", "It is blue, I think.": "y"}, "the first line of a table holds"),
        ({"instruction": "Sky?", "output_1": "Blue."}, "{prompt: instruction, response: output_1}"),
        ("a text", 'write a text as an object: {"text": "..."}'),
    ],
)
def test_rows_of_no_known_form_say_what_to_write(load: Load, row: Any, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        load(row)
    assert remedy in caught.value.remedy


def test_bad_answers_of_kto_are_counted(load: Load) -> None:
    talk = [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Red."}]
    rows = load({"messages": talk, "label": False}, {"messages": talk, "label": True})
    assert "2 rows with label false are trained as good answers" in rows.notes[-1]
    table = load({"prompt": "Sky?", "completion": "Red.", "label": "False"})
    assert "2 rows with label false" in table.notes[-1]
    classes = load({"prompt": "Sky?", "completion": "Blue.", "label": 0})
    assert "label false" not in classes.notes[-1]


def test_template_and_date_of_the_study_change_the_hash(load: Load, tmp_path: Path) -> None:
    row = {"instruction": "Sky?", "output": "Blue."}
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[-1]['content'] }}")
    hashes = [
        load(row).data_hash,
        load(row, template="chatml").data_hash,
        load(row, template=str(own)).data_hash,
        load(row, date="2026-01-31").data_hash,
    ]
    assert len(set(hashes)) == 4
    own.write_text("{{ messages[0]['content'] }}")
    assert load(row, template=str(own)).data_hash != hashes[2]
