"""A trial as files for the tools that train it: so far LLaMA-Factory 0.9.5."""

from vram_search.export.llamafactory import llamafactory_files, parse_llamafactory
from vram_search.export.schema import check_llamafactory
from vram_search.export.template import Template, named_template, template_by_name
from vram_search.export.write import write_export

__all__ = [
    "Template",
    "check_llamafactory",
    "llamafactory_files",
    "named_template",
    "parse_llamafactory",
    "template_by_name",
    "write_export",
]
