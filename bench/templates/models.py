"""Much used models: vocabulary, chat template, and the template of LLaMA-Factory."""

from __future__ import annotations

from dataclasses import dataclass

OWN = "own"
_IM = ("<|im_start|>", "<|im_end|>")
_PHI = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>")
_PHI_4 = ("<|im_start|>", "<|im_sep|>", "<|im_end|>")
_TOOLS = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_R1 = (
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),  # noqa: RUF001
    *("<think>", "</think>"),
)
R1_DISTILL = "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja"
"""The published template of all R1-Distill models, as llama.cpp's models/templates has it."""
_MISTRAL = ("[INST]", "[/INST]", *_TOOLS, "[TOOL_CALLS]")


@dataclass(frozen=True)
class UsedModel:
    """A model and what its tokenizer is made of.

    Attributes:
        vocabulary: folder of a tokenizer with the model's vocabulary.
        template: `own` (the tokenizer's), `x.jinja` (a file), or a name that `dataset.template`
            takes.
        other: LLaMA-Factory's template.
        added: special tokens that the model adds to the vocabulary.
        end: its end token, if that is another than the vocabulary's.
        begin: its begin token, likewise.
    """

    title: str
    vocabulary: str
    template: str
    other: str
    added: tuple[str, ...] = ()
    end: str = ""
    begin: str = ""


MODELS = (
    UsedModel("Qwen2.5 and Qwen2.5-Coder Instruct", "qwen3", "qwen_25.jinja", "qwen"),
    UsedModel("Qwen2-VL and Qwen2.5-VL Instruct", "qwen3", "qwen2_vl.jinja", "qwen2_vl"),
    UsedModel("Qwen3", "qwen3", OWN, "qwen3"),
    UsedModel("Qwen3, without thoughts", "qwen3", "qwen3_nothink", "qwen3_nothink"),
    UsedModel("Qwen3.5", "qwen3_5", "qwen3_5.jinja", "qwen3_5"),
    UsedModel("Llama 3 Instruct", "llama3", OWN, "llama3"),
    UsedModel("Llama 3.1 and 3.3 Instruct", "llama3_1", OWN, "llama3"),
    UsedModel("Llama 3.2 Vision Instruct", "llama3_1", "llama3_2_vision.jinja", "llama3"),
    UsedModel("Hermes 3 Llama 3.1", "llama3_1", "chatml.jinja", "chatml", _IM, _IM[1]),
    UsedModel("Llama 2 Chat", "llama2", "llama2", "llama2"),
    UsedModel("TinyLlama Chat", "llama2", "zephyr", "zephyr"),
    UsedModel("Vicuna", "llama2", "vicuna", "vicuna"),
    UsedModel("Phi 3.5 mini", "llama2", "phi_35.jinja", "phi", _PHI, "<|end|>"),
    UsedModel("Mistral 7B Instruct v0.1", "mistral_v1", "mistral_v1.jinja", "mistral"),
    UsedModel("Mistral 7B Instruct v0.3", "mistral_v3", "mistral_v2v3.jinja", "mistral", _MISTRAL),
    UsedModel("Mistral Nemo", "tekken", "mistral_v3_tekken.jinja", "ministral"),
    UsedModel("Mistral Small 3", "tekken", "mistral_v7_tekken.jinja", "mistral_small"),
    UsedModel("Pixtral 12B", "tekken", "pixtral.jinja", "pixtral"),
    UsedModel("Zephyr 7B", "mistral_v1", "zephyr", "zephyr"),
    UsedModel("OpenHermes 2.5", "mistral_v1", "chatml.jinja", "chatml", _IM, _IM[1]),
    UsedModel("Gemma 3", "gemma3", OWN, "gemma3"),
    UsedModel("Gemma 3n", "gemma3", "gemma3n.jinja", "gemma3n"),
    UsedModel("DeepSeek V3", "deepseek_v3", OWN, "deepseek3"),
    UsedModel("SmolLM2 Instruct", "smollm2", OWN, "smollm"),
    UsedModel("Gemma 2", "gemma2", "gemma2", "gemma2"),
    UsedModel("Yi 1.5 Chat", "yi", "yi", "yi", end="<|im_end|>"),
    UsedModel("Phi 4", "gpt35turbo", "phi_4.jinja", "phi4", _PHI_4, "<|im_end|>"),
    UsedModel("R1-Distill-Qwen", "qwen3", R1_DISTILL, "deepseekr1", _R1, _R1[1], _R1[0]),
    UsedModel("R1-Distill-Llama", "llama3_1", R1_DISTILL, "deepseekr1", _R1, _R1[1], _R1[0]),
    UsedModel("gpt-oss", "gptoss", "gptoss.jinja", "gpt_oss"),
)
