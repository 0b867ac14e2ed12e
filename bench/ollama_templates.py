"""Every chat template that a study can name as the Modelfile's template, rendered by Go.

    python -m bench.ollama_templates [FILE.jinja ...]

Ollama renders its templates with Go's text/template; `bench/ollama_templates.go` does the same.
Needs Go on the PATH (Debian's golang-go).
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from vram_search.data.chat_render import template_renderer
from vram_search.data.templates import template_names, template_text
from vram_search.errors import InputError
from vram_search.train.ollama_template import (
    TRIMMED,
    Turn,
    check_texts,
    renderer,
    turn_texts,
)

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
CONVERSATIONS: list[list[Turn]] = [
    [("user", 'a "quoted" question?\n\n')],
    [("user", "and {{ braces }} \\n?"), ("assistant", "`an` answer é 語"), ("user", "%s <b>&")],
    [("system", "Be kind.\nAlways."), ("user", "\tindented")],
    [("system", "x"), ("user", "1"), ("assistant", "2"), ("user", "3")],
]


def main() -> None:
    """Prints each template's result and the counts."""
    parser = argparse.ArgumentParser(prog="python -m bench.ollama_templates", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE.jinja", help="default: all that ship")
    names = parser.parse_args().files or template_names()
    asked: list[tuple[str, str, list[Turn], str]] = []
    refused = 0
    for name in names:
        try:
            render = renderer(template_renderer(template_text(name), SPECIAL, date(2024, 7, 26)))
            texts = turn_texts(render)
            remarks = check_texts(texts, render)
        except InputError as error:
            refused += 1
            print(f"{name}: refused: {error}")
            continue
        trims, places_system = TRIMMED in remarks, not set(remarks) - {TRIMMED}
        for turns in CONVERSATIONS:
            if trims:
                turns = [(role, content.strip()) for role, content in turns]
            if places_system or turns[0][0] != "system":
                asked.append((name, texts.go_template(), turns, render(turns)))
    differ = 0
    for (name, _, turns, wanted), text in zip(asked, rendered_by_go(asked), strict=True):
        if text != wanted:
            differ += 1
            print(f"{name}: {turns}\n  Go:    {text!r}\n  Jinja: {wanted!r}")
    used = len({name for name, *_ in asked})
    print(f"{len(asked)} conversations of {used} templates, {differ} differ, {refused} refused")


def rendered_by_go(asked: list[tuple[str, str, list[Turn], str]]) -> list[str]:
    """Renders each conversation with its Go template."""
    cases = [
        {
            "template": template,
            "messages": [{"role": role, "content": content} for role, content in turns],
        }
        for _, template, turns, _ in asked
    ]
    done = subprocess.run(
        ["go", "run", str(Path(__file__).with_suffix(".go"))],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    texts: Any = json.loads(done.stdout)
    return list(texts)


if __name__ == "__main__":
    main()
