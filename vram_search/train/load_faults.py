"""Explains why transformers could not load a tokenizer or a model."""

from __future__ import annotations


def load_remedy(error: Exception, name: str, otherwise: str) -> str:
    """Returns the remedy for what the Hub answered; `otherwise` for other causes.

    The causes are read from the messages of transformers' `utils/hub.py` (5.17 to 5.24).
    """
    said = str(error)
    if "gated repo" in said:
        return (
            "its publisher wants you to accept its licence: accept it on the model's page, then "
            "set HF_TOKEN or run `hf auth login`"
        )
    if "couldn't connect to" in said or "offline mode" in said:
        return (
            f"the Hub is out of reach: check the network; or download the model on a machine with "
            f"network (`hf download {name}`), copy the folder, and name it"
        )
    if "not a valid model identifier" in said:
        return "correct the name; for a private model set HF_TOKEN or run `hf auth login`"
    return otherwise
