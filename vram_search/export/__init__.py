"""Exports a trial as files for LLaMA-Factory, Axolotl, TRL, Unsloth or peft."""

import sys

from vram_search import CallablePackage
from vram_search.export.template import Template, named_template, template_by_name
from vram_search.export.tool import Tool, export_files, parse_export
from vram_search.export.trial import ExportedTrial, exported_trial
from vram_search.export.write import TOOLS, write_export

__all__ = [
    "TOOLS",
    "ExportedTrial",
    "Template",
    "Tool",
    "export_files",
    "exported_trial",
    "named_template",
    "parse_export",
    "template_by_name",
    "write_export",
]

sys.modules[__name__].__class__ = CallablePackage
