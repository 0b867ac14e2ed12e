"""The template of LLaMA-Factory that gives a model's rows the text they were trained on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vram_search.data import Example, Rows
from vram_search.errors import InputError
from vram_search.export import named_template, template_by_name
from vram_search.export.chat_template import (
    ChatTemplate,
    count_differing,
    load_chat_template,
    match_template,
)
from vram_search.export.slots import SLOTS
from vram_search.export.template import _BY_NAME, Template
from vram_search.export.template_names import TEMPLATE_NAMES

WHEN = datetime(2026, 3, 1, tzinfo=UTC)

SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
"""Of HuggingFaceTB/SmolLM2-135M-Instruct."""

LLAMA = """{{- bos_token }}
{%- set date_string = strftime_now('%d %b %Y') %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
"""The form of Llama 3.2's: it tells the date, and trims."""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else 'user' %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
"""The form of Gemma 2's."""


def ask(question: str, answer: str) -> Example:
    return Example((("user", question), ("assistant", answer)))


def test_smollm2_gets_its_own_system_message_without_llamafactorys_full_stop(rows: Rows) -> None:
    chat = ChatTemplate(SMOLLM2, "<|im_start|>", "<|im_end|>")
    matched = match_template(chat, rows.train, None, WHEN)
    assert matched is not None
    assert matched.name == "smollm2"
    assert matched.default_system == (
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    assert "4 rows compared" in matched.note
    assert count_differing(Template("smollm2"), chat, rows.train, WHEN) == 3


def test_of_templates_that_agree_the_preferred_is_taken(rows: Rows) -> None:
    chat = ChatTemplate(SMOLLM2, "<|im_start|>", "<|im_end|>")
    matched = match_template(chat, rows.train, "qwen", WHEN)
    assert matched is not None
    assert matched.name == "qwen"


def test_a_chat_template_that_tells_the_date_gets_the_trials_day() -> None:
    chat = ChatTemplate(LLAMA, "<|begin_of_text|>", "<|eot_id|>")
    matched = match_template(chat, [ask("Hi", "Ho")], None, WHEN)
    assert matched is not None
    assert matched.name == "llama3"
    assert matched.default_system == "Today Date: 01 Mar 2026"


def test_rows_that_the_model_reads_trimmed_are_counted() -> None:
    chat = ChatTemplate(GEMMA, "<bos>", "<eos>")
    examples = [ask("Hi", "Ho"), ask(" Hi", "Ho")]
    matched = match_template(chat, examples[:1], None, WHEN)
    assert matched is not None
    assert (matched.name, matched.default_system) == ("gemma", None)
    assert match_template(chat, examples, None, WHEN) is None
    assert count_differing(matched, chat, examples, WHEN) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{% if %}",
        "{{ raise_exception('no') }}",
        "{{ messages[9]['role'] }}",
        "{{ messages[-1]['content'] }}",
        "{{ messages.__class__.__mro__ }}",
        "",
    ],
)
def test_a_chat_template_that_cannot_be_compared_gives_no_match(text: str, rows: Rows) -> None:
    chat = ChatTemplate(text, "", "")
    assert match_template(chat, rows.train, None, WHEN) is None
    assert count_differing(Template("qwen"), chat, rows.train, WHEN) in (None, len(rows.train))
    assert count_differing(Template("gpt_oss"), chat, rows.train, WHEN) is None


def test_a_chat_template_is_read_from_either_file(tmp_path: Path) -> None:
    config = {"chat_template": "A", "bos_token": {"content": "<s>"}, "eos_token": None}
    assert load_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_chat_template(tmp_path) == ChatTemplate("A", "<s>", "")
    (tmp_path / "chat_template.jinja").write_text("B", encoding="utf-8")
    assert load_chat_template(tmp_path) == ChatTemplate("B", "<s>", "")


@pytest.mark.parametrize(
    ("model", "name", "default_system"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", "qwen", None),
        ("Qwen/Qwen2.5-3B", "qwen", "You are a helpful assistant."),
        ("Qwen/Qwen2-0.5B-Instruct", "qwen", "You are a helpful assistant."),
        ("Qwen/Qwen3-4B", "qwen3", None),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink", None),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3", "01 Mar 2026"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3", "26 Jul 2024"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3", None),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", None),
        ("google/gemma-2-9b-it", "gemma", None),
        ("google/gemma-3-1b-it", "gemma", None),
        ("microsoft/phi-4", "phi4", None),
        ("/models/SmolLM2-1.7B-Instruct/", "smollm2", "trained by Hugging Face"),
        (r"C:\models\TinyLlama-1.1B-Chat-v1.0", "zephyr", ""),
    ],
)
def test_known_names_have_a_template(model: str, name: str, default_system: str | None) -> None:
    template = template_by_name(model, None, WHEN)
    assert template.name == name
    if default_system is None:
        assert template.default_system is None
    else:
        assert default_system in (template.default_system or "")
    assert "not compared" in template.note


def test_a_finetune_of_a_family_with_one_format_is_known_by_its_type() -> None:
    assert template_by_name("me/mine", "gemma2", WHEN).name == "gemma"


def test_an_unknown_model_asks_for_a_name() -> None:
    with pytest.raises(InputError, match=r"me/mine \(model_type llama\)\n.*--template"):
        template_by_name("me/mine", "llama", WHEN)
    with pytest.raises(InputError, match="--template"):
        template_by_name("Qwen/Qwen3-4B-Thinking-2507", None, WHEN)


def test_a_misspelt_template_is_refused_with_a_guess() -> None:
    assert named_template("llama3").name == "llama3"
    with pytest.raises(InputError, match=r"'qwen_3'\ndid you mean .*qwen3"):
        named_template("qwen_3")


def test_every_template_of_the_tables_is_one_of_llamafactorys() -> None:
    assert set(SLOTS) <= TEMPLATE_NAMES
    assert {template.name for _, template in _BY_NAME} <= TEMPLATE_NAMES
