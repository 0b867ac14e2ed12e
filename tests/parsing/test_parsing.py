"""YAML and JSON from strangers: every fault is a ParseError, whatever the parser raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.parsing.json_text import parse_commented_json, parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import MAX_YAML_BYTES, parse_yaml, parse_yaml_strictly

TAGS = ("timestamp", "bool", "int", "float", "binary", "null", "set", "omap", "pairs", "map", "seq")
VALUES = ("x", "maybe", '""', ".", "0b_", "0x", "1:", "[a]", "{a: b}", "2024-13-45", "é", "-", "~")


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("value", VALUES)
def test_tag_that_a_value_does_not_have_is_a_parse_error_or_a_value(tag: str, value: str) -> None:
    try:
        parse_yaml(f"a: !!{tag} {value}")
    except ParseError as error:
        assert error.line == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!timestamp x", "line 1, column 4: 'x' is not a valid timestamp"),
        ("!!bool maybe", "'maybe' is not a valid bool"),
        ('!!int ""', "'' is not a valid int"),
        ('!!float ""', "'' is not a valid float"),
        ("a: 0001-01-01 00:00:00 +24:00", "is not a valid timestamp"),
        (r'"\U00110000"', "cannot be read"),
        (r'"\ud800"', "half of a surrogate pair"),
        ("x: 0x" + "f" * 4000, "more than 308 digits"),
        ("1:" * 400 + "1", "more than 308 digits"),
        ("- &a [*a]", "recursive"),
        ("a: \x01", "not allowed"),
        ("[" * 5000, "too deeply nested"),
    ],
)
def test_fault_of_a_yaml_text_is_named(text: str, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        parse_yaml(text)


def test_list_of_a_million_entries_is_refused_without_parsing_it() -> None:
    unclosed = "a: [" + "1, " * 1_000_000  # a parser would report the missing bracket
    with pytest.raises(ParseError, match=f"at most {MAX_YAML_BYTES // 1024} KiB"):
        parse_yaml(unclosed)


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 5000, "[" * 5000 + "]" * 5000])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    """PyYAML needs minutes for it before it finds the fault."""
    with pytest.raises(ParseError, match=r"line 1, column \d+: it is too deeply nested"):
        parse_yaml(text)
    assert parse_yaml("[" * 50 + "]" * 50)


def test_aliases_of_aliases_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ParseError, match="aliases expand"):
        parse_yaml("\n".join(lines))


def test_repeated_keys_come_with_their_lines() -> None:
    value, repeated = parse_yaml_strictly("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert value == {"a": 3, "b": {"c": 2}}
    assert {(key.key, key.first_line, key.line) for key in repeated} == {("a", 1, 3), ("c", 2, 2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1" * 400, "more than 308 digits"),
        ("9" * 5000, "more than 308 digits"),
        ('{"a": [1,', "line 1, column 10"),
        (b"\xff", "not UTF-8"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "too deeply nested"),
        ("", "line 1"),
    ],
)
def test_fault_of_a_json_text_is_named(text: str | bytes, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        parse_json(text)


def test_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


@given(st.text(alphabet="!tagbinsmflo:0x19.-+_ \"'[]{},&*#|>?%\n~e\\u", max_size=40))
def test_any_text_is_a_value_or_a_parse_error(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            parse(text)
        except ParseError:
            continue


def test_json_with_comments_keeps_its_texts_and_names_the_fault_of_the_file() -> None:
    text = r"""{"a": "x // y, }", /* one */ "b\"": ["#", 1,], # two
    }"""
    assert parse_commented_json(text) == {"a": "x // y, }", 'b"': ["#", 1]}
    with pytest.raises(ParseError, match="line 2"):
        parse_commented_json('{"a": 1,\n// so\n"b" 2}')
