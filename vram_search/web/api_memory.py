"""REST endpoints that need no study: will it fit, cards, models, and uploads of rows."""

from __future__ import annotations

import contextlib
import re
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from vram_search.answers.estimate import ModelEstimate, estimate
from vram_search.answers.fit import FitAnswer, fit
from vram_search.errors import InputError, StoreError
from vram_search.models.names import hub_names
from vram_search.spec.card import Card, card_names, load_card
from vram_search.spec.dataset import SUFFIXES
from vram_search.spec.shape import shape_names
from vram_search.web.expressions import refuse_slow
from vram_search.web.paths import checked_model
from vram_search.web.request_fields import Whole
from vram_search.web.service import Service, as_json, service_of

router = APIRouter(prefix="/api/v1", tags=["memory"])
Served = Annotated[Service, Depends(service_of)]
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class EstimateRequest(BaseModel):
    """The arguments of `vram-search estimate`."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(description="Slug, hub name, or a folder of this service.")
    card: str
    lora_rank: Whole = 8
    lora_target: str = "all"
    cutoff_len: Whole = 1024
    batch: Whole = Field(default=1, description="Sequences of a micro-batch.")
    accumulate: Whole = 1
    optim: str = "adamw_8bit"
    checkpointing: bool = True
    liger: bool = False
    eager: bool = False
    quantization: str = "nf4"
    eval_batch: Whole = 0
    prepare_kbit: bool = False


class FitRequest(BaseModel):
    """The arguments of `vram-search fit`."""

    model_config = ConfigDict(extra="forbid")
    model: str
    card: str
    lora_target: str = "all"
    lora_rank: Whole = 16
    optim: str = "adamw_8bit"
    quantization: str = "nf4"
    checkpointing: bool = True
    liger: bool = False
    cutoff_len: Whole | None = None
    micro_batch: Whole | None = None


class CardSummary(BaseModel):
    """A card that is known."""

    name: str
    title: str
    total_bytes: int
    reserve_bytes: int


class ModelSummary(BaseModel):
    """A model whose shape is shipped."""

    name: str


class Upload(BaseModel):
    """A file with rows that was received."""

    path: str = Field(description="For `dataset.train` of a study.")
    bytes: int


@router.post("/estimate", response_model=ModelEstimate)
def estimate_model(asked: EstimateRequest, service: Served) -> JSONResponse:
    """Predicts the peak bytes of a training on a card. Needs no GPU."""
    arguments = asked.model_dump()
    model = checked_model(arguments.pop("model"), service.folders)
    refuse_slow([asked.lora_target])
    return as_json(estimate(model, arguments.pop("card"), **arguments))


@router.post("/fit", response_model=FitAnswer)
def fit_model(asked: FitRequest, service: Served) -> JSONResponse:
    """Predicts the largest rank, cutoff_len and micro-batch that fit a card. Needs no GPU."""
    arguments = asked.model_dump()
    model = checked_model(arguments.pop("model"), service.folders)
    refuse_slow([asked.lora_target])
    return as_json(fit(model, arguments.pop("card"), **arguments))


@router.get("/cards", response_model=list[CardSummary])
def list_cards() -> list[CardSummary]:
    """The cards that are known by name."""
    cards = [Card.model_validate(load_card(name)) for name in card_names()]
    return [
        CardSummary(
            name=card.name,
            title=card.label,
            total_bytes=card.total_bytes,
            reserve_bytes=card.reserve_bytes,
        )
        for card in cards
    ]


@router.get("/models", response_model=list[ModelSummary])
def list_models() -> list[ModelSummary]:
    """The models whose shape is shipped, by slug and by hub name."""
    return [ModelSummary(name=name) for name in (*shape_names(), *hub_names())]


@router.put("/uploads/{name}", status_code=201, response_model=Upload)
async def upload_rows(name: str, request: Request, service: Served) -> Upload:
    """Receives a file with rows; the body is the file. A file of this name is replaced."""
    suffix = "." + name.rpartition(".")[2].lower()
    if not _FILE_NAME.fullmatch(name) or suffix not in SUFFIXES or name == "dataset_info.json":
        raise InputError(
            f"{name[:100]!r} is not a name for a file with rows",
            f"letters, digits, '.', '_' and '-', and one of {', '.join(SUFFIXES)} at its end",
        )
    file = service.uploads / name
    part = service.uploads / f".{name}.{secrets.token_hex(4)}.part"  # two may send one name at once
    size = 0
    try:
        service.uploads.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            async for piece in request.stream():
                size += len(piece)
                stream.write(piece)
        part.replace(file)
    except OSError as error:
        raise StoreError(
            f"{name} cannot be stored: {error.strerror}",
            f"look at the disk and the permissions of {service.uploads}",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return Upload(path=str(file), bytes=size)
