"""Describes a tool for the export and builds the files for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.export.evaluation import as_evaluated, evaluation_notes
from vram_search.export.fields import LORA_MODULES
from vram_search.export.launch import Launch
from vram_search.export.provenance import provenance
from vram_search.export.template import Template
from vram_search.export.trial import ExportedTrial
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.point import Hyperparameters
from vram_search.tools import ToolKeys

Groups = dict[str, dict[str, Any]]
"""Keys and values of a configuration, grouped by heading."""


@dataclass(frozen=True)
class Tool:
    """A tool that trains an exported trial.

    Attributes:
        keys: the tool's version and its spelling of the keys.
        ending: ending of its files' names, before `.yaml`, `.sh` and `.ps1`.
        config: returns the trial under the tool's own keys.
        notes: returns notes on settings without a key there or that the tool treats differently.
        chat_template: describes how the rows become text, for the provenance.
        packs_evaluation: True if it joins the evaluation rows of a trial that packs.
        choose_template: the template that the tool renders a trial's rows with, given the name that
            the user gives; None if the tool reads the tokenizer's own chat template.
        data_files: name -> text of the rows and their description.
        eval_tokens: length at which the tool cuts evaluation rows; None if it never has the logits
            of a whole batch in fp32.
        check: returns all faults of a configuration, given the model's linear layers.
        parse: turns a checked configuration and its whole text into (hyperparameters, plan, seed).
    """

    keys: ToolKeys
    ending: str
    launch: Launch
    config: Callable[[ExportedTrial], Groups]
    notes: Callable[[ExportedTrial], list[str]]
    chat_template: Callable[[ExportedTrial], str]
    data_files: Callable[[ExportedTrial], dict[str, str]]
    eval_tokens: Callable[[ExportedTrial], int | None]
    check: Callable[[Mapping[str, Any], Collection[str]], list[Fault]]
    parse: Callable[[Mapping[str, Any], str], dict[str, Any]]
    packs_evaluation: bool = False
    choose_template: Callable[[ExportedTrial, str | None], Template] | None = None

    @property
    def title(self) -> str:
        """Name of the tool and the version that accepts the exports."""
        return self.keys.label


def export_files(tool: Tool, trial: ExportedTrial) -> dict[str, str]:
    """Returns file name -> text with the YAML first; all files belong in one folder.

    Raises:
        FaultyFileError: the configuration would not run, or rows would be dropped.
    """
    stem = f"{trial.name}{tool.ending}"
    is_packed = tool.packs_evaluation and trial.hp.packing
    trial = as_evaluated(trial, tool.eval_tokens(trial), is_packed=is_packed)
    groups = tool.config(trial)
    config = {key: value for group in groups.values() for key, value in group.items()}
    if faults := tool.check(config, trial.modules):
        raise FaultyFileError(f"{stem}.yaml", faults)
    return {
        f"{stem}.yaml": _yaml_text(tool, trial, stem, groups),
        f"{stem}.sh": tool.launch.bash_script(stem, trial.plan),
        f"{stem}.ps1": tool.launch.powershell_script(stem),
        **tool.data_files(trial),
    }


def tokenizers_own(_: ExportedTrial) -> str:
    """Describes how most tools turn rows into text."""
    return "the tokenizer's own chat template"


def _yaml_text(tool: Tool, trial: ExportedTrial, stem: str, groups: Groups) -> str:
    comments = [
        *tool.launch.lines(tool.title, stem, trial.plan),
        "",
        *provenance(trial, tool.chat_template(trial)),
        "",
        *evaluation_notes(trial, tool.title),
        *tool.notes(trial),
    ]
    lines = [f"# {line}".rstrip() for line in comments]
    for title, group in groups.items():
        lines += ["", f"### {title}"]
        for key, value in group.items():
            dumped = yaml.safe_dump(
                {key: value}, allow_unicode=True, width=math.inf, sort_keys=False
            )
            lines.append(dumped.rstrip("\n"))
    return "\n".join(lines) + "\n"


def parse_export(tool: Tool, text: str) -> dict[str, Any]:
    """Reads an exported YAML as {"hyperparameters": ..., "plan": ..., "seed": ...}.

    A list of LoRA modules that has a set's name comes back as that name. Settings that a study may
    set once, such as weight_decay, are left out: the file does not show if they were searched.

    Raises:
        InputError: the text is not YAML.
        FaultyFileError: an export never writes one of the keys or values.
    """
    try:
        config = parse_yaml(text)
    except ParseError as error:
        raise InputError(f"not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"not a configuration for {tool.title}: a mapping of keys is expected")
    if faults := tool.check(config, LORA_MODULES):
        raise FaultyFileError(f"the configuration for {tool.title}", faults)
    fields = tool.parse(config, text)
    plan = MemoryPlan(
        expandable_segments=tool.launch.has_expandable_segments(text),
        **{name: fields[name] for name in MemoryPlan.model_fields if name in fields},
    )
    names = {members: name for name, members in LORA_TARGET_SETS.items()}
    modules = tuple(fields["lora_target"])
    fields |= {
        "lora_target": names.get(modules, ",".join(modules)),
        "batch_size": plan.batch_size,
    }
    hp = Hyperparameters(
        **{
            dimension.name: fields[dimension.name]
            for dimension in DIMENSIONS
            if dimension.name in fields and not dimension.is_setting
        }
    )
    return {
        "hyperparameters": hp.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "seed": fields["seed"],
    }
