"""Writes the shipped module trees from the classes of transformers.

    python -m bench.shipped_trees           # two to ten minutes on one core
    python -m bench.shipped_trees --check gemma-3-4b lfm2-1.2b
    python -m bench.shipped_trees --only glm-4.5 glm-5    # the other lines stay as they are

A light installation has neither torch nor transformers; it reads the trees of shipped shapes
without a formula from configs/models/trees.jsonl.gz. Run this after a shape is added, and for a
new version of transformers. `--check` compares the file with the classes and writes nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
from typing import Any

from vram_search.errors import InputError, VramSearchError
from vram_search.installed import installed_version
from vram_search.model_code.__main__ import tree_of
from vram_search.models.shipped_trees import PLACE, configuration_key, shipped_tree, trees_file
from vram_search.resources import shipped
from vram_search.spec.config_fields import load_config
from vram_search.spec.model_tree import FORMAT
from vram_search.spec.shape import load_shape, shape_names


def main(arguments: list[str] | None = None) -> int:
    """Writes the file, or compares it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", nargs="*", metavar="SHAPE", help="compare these, or all")
    parser.add_argument("--only", nargs="+", metavar="SHAPE", help="write these alone")
    parsed = parser.parse_args(arguments)
    check = parsed.check
    logging.disable(logging.WARNING)
    if check is not None:
        differing = [slug for slug in check or without_formula() if differs(slug)]
        print(f"differing: {', '.join(differing) or 'none'}")
        return 1 if differing else 0
    lines = _written() if parsed.only else {}
    for slug in parsed.only or without_formula():
        key, data = configuration_key(values_of(slug)), read_from_class(slug)
        if "no model_type" in data.get("fault", "no model_type"):  # others depend on the machine
            lines[key] = f"{key}\t{json.dumps(data)}\n"
        print(slug, data.get("fault", ""), file=sys.stderr, flush=True)
    text = "".join(lines[key] for key in sorted(lines))
    trees_file().write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(lines)} trees in {trees_file()}")
    return 0


def _written() -> dict[str, str]:
    """Returns the lines of the file by their keys."""
    with gzip.open(trees_file(), "rt", encoding="utf-8", newline="") as file:
        return {line.partition("\t")[0]: line for line in file}


def without_formula() -> list[str]:
    """Returns the shipped shapes whose weights and layers are read from the module tree."""
    return [slug for slug in shape_names() if not has_formula(slug)]


def has_formula(slug: str) -> bool:
    """Returns True if the shape is read from config.json alone."""
    try:
        return not load_shape(shipped("configs", "models", slug, "config.json")).not_modelled
    except InputError:
        return False


def differs(slug: str) -> bool:
    """Returns True if the class builds another tree than the shipped one."""
    stored, built = shipped_tree(values_of(slug), PLACE), read_from_class(slug)
    same = {"transformers_version": ""}
    return stored is None or {**stored, **same} != {**json.loads(json.dumps(built)), **same}


def values_of(slug: str) -> dict[str, Any]:
    """Returns the shape's config.json."""
    return load_config(shipped("configs", "models", slug, "config.json"))


def read_from_class(slug: str) -> dict[str, Any]:
    """Returns the JSON of the tree, or the fault that transformers has with the configuration."""
    file = shipped("configs", "models", slug, "config.json")
    try:
        return tree_of(file).to_json()
    except VramSearchError as error:
        return {
            "format": FORMAT,
            "transformers_version": installed_version("transformers"),
            "fault": error.message.replace(str(file), PLACE),
            "remedy": error.remedy,
        }


if __name__ == "__main__":
    sys.exit(main())
