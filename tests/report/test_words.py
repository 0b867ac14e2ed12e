"""Answers in a terminal: how their lines are broken."""

from __future__ import annotations

from bench.tiny import HYPERPARAMETERS
from vram_search.report.words import hyperparameter_words
from vram_search.report.wrapping import WIDTH, wrapped


def test_figure_stays_beside_its_unit_at_a_line_s_end() -> None:
    for length in range(60, WIDTH - 2):
        lines = wrapped("x" * length + " 16 GB, then 1.15 GiB and 6.7 s of 24 GB cards")
        assert not any(line.split()[0] in ("GB", "GB,", "GiB", "s") for line in lines)
        assert max(map(len, lines)) <= WIDTH


def test_path_stays_whole_and_following_lines_have_their_own_indent() -> None:
    path = "/data/" + "a-" * 60
    assert wrapped(f"adapter in {path}", "- ", "    ") == ["- adapter in", f"    {path}"]


def test_hyperparameters_are_one_line_and_an_optional_one_is_said_where_it_is_set() -> None:
    plain = "all r16 a32, cutoff 512, batch 8, lr 2.0e-4, adamw_8bit"
    assert hyperparameter_words(HYPERPARAMETERS) == plain
    assert hyperparameter_words({**HYPERPARAMETERS, "lora_dropout": 0.0}) == plain
    dropped = hyperparameter_words({**HYPERPARAMETERS, "lora_dropout": 0.05})
    assert dropped == plain.replace("a32", "a32 dropout 0.05")
