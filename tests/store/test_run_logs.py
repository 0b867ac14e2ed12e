"""Logs are read while they are written."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from vram_search.store.run_logs import entries_of, follow, log_files


def entry(text: str) -> str:
    return json.dumps({"at": "2026-01-01T00:00:00", "event": "note", "text": text}) + "\n"


def test_damaged_and_unfinished_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(entry("a") + "{\n[1]\n" + entry("b") + entry("c")[:10])
    assert [one["text"] for one in entries_of(log_files(tmp_path))] == ["a", "b"]


def test_following_waits_for_the_rest_of_a_line_and_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_text(entry("a") + entry("b")[:10])
    later = [
        lambda: first.write_text(entry("a") + entry("b")),
        lambda: second.write_text(entry("c")),
    ]
    monkeypatch.setattr("time.sleep", lambda seconds: later.pop(0)())
    found = islice(follow(tmp_path, log_files(tmp_path)), 3)
    assert [one["text"] for one in found] == ["a", "b", "c"]


def test_no_folder_has_no_logs(tmp_path: Path) -> None:
    assert log_files(tmp_path / "none") == []
