"""GGUF files and Modelfiles: read back by transformers, and rendered as Go would."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.train.test_merge import ALL, job_for, save_adapter, save_base, tiny_llama
from vram_search.data.chat_render import template_renderer
from vram_search.data.templates import template_text
from vram_search.errors import InputError
from vram_search.protocol import OllamaJob
from vram_search.train.gguf_tokenizer import pre_tokenizer_name
from vram_search.train.ollama import modelfile_text, write_ollama
from vram_search.train.ollama_template import (
    TRIMMED,
    Turn,
    check_texts,
    renderer,
    turn_texts,
)
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.train.write_gguf import rope_factors, write_gguf

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def go_rendered(template: str, turns: Sequence[Turn]) -> str:
    """Runs a Go template of assignments, range, if and string literals over `.Messages`."""
    actions = re.findall(r"\{\{-?\s*(.*?)\s*-?\}\}", template, re.DOTALL)
    assert not re.sub(r"\{\{-?\s*(.*?)\s*-?\}\}\s*", "", template, flags=re.DOTALL).strip()
    start, ends = actions.index("range .Messages"), [i for i, a in enumerate(actions) if a == "end"]
    text, variables = "", {"$previous": ""}

    def value(name: str, turn: Turn) -> str:
        return {".Role": turn[0], ".Content": turn[1], **variables}[name]

    for turn in turns:
        is_taken, is_on = False, True
        for action in actions[start + 1 : ends[-1]]:
            if test := re.fullmatch(r"(?:else )?if eq (\S+) \"(\w*)\"", action):
                is_on = not is_taken and value(test[1], turn) == test[2]
                is_taken = is_taken or is_on
            elif action == "else":
                is_on, is_taken = not is_taken, True
            elif action == "end":
                is_on = True
            elif is_on and action.startswith('"'):
                text += decoded(action)
            elif is_on and "=" in action:
                name, source = action.split(" = ")
                variables[name] = value(source, turn)
            elif is_on:
                text += value(action, turn)
    return text + decoded(actions[-1])


def decoded(literal: str) -> str:
    text: str = json.loads(literal)
    return text


CONVERSATION: list[Turn] = [
    ("system", "Be kind.\nAlways."),
    ("user", 'a "quoted" question?'),
    ("assistant", "an answer"),
    ("user", "and {{ braces }}?"),
]


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi3", "mistral", "qwen", "zephyr"])
def test_go_template_renders_as_the_chat_template(name: str) -> None:
    jinja = template_renderer(template_text(name), SPECIAL, date(2024, 7, 26))
    render = renderer(jinja)
    texts = turn_texts(render)
    remarks = set(check_texts(texts, render)) - {TRIMMED}
    for turns in (CONVERSATION[1:2], CONVERSATION[1:], CONVERSATION[:2], CONVERSATION):
        has_system = turns[0][0] == "system"
        if not (has_system and remarks):
            assert texts.render(turns) == render(turns)
        assert go_rendered(texts.go_template(), turns) == texts.render(turns)


@pytest.mark.parametrize("trims", [True, False])
def test_template_that_trims_messages_is_remarked(trims: bool) -> None:
    def render(turns: Sequence[Turn]) -> str:
        said = [(role, content.strip() if trims else content) for role, content in turns]
        return "".join(f"<{role}>{content}" for role, content in said) + "<assistant>"

    assert check_texts(turn_texts(render), render) == [TRIMMED] * trims


def test_template_that_numbers_its_turns_is_refused() -> None:
    def render(turns: Sequence[Turn]) -> str:
        return "".join(f"[{i}] {content}\n" for i, (_, content) in enumerate(turns))

    with pytest.raises(InputError, match="cannot be written for Ollama"):
        check_texts(turn_texts(render), render)


def test_begin_token_is_left_to_the_runtime() -> None:
    jinja = template_renderer(template_text("mistral"), SPECIAL, date(2024, 7, 26))
    texts = turn_texts(renderer(jinja))
    assert texts.before_first_user.startswith("<s>[INST]")
    assert texts.without_start("<s>").before_first_user.startswith("[INST]")
    assert texts.without_start(None) == texts


@pytest.mark.parametrize("adds", [True, False])
def test_begin_token_is_written_once(tmp_path: Path, adds: bool) -> None:
    """SmolLM2 has a begin token that only its template writes."""
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    save_base(tmp_path / "base", config)
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    if adds:
        begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin[0]} $A", special_tokens=[begin]
        )
    write_gguf(tmp_path / "base", config, tokenizer, tmp_path / "m.gguf", "f16", end_token=2)
    field = GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.add_bos_token"]
    assert field.contents() is adds
    text, _ = modelfile_text(tokenizer, "2024-07-26", ["<|im_end|>"], ())
    assert (r'{{- "<|im_start|>user\n" -}}' in text) is not adds
    assert (r'{{- "user\n" -}}' in text) is adds


def test_modelfile_has_template_and_stops() -> None:
    text, notes = modelfile_text(byte_tokenizer(), "2024-07-26", ["<|im_end|>"], ("from a test",))
    assert text.startswith('# from a test\nFROM ./model.gguf\nTEMPLATE """')
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert r'{{- "<|im_end|>\n<|im_start|>assistant\n" -}}' in text
    assert notes == []


@pytest.mark.parametrize("kind", ["bf16", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LlamaConfig(**SIZES, tie_word_embeddings=False), id="llama"),
        pytest.param(Qwen2Config(**SIZES, tie_word_embeddings=True), id="qwen2"),
        pytest.param(Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True), id="qwen3"),
    ],
)
def test_gguf_read_back_gives_the_same_logits(tmp_path: Path, config: Any, kind: str) -> None:
    model = save_base(tmp_path / "base", config)
    write_gguf(tmp_path / "base", config, byte_tokenizer(), tmp_path / "m.gguf", kind, end_token=2)
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, config=config
    )
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        difference = (read(tokens).logits - model(tokens).logits).abs().max()
        assert difference <= {"bf16": 1e-6, "f16": 1e-2, "q8_0": 0.02, "q4_0": 0.3}[kind]


def test_llama_3_frequencies_are_transformers() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(**SIZES | {"hidden_size": 512}, rope_parameters=rope)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128)
    factors = rope_factors(config)
    assert factors is not None
    torch.testing.assert_close(plain / factors, theirs, rtol=1e-4, atol=0)


def test_unknown_families_and_tokenizers_name_llama_cpp(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="way that is not known") as refused:
        pre_tokenizer_name({"type": "Metaspace"})
    assert "--llama-cpp FOLDER" in refused.value.remedy
    assert pre_tokenizer_name({"type": "ByteLevel", "use_regex": True}) == "gpt-2"


def test_folder_for_ollama_holds_the_measured_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama(hidden_size=64, intermediate_size=64))
    save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    job = OllamaJob(merge=job_for(tmp_path, measure=True), kind="q8_0", llama_cpp=None, comments=())
    found = write_ollama(job, lambda note: None)
    assert {file.name for file in (tmp_path / "merged").iterdir()} == {"model.gguf", "Modelfile"}
    assert found.eval_loss is not None and 4 < found.eval_loss < 8
    assert found.written_by == "vram-search with the package gguf"
