"""The tools that train a configuration: versions, keys, defaults, and keys of earlier versions.

Export, import and estimate read them here. Needs no pydantic.
"""

from vram_search.tools.axolotl import AXOLOTL
from vram_search.tools.keys import ToolKeys
from vram_search.tools.llamafactory import LLAMA_FACTORY
from vram_search.tools.training_arguments import PEFT, UNSLOTH
from vram_search.tools.trl import TRL

EXPORTED: dict[str, ToolKeys] = {
    "llama-factory": LLAMA_FACTORY,
    "axolotl": AXOLOTL,
    "trl": TRL,
    "unsloth": UNSLOTH,
    "peft": PEFT,
}
"""The tools that an export is written for, by the name that `export --to` takes."""

__all__ = ["AXOLOTL", "EXPORTED", "LLAMA_FACTORY", "PEFT", "TRL", "UNSLOTH", "ToolKeys"]
