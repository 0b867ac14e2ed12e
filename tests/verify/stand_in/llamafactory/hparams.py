"""The file and what overrides it, from the command line."""

import sys
from pathlib import Path
from types import SimpleNamespace

import yaml


def get_train_args() -> tuple[SimpleNamespace, ...]:
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config |= dict(argument.split("=") for argument in sys.argv[2:])
    return (SimpleNamespace(**config),) * 5
