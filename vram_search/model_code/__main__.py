"""Prints the module tree of a config.json as JSON."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from vram_search.errors import VramSearchError
from vram_search.spec.model_tree import ModelTree


def main() -> None:
    """Reads the config.json that the first argument names; prints a tree, or a fault with words."""
    logging.disable(logging.WARNING)
    try:
        print(json.dumps(tree_of(Path(sys.argv[1])).to_json()))
    except VramSearchError as error:
        print(json.dumps({"fault": error.message, "remedy": error.remedy}))


def tree_of(path: Path) -> ModelTree:
    """Returns the tree of a config.json, or of the one in a folder.

    Raises:
        InputError: transformers cannot build the model.
    """
    from vram_search.model_code.light_imports import light_imports

    with light_imports():
        from vram_search.model_code.build import auto_class, build, load_config, read_values
        from vram_search.model_code.read import read_tree

    values = read_values(path)
    config = load_config(values, str(path))
    return read_tree(build(config), auto_class(config).__name__, values)


if __name__ == "__main__":
    main()
