"""Traces one micro-batch of every causal family and wrapper of transformers.

    python -m bench.trace.every_family [--family NAME ...] [--seconds 120] [--out FILE]

Each family has the default configuration of its class with a few layers, and an adapter on what
`lora_target: all` finds. A line names the requests of one row of 128 tokens, or why there is no
trace. It shows which kinds of models the trace cannot follow; errors in bytes are the subject of
`bench.trace.families`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from vram_search.model_code.light_imports import light_imports
from vram_search.resources import shipped
from vram_search.spec.config_fields import load_config
from vram_search.spec.model_tree import name_expression
from vram_search.spec.shape import shape_names

FEW = 4
"""Layers of a traced model; a pattern of kinds that is longer keeps its own number."""
FUSED_KERNELS = ("fla", "mamba_ssm", "causal_conv1d")


def configuration(model_type: str) -> dict[str, Any]:
    """The default configuration of a family's class, as a config.json."""
    from vram_search.model_code.build import load_config as class_of

    config = class_of({"model_type": model_type}, model_type)
    values = json.loads(json.dumps(config.to_diff_dict(), default=str))
    return {**values, "model_type": model_type}


def families() -> list[str]:
    """All model_types with a causal model or a model of text and images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    found = set()
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        found |= {config.model_type for config in auto._model_mapping}
    return sorted(found)


def traced(model_type: str) -> str:
    """Traces a family; returns a line about it. Where its default configuration cannot be traced, a
    shipped one of that family is."""
    try:
        return traced_configuration(model_type, configuration(model_type))
    except Exception:  # a class may fail in any way
        slug = published(model_type)
        if slug is None:
            raise
        values = load_config(shipped("configs", "models", slug, "config.json"))
        return f"{traced_configuration(model_type, values)} ({slug}, not its default)"


def published(model_type: str) -> str | None:
    """A shipped shape of a family."""
    for slug in shape_names():
        file = shipped("configs", "models", slug, "config.json")
        if load_config(file).get("model_type") == model_type:
            return slug
    return None


def traced_configuration(model_type: str, values: dict[str, Any]) -> str:
    """Traces a configuration; returns a line about it."""
    from vram_search.model_code.build import auto_class, build
    from vram_search.model_code.build import load_config as class_of
    from vram_search.model_code.read import read_tree
    from vram_search.trace.settings import TraceSettings

    config = class_of(values, model_type)
    tree = read_tree(build(config), auto_class(config).__name__, values)
    if not tree.lora_targets:
        return "no linear layer that `all` finds"
    target = name_expression(tree.lora_targets)
    settings = TraceSettings(target, gradient_checkpointing=False)
    try:
        return recorded(values, settings, "few")
    except Exception:  # as `trace` does it
        return recorded(values, settings, "as one")


def recorded(values: dict[str, Any], settings: Any, kept_layers: Any) -> str:
    """Records a micro-batch of a family; returns a line about it."""
    from vram_search.trace.settings import Batch
    from vram_search.trace.training import traced_model

    with traced_model(values, settings, kept_layers) as model:
        recording = model.record(Batch(1, 128))
        requests = sum(size >= 0 for size, _ in recording.training.events)
        words = f"{len(model.kept.places)} layers, {requests} requests"
        return words + (", by the routing to experts" if model.depends_on_routing else "")


class _SecondsAreOver(BaseException):
    """Not an Exception, so that no second attempt begins."""


def _give_up(_number: int, _frame: object) -> None:
    raise _SecondsAreOver("the family's seconds are over")


def main() -> None:
    """Prints a line for each family."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", nargs="+", help="model_types; without it all")
    parser.add_argument("--seconds", type=int, default=180, help="limit of a family (Linux)")
    parser.add_argument("--out", type=Path, help="appends the lines; families in it are left out")
    arguments = parser.parse_args()
    for name in FUSED_KERNELS:
        sys.modules[name] = None  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with light_imports():
        import peft  # noqa: F401
    signal.signal(signal.SIGALRM, _give_up)
    out = arguments.out
    known = out.read_text(encoding="utf-8") if out is not None and out.exists() else ""
    done = {line.split()[0] for line in known.splitlines()}
    for family in arguments.family or families():
        if family in done:
            continue
        began = time.perf_counter()
        signal.alarm(arguments.seconds)
        try:
            words = traced(family)
        except (Exception, _SecondsAreOver) as error:  # a class may fail in any way
            first = (str(error).strip().splitlines() or [""])[0]
            words = f"FAILED {type(error).__name__}: {first[:200]}"
        finally:
            signal.alarm(0)
        line = f"{family:28} {time.perf_counter() - began:5.1f} s  {words}"
        print(line, flush=True)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
