"""Texts that backtracking or values in values would make endless: each is read once."""

from __future__ import annotations

import pytest

from vram_search.parsing.json_text import parse_commented_json
from vram_search.parsing.parse_error import ParseError
from vram_search.tools.command_line import training_command
from vram_search.tools.launch_lines import MOST_CHARACTERS, script_lines

LINES = ("a/" * 3900, '"' * 7900, "(" * 7900, "A=b" + " " * 7900 + "x", "swift " * 1300)


@pytest.mark.timeout(60)  # it takes a second; with backtracking, minutes to hours
def test_a_script_of_long_words_is_read_once() -> None:
    for line in LINES:
        assert training_command(script_lines("\n".join([line] * 100))) is None


@pytest.mark.timeout(60)
def test_a_json_text_without_its_last_quotation_mark_is_read_once() -> None:
    with pytest.raises(ParseError):
        parse_commented_json('{"a": "' + '\\"' * 200_000)


def test_a_line_too_long_for_a_command_is_left_out() -> None:
    text = "echo " + "a" * MOST_CHARACTERS + "\nllamafactory-cli train x.yaml"
    assert script_lines(text).lines == ("llamafactory-cli train x.yaml",)


def test_values_that_hold_each_other_twice_do_not_grow_without_end() -> None:
    doubled = [f"A{i + 1}=$A{i}$A{i}" for i in range(12)]
    text = "\n".join(["A0=" + "x" * 500, *doubled, "run $A1 $A12", "cat <<E > f", "$A1 $A12", "E"])
    found = script_lines(text)
    assert found.lines[0] == f"run {'x' * 1000} $A11$A11"
    assert found.written["f"] == f"{'x' * 1000} $A11$A11\n"
