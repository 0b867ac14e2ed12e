"""Finds the training that a shell script starts, and its flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_STARTS = {
    "llamafactory": r"(llamafactory-cli|lmf) train|\S*src/(train|train_bash|finetune)\.py",
    "trl": r"trl (sft|dpo|kto|reward|orpo|grpo|rloo|gkd)"
    r"|\S*scripts/(run_)?(sft|dpo|kto|orpo|reward_modeling)\.py",
    "axolotl": r"axolotl train|-m axolotl\.cli\.train",
    "ms-swift": r"(swift|megatron) (sft|pt|rlhf)|\S*swift/cli/(sft|pt|rlhf)\.py",
    "torchtune": r"tune run",
    "autotrain": r"autotrain",
    "litgpt": r"litgpt (finetune|pretrain)\w*",
    "ludwig": r"ludwig (train|experiment)",
    "mlx": r"mlx_lm[. ]lora",
    "nemo": r"(nemo )?automodel (finetune|pretrain)|nemo llm (finetune|pretrain)"
    r"|\S*megatron_gpt_\w*tuning\.py",
    "openrlhf": r"\S*openrlhf[./]cli[./]train_\w+(\.py)?",
    "oumi": r"oumi train|-m oumi(\.core)?\.train",
    "torchtitan": r"-m torchtitan\.train|\S*torchtitan/train\.py",
    "verl": r"-m verl\.[\w.]+|\S*verl/trainer/\w+\.py",
    "xtuner": r"xtuner train|\S*xtuner/v1/train/cli/\w+\.py",
}
"""Tool -> how a command line starts its training."""
_MODULES = {
    "xtuner": "xtuner",
    "openrlhf": "openrlhf",
    "verl": "verl",
    "torchtitan": "torchtitan",
    "mlx_lm": "mlx",
    "oumi": "oumi",
    "ludwig": "ludwig",
    "nemo": "nemo",
    "nemo_automodel": "nemo",
    "litgpt": "litgpt",
    "torchtune": "torchtune",
    "swift": "ms-swift",
    "unsloth": "unsloth program",
}
"""Python package -> its tool; one that builds on others stands before them."""
_IMPORT = re.compile(r"\b(?:from|import) (\w+)")
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(\S+|\"[^\"]*\"|'[^']*')\s*(?:#.*)?")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Command:
    """A command that starts a training.

    Attributes:
        tool: as `tools.detect` names it.
        file: the training file that it passes on; empty for none.
        flags: name -> value of its flags: a text, a list of several, or true for none.
    """

    tool: str
    file: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)


def training_command(script: str) -> Command | None:
    """The first command of a shell script that starts a training of a known tool.

    Variables that the script itself sets are replaced by their values.
    """
    variables: dict[str, str] = {}
    for line in script.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        if assigned := _ASSIGNMENT.fullmatch(line.strip()):
            variables[assigned[1]] = _filled(assigned[2].strip("\"'"), variables)
            continue
        filled = _filled(line, variables)
        for tool, pattern in _STARTS.items():
            found = re.search(rf"(?:^|\s)(?:{pattern})(?=\s|$)", filled)
            if found and not filled.lstrip().startswith("#"):
                return _command(tool, filled[found.end() :])
    return None


def imported_tool(program: str) -> str | None:
    """The tool whose package a Python program or notebook imports; None for none that is known."""
    imported = set(_IMPORT.findall(program))
    return next((tool for module, tool in _MODULES.items() if module in imported), None)


def _filled(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), text)


def _command(tool: str, arguments: str) -> Command:
    try:
        words = shlex.split(arguments, comments=True)
    except ValueError:  # a quotation that does not end in its line
        words = arguments.split()
    config = next((i for i, word in enumerate(words) if word in ("--config", "-c")), None)
    passed = words[config + 1 : config + 2] if config is not None else words[:1]
    if passed and passed[0].endswith(_FILES):
        return Command(tool, passed[0])
    return Command(tool, flags=_flags(words))


def _flags(words: list[str]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word in ("|", "||", "&&", "&", ";", ">", ">>", "2>&1"):
            break
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if value else []
        elif name:
            found[name].append(word)
    return {
        name: True if not values else values[0] if len(values) == 1 else values
        for name, values in found.items()
    }
