"""The tools that `verify` can start: their packages, their environment, and how they are run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RealTool:
    """A tool that trains an export.

    Attributes:
        name: as `export --to` and `verify --with` take it.
        title: its name in messages.
        packages: whose versions are recorded; its own first.
        program: name on the PATH whose Python is the tool's; empty: the Python that runs us.
        install: arguments of pip that make an environment for it.
        target: module that trains, or the script beside the export; empty for LLaMA-Factory.
        first: module to import before transformers.
        is_script: True if the target is the exported script, whose rows need no model.
        needs_gpu: True if it cannot train on a CPU.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    program: str
    install: str
    target: str = ""
    first: str = "-"
    is_script: bool = False
    needs_gpu: bool = False

    @property
    def how_to_make_one(self) -> str:
        """The commands that make an environment of its own."""
        return (
            f"make one: python3 -m venv {self.name}, then {self.name}/bin/python -m pip install "
            f"{self.install}, and name it: --python {self.name}/bin/python"
        )


_STACK = ("torch", "transformers", "peft", "bitsandbytes")

LLAMA_FACTORY = RealTool(
    "llama-factory",
    "LLaMA-Factory",
    ("llamafactory", *_STACK),
    "llamafactory-cli",
    # torch is pinned for torchaudio: the last torchaudio is for torch 2.11, and pip alone would
    # install a newer torch with it.
    "torch==2.11.0 torchaudio==2.11.0 llamafactory==0.9.5 bitsandbytes",
)
TRL = RealTool(
    "trl",
    "TRL",
    ("trl", *_STACK),
    "trl",
    "trl==1.16.0 peft bitsandbytes",
    target="trl.scripts.sft",
)
PEFT = RealTool(
    "peft",
    "peft",
    ("peft", "torch", "transformers", "bitsandbytes"),
    "",
    "torch transformers peft bitsandbytes accelerate pyyaml jinja2",
    target="train_trial.py",
    is_script=True,
)
AXOLOTL = RealTool(
    "axolotl",
    "Axolotl",
    ("axolotl", *_STACK),
    "axolotl",
    "axolotl==0.19.0",
    target="axolotl.cli.train",
)
UNSLOTH = RealTool(
    "unsloth",
    "Unsloth",
    ("unsloth", *_STACK),
    "unsloth",
    "unsloth==2026.10.9 pyyaml",
    target="train_trial.py",
    first="unsloth",
    is_script=True,
    needs_gpu=True,
)
REAL_TOOLS = {tool.name: tool for tool in (LLAMA_FACTORY, AXOLOTL, TRL, UNSLOTH, PEFT)}
