"""Chooses LLaMA-Factory's template for a trial."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from vram_search.data.templates import template_text
from vram_search.errors import InputError
from vram_search.export.chat_template import (
    ChatTemplate,
    count_differing,
    load_chat_template,
    match_template,
)
from vram_search.export.template import (
    Template,
    named_template,
    slots_for,
    template_by_name,
)
from vram_search.export.trial import ExportedTrial

ROWS_COMPARED = 200
"""Number of rows per split to compare with the model's own chat template."""


def choose_template(trial: ExportedTrial, named: str | None) -> Template:
    """Chooses the template: the named one; else the one that gives the rows the same text as the
    model's own chat template; else the one known for the model's name.

    Raises:
        InputError: LLaMA-Factory has no template of that name, or no template is known for the
            model.
    """
    when = trial.prompt_date
    chosen = named_template(named) if named else None
    folder = Path(trial.tokenizer or trial.model)
    chat = load_chat_template(folder) if folder.is_dir() else None
    own = trial.study.spec["dataset"].get("template")
    if own is not None:
        chat = replace(chat or ChatTemplate("", "", ""), text=template_text(own))
    if chat is None:
        return chosen or template_by_name(trial.model, model_type_of(trial), when)
    rows = trial.rows
    compared = list(chain(islice(rows.train, ROWS_COMPARED), islice(rows.eval, ROWS_COMPARED)))
    if chosen is None:
        known = None
        with contextlib.suppress(InputError):
            known = template_by_name(trial.model, model_type_of(trial), when)
        slots = slots_for(model_type_of(trial))
        if matched := match_template(chat, compared, known.name if known else None, when, slots):
            return matched
        chosen = known or template_by_name(trial.model, model_type_of(trial), when)  # or raises
    differing = count_differing(chosen, chat, compared, when)
    if differing is None:
        return chosen
    note = f"other text than the model's own chat template in {differing} of {len(compared)} rows"
    return Template(chosen.name, chosen.default_system, note)


def model_type_of(trial: ExportedTrial) -> str | None:
    """Returns the model_type of the whole model; None if it is not known."""
    if trial.wrapper is not None:
        return trial.wrapper.model_type
    found: str | None = trial.study.model.get("model_type")
    return found
