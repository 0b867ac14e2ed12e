"""Loads the base model's tokenizer, or builds one of plain bytes for random weights."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812
from typing import Any

from vram_search.data.chat_abilities import Messages, Render
from vram_search.data.chat_render import template_renderer
from vram_search.data.templates import template_text
from vram_search.errors import InputError, first_line
from vram_search.train.load_faults import load_remedy

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer(
    name_or_path: str | None, template: str | None = None, *, is_local: bool = False
) -> Any:
    """Loads a fast tokenizer with a padding token and its chat template, if it has one.

    Args:
        name_or_path: folder or hub name; None gives the byte tokenizer.
        template: chat template instead of its own: a name of `data.templates`, or a file.
        is_local: True downloads nothing.

    Raises:
        InputError: the tokenizer cannot be loaded, or the template does not exist.
    """
    tokenizer = _load(name_or_path, is_local=is_local)
    if template is not None:
        tokenizer.chat_template = template_text(template)
    return tokenizer


def _load(name_or_path: str | None, *, is_local: bool) -> Any:
    if name_or_path is None:
        return byte_tokenizer()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=False, local_files_only=is_local
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {name_or_path}: {first_line(error)}",
            load_remedy(
                error,
                name_or_path,
                "name a folder or hub name with one (model.tokenizer in a study, or --model)",
            ),
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_renderer(tokenizer: Any, date: str) -> Render:
    """Returns the tokenizer's chat template as a function.

    Args:
        date: date for templates that ask for today's, the same in every run of a study.
    """
    renderers: dict[str, Render] = {}

    def render(
        messages: Messages, tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        text = tokenizer.get_chat_template(tools=tools)  # some have another one for tools
        if text not in renderers:
            today = Date.fromisoformat(date)
            renderers[text] = template_renderer(text, tokenizer.special_tokens_map, today)
        return renderers[text](messages, tools, add_generation_prompt)

    return render


def adds_begin_token(tokenizer: Any) -> bool:
    """True if the tokenizer puts its begin token before a text, as Llama 3's does. SmolLM2 has a
    begin token that its chat template alone writes."""
    begin = tokenizer.bos_token_id
    return begin is not None and tokenizer("a")["input_ids"][:1] == [begin]


def special_tokens(tokenizer: Any) -> list[str]:
    """Returns all special tokens, also those that only the list of added tokens names."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [*tokenizer.all_special_tokens, *added]


def byte_tokenizer() -> Any:
    """Builds a tokenizer with one token per byte and ChatML turns.

    A row's length is its text's length in bytes, which suffices to measure memory.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|im_end|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHATML
    return fast
