"""Finds the training that a script, notebook, Dockerfile or job starts, and its flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vram_search.tools.launch_lines import LaunchText

_STARTS = {
    "llamafactory": r"(llamafactory-cli|lmf)(\.exe)? train|-m llamafactory\.(cli|launcher)( train)?"
    r"|src/(train|train_bash|finetune|train_(pt|sft|rm|dpo|ppo))\.py",
    "trl": r"trl (sft|dpo|kto|reward|orpo|grpo|rloo|gkd)"
    r"|scripts/(run_)?(sft|dpo|kto|orpo|reward_modeling)\.py"
    r"|-m trl\.scripts\.(sft|dpo|kto|orpo|reward)|open_r1/(sft|grpo)\.py",
    "axolotl": r"axolotl train|-m axolotl\.cli\.train|scripts/finetune\.py(?=\s+\S+\.ya?ml)",
    "ms-swift": r"(swift|megatron) (sft|pt|rlhf)|swift/cli/(sft|pt|rlhf)\.py",
    "torchtune": r"tune run",
    "autotrain": r"autotrain( llm)?(?=\s+--)",
    "litgpt": r"litgpt (finetune|pretrain)\w*",
    "ludwig": r"ludwig (train|experiment)",
    "mlx": r"mlx_lm[. ]lora",
    "nemo": r"(nemo )?automodel (finetune|pretrain)|nemo llm (finetune|pretrain)"
    r"|megatron_gpt_\w*tuning\.py",
    "openrlhf": r"openrlhf[./]cli[./]train_\w+(\.py)?",
    "oumi": r"oumi train|-m oumi(\.core)?\.train",
    "torchtitan": r"-m torchtitan\.train|torchtitan/train\.py",
    "verl": r"-m verl\.[\w.]+|verl/trainer/\w+\.py",
    "xtuner": r"xtuner train|xtuner/v1/train/cli/\w+\.py",
}
"""Tool -> how a command line starts its training."""
_IMPLIED: dict[tuple[str, str], Mapping[str, Any]] = {
    **{("llamafactory", f"train_{name}"): {"stage": name} for name in ("pt", "rm", "ppo", "dpo")},
    **{("trl", name): {"beta": 0.1} for name in ("dpo", "run_dpo", "orpo", "run_orpo")},
    ("trl", "kto"): {"desirable_weight": 1.0},
    ("trl", "reward"): {"center_rewards_coefficient": 0.0},
    ("trl", "reward_modeling"): {"center_rewards_coefficient": 0.0},
    **{("trl", name): {"num_generations": 2} for name in ("grpo", "rloo")},
}
"""Tool and last word of its command -> the key, with its default, that tells the kind of training:
the command says it, and the flags need not."""
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
_BEFORE = r"(?:^|[\s\"'(;&|!])(?:[^\s\"'(;&|!]{0,300}/)?"
"""Before the name of a program may stand a quotation mark, and its folder. A line is read once for
each pattern, however long a word in it is."""
_SAYS = ("#", "echo ", "printf ", "rem ", "::", "write-host ", "write-output ")
"""Lines that only print a command begin so, in lower case."""
_FILES = (".yaml", ".yml", ".json", ".jsonc", ".json5")
_CONFIG = ("--config", "-c")
_ENDS = ("|", "||", "&&", "&", ";", ">", ">>", "2>&1", "&>", "1>", "2>")
_SHARES = re.compile(r"--config_file[= ](\S*(?:zero|deepspeed|fsdp)\S*)", re.IGNORECASE)
"""Accelerate's configuration of a training that shares its states out, by its name."""
_OVERRIDE = re.compile(r"[A-Za-z_]\w*=.*")


@dataclass(frozen=True)
class Command:
    """A command that starts a training.

    Attributes:
        tool: as `tools.detect` names it.
        file: the training file that it passes on; empty for none.
        flags: name -> value of its flags: a text, a list of several, or true for none. With a file
            they stand for the file's keys.
        implied: keys that the command itself implies, where neither flags nor file hold them.
    """

    tool: str
    file: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)
    implied: Mapping[str, Any] = field(default_factory=dict)


def training_command(text: LaunchText) -> Command | None:
    """The first command that starts a training of a known tool.

    Variables that the text itself sets are replaced by their values.
    """
    for line in text.lines:
        if line.lower().startswith(_SAYS):
            continue
        for tool, pattern in _STARTS.items():
            found = re.search(rf"{_BEFORE}(?:{pattern})(?=[\s\"')]|$)", line)
            if found:
                arguments = _arguments(line, found.end())
                last = re.findall(r"\w+", found[0].removesuffix(".py"))[-1]
                implied = dict(_IMPLIED.get((tool, last), {}))
                if shares := _SHARES.search(line[: found.start()]):
                    implied["deepspeed"] = shares[1]
                return _command(tool, arguments, implied)
    return None


def imported_tool(program: str) -> str | None:
    """The tool whose package a Python program or notebook imports; None for none that is known."""
    imported = set(_IMPORT.findall(program))
    return next((tool for module, tool in _MODULES.items() if module in imported), None)


def _arguments(line: str, end: int) -> str:
    """The rest of a line, up to the mark that ends the quotation in which the command stands
    (`bash -c "..."`)."""
    rest = line[end:]
    for mark in "\"'":
        if line[:end].count(mark) % 2:
            rest = rest.partition(mark)[0]
    return rest


def _command(tool: str, arguments: str, implied: Mapping[str, Any]) -> Command:
    try:
        words = shlex.split(arguments.replace("--config=", "--config "), comments=True)
    except ValueError:  # a quotation that does not end in its line
        words = arguments.split()
    words = words[: next((i for i, word in enumerate(words) if word in _ENDS), len(words))]
    place = _place_of_file(tool, words)
    if place is None:
        return Command(tool, flags=_flags(words), implied=implied)
    others = words[: place - 1 if place and words[place - 1] in _CONFIG else place]
    others += words[place + 1 :]
    pairs = (word.split("=", 1) for word in others if _OVERRIDE.fullmatch(word))
    flags = {**_flags(others), **{name: value for name, value in pairs}}
    return Command(tool, words[place], flags, implied)


def _place_of_file(tool: str, words: Sequence[str]) -> int | None:
    """Where the training file stands: behind --config, or first; Axolotl's may follow options. A
    variable without a value that stands first is one, too."""
    for place, word in enumerate(words):
        is_passed = not place or words[place - 1] in _CONFIG
        if word.endswith(_FILES) and is_passed:
            return place
    if words and words[0][:1] in ("$", "%", "{"):
        return 0
    places = (place for place, word in enumerate(words) if word.endswith((".yaml", ".yml")))
    return next(places, None) if tool == "axolotl" else None


def _flags(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, is_joined, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if is_joined and value else []
        elif name and not (_OVERRIDE.fullmatch(word) and found[name]):
            found[name].append(word)
    return {
        name: True if not values else values[0] if len(values) == 1 else values
        for name, values in found.items()
    }
