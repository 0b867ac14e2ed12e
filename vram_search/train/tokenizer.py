"""The tokenizer of the base model, or one of plain bytes for work with random weights."""

from __future__ import annotations

from typing import Any

from vram_search.errors import InputError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer(name_or_path: str | None) -> Any:
    """A fast tokenizer with a chat template and a padding token.

    Args:
        name_or_path: folder or hub name; None gives the byte tokenizer.

    Raises:
        InputError: it cannot be loaded, or has no chat template.
    """
    if name_or_path is None:
        return byte_tokenizer()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {name_or_path}: {_first_line(error)}",
            "name one under model.tokenizer",
        ) from None
    if tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {name_or_path} has no chat template",
            "use the instruction-tuned model, or name its tokenizer under model.tokenizer",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def byte_tokenizer() -> Any:
    """One token a byte, ChatML turns; its length is the text's, which is all memory work needs."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
