"""Hub names of models that are no text models, so that they are refused without network."""

from __future__ import annotations

import re

_KINDS = {
    "a speech recognition model": r"(openai|unsloth)/whisper-.*|.*/.*whisper.*|.*/wav2vec2-.*"
    r"|.*/parakeet-.*|.*/canary-.*|.*/.*[-_]asr[-_].*|.*/distil-(small|medium|large).*",
    "a speech synthesis model": r"sesame/csm-.*|unsloth/csm-.*|suno/bark.*|.*/kokoro-.*"
    r"|.*/xtts.*|.*/vibevoice.*|.*/dia-.*|.*/.*[-_]tts([-_].*)?|.*/speecht5.*|.*/parler-tts.*|.*/f5-tts.*",
    "an image generation model": r".*/stable-diffusion-.*|.*/sdxl.*|.*/flux\.[12].*"
    r"|.*/qwen-image.*|.*/z-image.*|.*/kandinsky-.*|.*/pixart-.*",
    "a video generation model": r".*/wan2\..*|.*/cogvideox.*|.*/hunyuanvideo.*|.*/ltx-video.*",
    "an embedding model": r".*/bge-.*|sentence-transformers/.*|intfloat/.*e5-.*|thenlper/gte-.*"
    r"|.*/all-minilm.*|.*/nomic-embed-.*|.*/mxbai-embed-.*|.*/jina-embeddings-.*"
    r"|.*/snowflake-arctic-embed.*|.*/embeddinggemma.*|.*/qwen3-embedding.*",
    "an encoder": r"(google-bert/)?bert-.*|(facebookai/)?(xlm-)?roberta-.*|distilbert/.*"
    r"|(microsoft/)?deberta-.*|answerdotai/modernbert-.*|google/electra-.*|albert/.*"
    r"|camembert/.*|almanach/camembert.*",
    "an encoder-decoder model": r"(google-t5/)?t5-.*"
    r"|google/(flan-t5|mt5|t5|t5gemma|byt5|ul2|pegasus)-.*"
    r"|facebook/(bart|mbart|nllb|m2m100)-.*|bigscience/t0.*|bigscience/mt0-.*|helsinki-nlp/.*",
    "an image model": r"google/(vit|siglip2?)-.*|.*/clip-vit.*|openai/clip-.*"
    r"|facebook/(dinov[23]|sam|detr)-.*|laion/clip-.*|microsoft/resnet-.*|timm/.*",
}
"""Kind of model -> a pattern for its hub names in lower case."""


def other_kind(name: str) -> str:
    """Returns the kind of a model that is certainly no causal text model; "" for any other.

    The owner may be left out, and Ollama's ":" may stand before the size.
    """
    lower = re.sub(r"[: ]", "-", name.lower())
    written = [lower] if "/" in lower else [lower, f"/{lower}"]
    return next(
        (kind for kind, names in _KINDS.items() for one in written if re.fullmatch(names, one)), ""
    )
