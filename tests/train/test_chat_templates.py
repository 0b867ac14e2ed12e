"""Answers are found in the text of chat templates that the common models have."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from vram_search.data import Example
from vram_search.data.example import example_of
from vram_search.data.templates import template_names, template_text
from vram_search.errors import InputError
from vram_search.train.examples import Encoder
from vram_search.train.tokenizer import byte_tokenizer, load_tokenizer

QWEN3 = (
    "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m['role'] == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' -}}"
    "{%- if m['role'] == 'assistant' -%}{%- set c = m['content'] -%}"
    "{%- set r = m.reasoning_content or '' -%}"
    "{%- if '</think>' in c -%}{%- set r = c.split('</think>')[0].split('<think>')[-1] -%}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{%- if loop.index0 > ns.last and (loop.last or r) -%}"
    "{{- '<think>\n' + r.strip('\n') + '\n</think>\n\n' -}}{%- endif -%}{{- c -}}"
    "{%- else -%}{{- m['content'] -}}{%- endif -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""As Qwen3: earlier answers lose their thoughts, the last one has them, empty or not."""

R1 = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{%- set c = m['content'] -%}"
    "{%- if '</think>' in c -%}{%- set c = c.split('</think>')[-1] -%}{%- endif -%}"
    "{{- '<|im_start|>A:' + c + '<|im_end|>' -}}{%- else -%}{{- 'U:' + m['content'] -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>A:<think>\n' -}}{%- endif -%}"
)
"""As DeepSeek-R1-Distill: the thoughts are left out, and the model is told to begin with some."""

MISTRAL = (
    "{%- set ns = namespace(system='') -%}"
    "{%- if messages[0]['role'] == 'system' -%}{%- set ns.system = messages[0]['content'] -%}"
    "{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}"
    "{{- '[INST] ' -}}{%- if loop.index0 >= messages|length - 2 and ns.system -%}"
    "{{- ns.system + '\n\n' -}}{%- endif -%}{{- m['content'] + '[/INST]' -}}"
    "{%- else -%}{{- m['content'] + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
)
"""As Mistral 7B v0.3: the system message stands in the last question."""

GEMMA = (
    "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') }}"
    "{%- endif -%}{%- for m in messages -%}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate') }}{%- endif -%}"
    "{{- '<start>' + m['role'] + '\n' + m['content'] | trim + '<end>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start>assistant\n' -}}{%- endif -%}"
)

GPT_OSS = (
    "{{- 'Current date: ' + strftime_now('%Y-%m-%d') -}}"
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{- '<|im_start|>assistant' -}}"
    "{%- if 'tool_calls' in m -%}"
    "{%- set call = m['tool_calls'][0]['function'] -%}"
    "{{- ' to=' + call['name'] + '<|message|>' + call['arguments']|tojson + '<|call|>' -}}"
    "{%- elif loop.last -%}{%- if 'thinking' in m -%}"
    "{{- '<|channel|>analysis<|message|>' + m['thinking'] + '<|end|><|im_start|>assistant' -}}"
    "{%- endif -%}{{- '<|channel|>final<|message|>' + m['content'] + '<|return|>' -}}"
    "{%- else -%}{{- '<|channel|>final<|message|>' + m['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- elif m['role'] == 'tool' -%}{%- if 'tool_calls' not in messages[loop.index0 - 1] -%}"
    "{{- raise_exception('no tool was called') }}{%- endif -%}"
    "{{- '<|im_start|>tool<|message|>' + m['content'] + '<|end|>' -}}"
    "{%- else -%}{{- '<|im_start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant' -}}{%- endif -%}"
)
"""As gpt-oss: the last answer ends with a token of its own, reasoning has a channel of its own."""

DEEPSEEK = (
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{- 'U:' + m['content'] -}}"
    "{%- elif m['role'] == 'tool' -%}{{- 'T:' + m['content'] -}}"
    "{%- elif m['role'] == 'assistant' and m['content'] is none -%}"
    "{{- 'A:call ' + m['tool_calls'][0]['function']['name'] + ' '"
    " + m['tool_calls'][0]['function']['arguments'] + '<|im_end|>' -}}"
    "{%- elif m['role'] == 'assistant' -%}{{- 'A:' + m['content'] + '<|im_end|>' -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- 'A:' -}}{%- endif -%}"
)
"""As DeepSeek-V3: a call is written if there is no content, its arguments are text, and a system
message after the first turn is left out."""

NO_CALLS = (
    "{%- if tools -%}{{- tools | tojson -}}{%- endif -%}{%- for m in messages -%}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""As Falcon-H1: the list of tools is written, and calls are left out."""

SHORT_IDS = (
    "{%- for m in messages -%}{%- for call in m.tool_calls or [] -%}"
    "{%- if call.id | length != 9 -%}{{- raise_exception('ids have 9 letters') -}}{%- endif -%}"
    "{{- 'A:' + call.id + call.function | tojson + '<|im_end|>' -}}{%- endfor -%}"
    "{%- if m['role'] == 'tool' -%}{%- if m.tool_call_id | length != 9 -%}"
    "{{- raise_exception('ids have 9 letters') -}}{%- endif -%}"
    "{{- 'T:' + m.tool_call_id + m['content'] -}}{%- elif m['role'] == 'user' -%}"
    "{{- 'U:' + m['content'] -}}{%- elif not m.tool_calls -%}"
    "{{- 'A:' + m['content'] + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'A:' -}}{%- endif -%}"
)
"""As Mistral's templates: ids of calls have nine letters."""

GEMMA4 = (
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{- '<turn>user ' + m['content'] -}}"
    "{%- elif m['role'] == 'tool' -%}{{- m['content'] + '<response>' -}}"
    "{%- else -%}{%- if messages[loop.index0 - 1]['role'] != 'tool' -%}{{- '<turn>model ' -}}"
    "{%- endif -%}{%- for call in m.tool_calls or [] -%}"
    "{{- '<call>' + call.function | tojson + '<response>' -}}{%- endfor -%}"
    "{{- m['content'] + ('' if m.tool_calls else '<|im_end|>') -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and messages[-1]['role'] != 'tool' -%}"
    "{{- '<turn>model <channel>' -}}{%- endif -%}"
)
"""As Gemma 4: call, result and answer are one turn, and the generation prompt thinks first."""

TWO = Example((("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two")))
CALL = {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"q": "x"}}}]}
WITH_TOOL = example_of(
    [
        ("user", "Sky?", {}),
        ("assistant", "", CALL),
        ("tool", "blue", {}),
        ("assistant", "Blue.", {}),
    ],
    [{"type": "function", "function": {"name": "look", "parameters": {}}}],
)


def encoder_of(template: str, *tokens: str, date: str = "2024-07-26") -> Encoder:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tokens]})
    return Encoder(tokenizer, date)


def learnt(encoder: Encoder, example: Example) -> list[str]:
    return [encoder.tokenizer.decode(target) for _, target in encoder.encode(example).turns]


def text(encoder: Encoder, example: Example) -> str:
    turns = encoder.encode(example).turns
    return "".join(encoder.tokenizer.decode([*source, *target]) for source, target in turns)


def test_qwen3_learns_every_answer_of_a_conversation_as_the_template_writes_it() -> None:
    encoder = encoder_of(QWEN3)
    assert learnt(encoder, TWO) == ["one<|im_end|>\n", "<think>\n\n</think>\n\ntwo<|im_end|>\n"]
    whole = encoder.tokenizer.apply_chat_template(TWO.turns, tokenize=False)
    assert text(encoder, TWO) == whole


def test_answers_that_stand_elsewhere_in_the_conversation_too_are_told_apart() -> None:
    same = Example((("user", "a"), ("assistant", "a"), ("user", "user"), ("assistant", "user")))
    assert learnt(encoder_of(QWEN3), same) == [
        "a<|im_end|>\n",
        "<think>\n\n</think>\n\nuser<|im_end|>\n",
    ]


def test_reasoning_is_learnt_where_the_template_writes_it() -> None:
    row = example_of([("user", "2+2?", {}), ("assistant", "4", {"reasoning_content": "sum"})])
    assert learnt(encoder_of(QWEN3), row) == ["<think>\nsum\n</think>\n\n4<|im_end|>\n"]
    # R1's own template would leave the thoughts out; what it begins for the model is read.
    assert learnt(encoder_of(R1), row) == ["sum\n</think>\n\n4<|im_end|>"]
    tagged = Example((("user", "2+2?"), ("assistant", "<think>\nsum\n</think>\n\n4")))
    assert learnt(encoder_of(R1), tagged) == ["sum\n</think>\n\n4<|im_end|>"]
    assert learnt(encoder_of(byte_tokenizer().chat_template), row) == [
        "<think>\nsum\n</think>\n\n4<|im_end|>\n"
    ]


def test_answer_without_thoughts_follows_the_part_of_the_generation_prompt_that_is_there() -> None:
    encoder = encoder_of(R1)
    row = Example((("user", "Q"), ("assistant", "<b>A</b>")))
    assert learnt(encoder, row) == ["<b>A</b><|im_end|>"]
    assert learnt(encoder, TWO) == ["one<|im_end|>", "two<|im_end|>"]


def test_system_message_in_the_last_question_is_no_hindrance() -> None:
    encoder = encoder_of(MISTRAL)
    row = Example((("system", "Be brief."), *TWO.messages))
    assert learnt(encoder, row) == ["one<|im_end|>", "two<|im_end|>"]
    assert text(encoder, row).count("Be brief.") == 1


def test_system_message_goes_into_the_first_question_where_the_template_takes_none() -> None:
    encoder = encoder_of(GEMMA)
    row = Example((("system", "Be brief."), *TWO.messages))
    assert text(encoder, row).startswith("<start>user\nBe brief.\n\na<end>\n")
    assert learnt(encoder, row) == ["one<end>\n", "two<end>\n"]
    assert "which the chat template does not take" in encoder.notes[0]


def test_row_that_the_template_refuses_is_named() -> None:
    row = Example((("user", "Hi."), ("user", "Sky?"), ("assistant", "x")), place="rows, row 7")
    with pytest.raises(InputError, match="roles must alternate") as caught:
        encoder_of(GEMMA).encode(row)
    assert caught.value.message.startswith("rows, row 7 (it begins 'Hi.'): the chat template")


def test_template_that_hides_the_answers_is_refused() -> None:
    for hiding in ("{{ messages[-1]['content'] | upper }}", "{{ messages|length }}"):
        with pytest.raises(InputError, match="answers cannot be found"):
            encoder_of(hiding).encode(TWO)


def test_gpt_oss_ends_its_last_answer_otherwise_and_thinks_in_a_channel() -> None:
    tokens = ("<|end|>", "<|return|>", "<|call|>", "<|channel|>", "<|message|>")
    encoder = encoder_of(GPT_OSS, *tokens)
    final = "<|channel|>final<|message|>"
    assert learnt(encoder, TWO) == [f"{final}one<|end|>", f"{final}two<|return|>"]
    row = example_of([("user", "2+2?", {}), ("assistant", "4", {"reasoning_content": "sum"})])
    analysis = "<|channel|>analysis<|message|>sum<|end|><|im_start|>assistant"
    assert learnt(encoder, row) == [f"{analysis}{final}4<|return|>"]
    tagged = Example((("user", "2+2?"), ("assistant", "<think>\nsum\n</think>\n\n4")))
    assert learnt(encoder, tagged) == [f"{analysis}{final}4<|return|>"]
    called = example_of(
        [*zip_turns(WITH_TOOL), ("user", "Thanks", {}), ("assistant", "Bye", {})], None
    )
    assert learnt(encoder, called) == [
        ' to=look<|message|>{"q": "x"}<|call|>',
        f"{final}Blue.<|end|>",
        f"{final}Bye<|return|>",
    ]


@pytest.mark.parametrize("refuses", [True, False])
def test_template_that_takes_parts_alone_gets_parts(refuses: bool) -> None:
    part = "p['text']" if refuses else "p['text'] if p is mapping else ''"
    template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + ':' -}}"
        f"{{%- for p in m['content'] -%}}{{{{- {part} -}}}}{{%- endfor -%}}"
        "{{- '<|im_end|>' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant:' -}}{%- endif -%}"
    )
    encoder = encoder_of(template)
    assert learnt(encoder, TWO) == ["one<|im_end|>", "two<|im_end|>"]
    assert TWO.messages[0][1] in text(encoder, TWO)


def zip_turns(example: Example) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (turn.pop("role"), turn.pop("content"), turn)  # what is left are the further fields
        for turn in example.turns
    ]


def test_tools_are_written_as_json_where_the_template_knows_none() -> None:
    encoder = encoder_of(byte_tokenizer().chat_template)
    call = '<tool_call>\n{"name": "look", "arguments": {"q": "x"}}\n</tool_call>'
    assert learnt(encoder, WITH_TOOL) == [f"{call}<|im_end|>\n", "Blue.<|im_end|>\n"]
    whole = text(encoder, WITH_TOOL)
    assert "<tools>" in whole
    assert "<tool_response>\nblue\n</tool_response>" in whole
    assert "tools, which the chat template does not know" in encoder.notes[0]


def test_calls_are_written_as_the_template_takes_them() -> None:
    encoder = encoder_of(DEEPSEEK)
    assert learnt(encoder, WITH_TOOL) == ['call look {"q": "x"}<|im_end|>', "Blue.<|im_end|>"]


def test_calls_that_the_template_would_leave_out_are_written_as_json() -> None:
    encoder = encoder_of(NO_CALLS)
    call = '<tool_call>\n{"name": "look", "arguments": {"q": "x"}}\n</tool_call>'
    assert learnt(encoder, WITH_TOOL) == [f"{call}<|im_end|>", "Blue.<|im_end|>"]


def test_ids_of_calls_are_shortened_where_the_template_wants_it() -> None:
    tool = {"tool_call_id": "chatcmpl-tool-123", "name": "look"}
    call = {"id": "chatcmpl-tool-123", **CALL["tool_calls"][0]}
    turns: list[tuple[str, str, dict[str, Any]]] = [
        ("user", "Sky?", {}),
        ("assistant", "", {"tool_calls": [call]}),
        ("tool", "blue", tool),
        ("assistant", "Blue.", {}),
    ]
    encoder = encoder_of(SHORT_IDS)
    first, last = learnt(encoder, example_of(turns))
    assert first.startswith("call00001") and '"look"' in first
    assert last == "Blue.<|im_end|>"
    assert "T:call00001blue" in text(encoder, example_of(turns))


def test_call_without_the_thought_of_the_generation_prompt_is_learnt() -> None:
    encoder = encoder_of(GEMMA4, "<turn>", "<channel>", "<call>", "<response>")
    first, last = learnt(encoder, WITH_TOOL)
    assert first.startswith("<call>{") and first.endswith("<response>")
    assert last == "Blue.<|im_end|>"


MISTRAL = (
    "{%- set questions = messages | selectattr('role', 'equalto', 'user') | list -%}"
    "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}"
    "{%- if m.role == 'user' or m.role == 'assistant' and not m.tool_calls -%}"
    "{%- if (m.role == 'user') != (ns.n % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate') -}}{%- endif -%}{%- set ns.n = ns.n + 1 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- if tools and m == questions[-1] -%}{{- '[TOOLS]' + tools | tojson -}}{%- endif -%}"
    "{{- '[INST]' + m.content + '[/INST]' -}}"
    "{%- elif m.tool_calls -%}"
    "{{- '[CALLS]' + m.tool_calls[0].function | tojson + '<|im_end|>' -}}"
    "{%- elif m.role == 'tool' -%}{{- '[RESULT]' + m.content + '[/RESULT]' -}}"
    "{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
)
"""As Mistral v3: the tools stand before the last question alone, and roles alternate."""

COMMAND_A = (
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '<turn>U:' + m.content -}}"
    "{%- elif m.tool_calls -%}{{- '<turn>C:<act>' + m.tool_calls[0].function | tojson -}}"
    "{%- elif m.role == 'tool' -%}{{- '<turn>T:' + m.content -}}"
    "{%- else -%}{{- '<turn>C:<say>' + m.content + '</say>' -}}{%- endif -%}{{- '<|im_end|>' -}}"
    "{%- endfor -%}{{- '<turn>C:' -}}"
)
"""As Command A: every text ends with the generation prompt, asked for or not."""


@pytest.mark.parametrize(
    ("template", "special", "calls", "answers"),
    [
        (MISTRAL, (), "[CALLS]", ("Blue.", "Black.")),
        (
            COMMAND_A,
            ("<turn>", "<act>", "<say>", "</say>"),
            "<act>",
            ("<say>Blue.</say>", "<say>Black.</say>"),
        ),
    ],
)
def test_calls_of_several_turns_are_found(
    template: str, special: tuple[str, ...], calls: str, answers: tuple[str, str]
) -> None:
    turns: list[tuple[str, str, dict[str, Any]]] = []
    for question, found, answer in (("Sky?", "blue", "Blue."), ("Night?", "black", "Black.")):
        turns += [
            ("user", question, {}),
            ("assistant", "", {"tool_calls": CALL["tool_calls"]}),
            ("tool", found, {"name": "look"}),
            ("assistant", answer, {}),
        ]
    row = example_of(turns, [{"type": "function", "function": {"name": "look", "parameters": {}}}])
    encoder = encoder_of(template, *special)
    first, one, second, other = learnt(encoder, row)
    assert first == second and first.startswith(calls) and first.endswith("<|im_end|>")
    assert (one, other) == tuple(f"{answer}<|im_end|>" for answer in answers)


@pytest.mark.parametrize("template", [GEMMA, DEEPSEEK])
def test_later_system_message_goes_into_the_next_question(template: str) -> None:
    row = Example((*TWO.messages[:2], ("system", "Be brief."), *TWO.messages[2:]))
    encoder = encoder_of(template)
    assert "Be brief.\n\nb" in text(encoder, row)
    assert len(learnt(encoder, row)) == 2
    assert "after the first turn" in encoder.notes[0]


def test_thoughts_of_several_turns_are_learnt_as_far_as_the_template_writes_them() -> None:
    thoughts = [("assistant", f"<think>\n{word}\n</think>\n\n{word}") for word in ("one", "two")]
    row = Example((("user", "a"), thoughts[0], ("user", "b"), thoughts[1]))
    first, last = learnt(encoder_of(R1), row)
    assert first.strip() == "one<|im_end|>"
    assert last == "two\n</think>\n\ntwo<|im_end|>"


def test_answer_without_a_loss_is_read() -> None:
    encoder = encoder_of(byte_tokenizer().chat_template)
    row = Example(TWO.messages, untrained=(1,))
    assert learnt(encoder, row) == ["two<|im_end|>\n"]
    assert "one<|im_end|>" in text(encoder, row)


def test_date_in_a_prompt_is_the_studys_and_not_todays() -> None:
    today = datetime.date.today().isoformat()
    assert "Current date: 2024-07-26" in text(encoder_of(GPT_OSS, "<|end|>", "<|return|>"), TWO)
    chosen = encoder_of(GPT_OSS, "<|end|>", "<|return|>", date="2031-05-06")
    assert "Current date: 2031-05-06" in text(chosen, TWO)
    assert today not in text(chosen, TWO)


def test_all_of_a_plain_text_is_learnt_without_a_template() -> None:
    encoder = encoder_of("{{ raise_exception('no template is needed') }}")
    assert learnt(encoder, Example((("text", "Once upon a time"),))) == [
        "Once upon a time<|im_end|>"
    ]


def test_base_model_without_a_template_takes_one_by_name_or_from_a_file(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    with pytest.raises(InputError, match="has no chat template") as caught:
        Encoder(load_tokenizer(base)).encode(TWO)
    assert "dataset.template=chatml" in caught.value.remedy
    named = Encoder(load_tokenizer(base, "chatml"))
    assert learnt(named, TWO) == ["one<|im_end|>\n", "two<|im_end|>\n"]
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    assert learnt(Encoder(load_tokenizer(base, str(own))), TWO) == ["[one]", "[two]"]
    with pytest.raises(InputError, match="no template 'chatlm'") as caught:
        load_tokenizer(base, "chatlm")
    assert "did you mean chatml" in caught.value.remedy


@pytest.mark.parametrize("name", template_names())
def test_every_shipped_template_learns_the_answers_alone(name: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = template_text(name)
    turns = [("system", "Be kind."), ("user", "ask 1"), ("assistant", "say 1")]
    turns += [("user", "ask 2"), ("assistant", "say 2")]
    read, learnt = zip(*Encoder(tokenizer).encode(Example(tuple(turns))).turns, strict=True)
    for number in (0, 1):
        said = tokenizer.decode(list(learnt[number]))
        assert f"say {number + 1}" in said and "ask" not in said
        assert f"ask {number + 1}" in tokenizer.decode(list(read[number]))


def test_generation_prompt_that_nobody_asked_for_is_not_learnt() -> None:
    """The first template of Llama 3."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    encoded = Encoder(tokenizer).encode(Example(turns)).turns
    assert [tokenizer.decode(list(target)) for _, target in encoded] == [
        "b<|im_end|>",
        "d<|im_end|>",
    ]
