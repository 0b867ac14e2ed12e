"""Text of strangers that is shown: no control character and no secret gets through."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vram_search
from vram_search.cli.main import _print_traceback
from vram_search.errors import StoreError
from vram_search.shown_text import escaped_controls, shown, without_secrets_in
from vram_search.store import open_store
from vram_search.store.faults import describe

CLI = Path(vram_search.__file__).parent / "cli"


@pytest.mark.parametrize(
    "text",
    ["\x1b[2Ja", "\x1b]0;x\x07a", "\x9b2Ja", "a\r", "a\x08", "\u202ea", "a\x00", "\x7fa"],
)
def test_control_character_is_removed(text: str) -> None:
    assert re.search("[\x00-\x1f\x7f-\x9f\u202e]", shown(text)) is None
    assert "a" in shown(text)


def test_tabs_line_breaks_and_letters_stay() -> None:
    assert shown("a\tb\nü 名前 \U0001f600") == "a\tb\nü 名前 \U0001f600"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hun@ter2@host/db",
        "postgresql://host/db?user=me&password=hunter2",
        "postgresql://host/db?sslpassword=hunter2&sslmode=require",
        "https://hunter2@huggingface.co/model",
        "https://host/rows.jsonl?X-Amz-Signature=hunter2",
        "https://host/rows.jsonl?access_token=hunter2#x",
        "host=a password=hunter2 dbname=b",
        "host=a password='hunter2 b'",
        "postgresql://host/db?pass%77ord=hunter2",
        "postgresql://host/db?options=-c%20role%3Dhunter2",
        "HF_TOKEN=hunter2",
        "WANDB_API_KEY: hunter2",
        "PGPASSWORD=hunter2",
        '{"password": "hunter2"}',
        "Authorization: Bearer hunter2",
        "X-Api-Key: hunter2",
        "--token hunter2",
        "token=hunter2345",
        "hf_hunter2AAAAAAAAAAAAAAAAAA",
        "https://hooks.slack.com/services/T/B/hunter2",
        "tgram://123:hunter2/chat",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secret_is_masked(text: str) -> None:
    for masked in (shown(text), shown(f"error: {text} is wrong"), str(without_secrets_in([text]))):
        assert "***" in masked
        assert "hunter2" not in masked
        assert "ter2" not in masked


@pytest.mark.parametrize(
    "text",
    [
        "--set search_space.lora_rank=[8,16]",
        "a@b.example",
        "eos_token: <|endoftext|>, pad_token='<pad12345>'",
        "eval_loss in nats per token: 1.2345678",
        "sqlite:////home/me/search.db",
        "max_new_tokens=12, cutoff_len=512",
        "https://host/a?page=2",
    ],
)
def test_text_without_a_secret_stays(text: str) -> None:
    assert shown(text) == text


def test_json_keeps_its_values_and_loses_its_controls() -> None:
    value = {"name": "\x9b2J\u202e\x7f ü"}
    text = escaped_controls(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert shown(text) == text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@127.0.0.1:1/db?password=hunter2&connect_timeout=1",
        "postgresql://me:hunter2@127.0.0.1:1/db?connect_timeout=1",
        "postgresql://me@127.0.0.1:1/db?pasword=hunter2",
        "postgresql://me@127.0.0.1:port/db?password=hunter2",
        "mysql://me@host/db?password=hunter2",
        "sqlite:////tmp/x.db?password=hunter2",
    ],
)
def test_error_about_a_database_shows_no_secret(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url, create=False)
    assert "hunter2" not in str(caught.value)


def test_description_of_a_database_keeps_what_is_harmless() -> None:
    text = describe("postgresql://me:a@host/db?sslmode=require&password=b")
    assert "me:***@host/db" in text
    assert "sslmode=require" in text
    assert "password=b" not in text


def test_commands_print_through_the_console_alone() -> None:
    direct = re.compile(
        r"click\.(s?echo|confirm|prompt)|\bConsole\(|^\s*print\(|sys\.std(out|err)\.write", re.M
    )
    files = [file for file in CLI.glob("*.py") if file.name != "console.py"]
    assert files
    assert [f.name for f in files if direct.search(f.read_text(encoding="utf-8"))] == []


def test_secret_is_known_by_its_name_in_json() -> None:
    masked = without_secrets_in({"sslpassword": "hunter2", "token": "x", "eos_token": "</s>"})
    assert masked == {"sslpassword": "***", "token": "***", "eos_token": "</s>"}


def test_traceback_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("connection to postgresql://me:hunter2@host/db failed")
    _print_traceback(RuntimeError, error, None)
    printed = capsys.readouterr().err
    assert "RuntimeError" in printed
    assert "hunter2" not in printed
