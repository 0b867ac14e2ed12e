"""A calibration is kept for its kind of card, found by its names, and damage is reported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vram_search.errors import InputError
from vram_search.estimate import calibration as module
from vram_search.estimate.calibration import (
    Calibration,
    calibration_folder,
    card_words,
    hardware_for,
    load_calibration,
    save_calibration,
)
from vram_search.estimate.memory.hardware import Hardware
from vram_search.spec.card import Card, card_names, load_card
from vram_search.units import KIB, MIB

CARDS = [Card(**load_card(slug)) for slug in card_names()]
CARD = Card(**load_card("rtx-5060-ti-16gb"))
NVML_NAME = "NVIDIA GeForce RTX 5060 Ti"


def calibration(**changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "measured_at": "2026-11-25T10:00:00+00:00",
        "card_name": NVML_NAME,
        "total_bytes": CARD.total_bytes,
        "driver": "580.95",
        "versions": {"torch": "2.11.0"},
        "context_bytes": 345 * MIB,
        "padded_context_bytes": 350 * MIB,
        "context_source": "process",
        "cublas_workspace_bytes": 8320 * KIB,
        "cublaslt_workspace_bytes": MIB,
        "allocator": "as expected",
        "measured_over_predicted": 1.001,
    }
    return Calibration(**{**fields, **changes})


def test_a_card_that_was_never_calibrated_keeps_the_figures_of_its_file(home: Path) -> None:
    assert hardware_for(CARD) == Hardware.of(CARD)
    assert not home.exists()


def test_measured_figures_replace_those_of_the_card_file(home: Path) -> None:
    save_calibration(calibration(cublaslt_workspace_bytes=3 * MIB))
    expected = Hardware(345 * MIB, 8320 * KIB, 3 * MIB, prefers_cudnn=False)
    assert hardware_for(CARD) == expected


def test_what_was_saved_is_loaded_again(home: Path) -> None:
    saved = calibration(notes=("alone?",), context_source="device", allocator="differs")
    save_calibration(saved)
    module._newest.cache_clear()
    assert load_calibration(NVML_NAME, CARD.total_bytes) == saved


def test_a_new_calibration_replaces_the_old_one_at_once(home: Path) -> None:
    for context_bytes in (345 * MIB, 400 * MIB):
        save_calibration(calibration(context_bytes=context_bytes))
        os.utime(calibration_folder(), ns=(0, 0))  # as a coarse clock shows two quick writes
        assert hardware_for(CARD).context_bytes == context_bytes
    assert len(list(calibration_folder().iterdir())) == 1


def test_a_file_that_another_process_replaced_is_read_again(home: Path) -> None:
    file = save_calibration(calibration())
    assert hardware_for(CARD).context_bytes == 345 * MIB
    fresh = file.with_suffix(".other")
    fresh.write_text(json.dumps(calibration(context_bytes=400 * MIB).as_dict()))
    fresh.replace(file)
    os.utime(file.parent, ns=(0, 0))  # a coarse clock could show no change
    assert hardware_for(CARD).context_bytes == 400 * MIB


def test_an_unchanged_file_is_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_calibration(calibration())
    reads: list[Path] = []
    read = module._read

    def noted(file: Path) -> Calibration:
        reads.append(file)
        return read(file)

    monkeypatch.setattr(module, "_read", noted)
    for _ in range(50):
        hardware_for(CARD)
    assert len(reads) == 1


@pytest.mark.parametrize("total_bytes", [CARD.total_bytes * 1.019, CARD.total_bytes * 0.981])
def test_a_total_that_a_driver_moved_a_little_is_still_the_card(
    home: Path, total_bytes: float
) -> None:
    save_calibration(calibration(total_bytes=round(total_bytes)))
    assert load_calibration(CARD.label, CARD.total_bytes) is not None


def test_of_two_that_match_the_newest_counts(home: Path) -> None:
    old = save_calibration(calibration(total_bytes=CARD.total_bytes - 9 * MIB, driver="570"))
    save_calibration(calibration(driver="580"))
    os.utime(old, (0, 0))
    found = load_calibration(CARD.label, CARD.total_bytes)
    assert found is not None and found.driver == "580"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_calibration_serves_its_own_shipped_card_and_no_other(home: Path, card: Card) -> None:
    save_calibration(calibration(card_name=card.title, total_bytes=card.total_bytes))
    served = [other.name for other in CARDS if load_calibration(other.label, other.total_bytes)]
    assert served == [card.name]
    assert load_calibration(card.name, card.total_bytes) is not None


@pytest.mark.parametrize(
    ("nvml_name", "slug"),
    [
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla T4", "t4-16gb"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop-16gb"),
        ("NVIDIA GeForce RTX 5060 Ti", "rtx-5060-ti-16gb"),
        ("NVIDIA RTX A6000", "rtx-a6000-48gb"),
    ],
)
def test_names_of_nvml_are_those_of_the_card_files(nvml_name: str, slug: str) -> None:
    assert card_words(nvml_name) == card_words(slug) == card_words(load_card(slug)["title"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace(str(345 * MIB), "-1"),
        lambda text: text.replace(str(345 * MIB), '"345 MiB"'),
        lambda text: text.replace(str(345 * MIB), "1e9"),
        lambda text: text.replace('"driver"', '"drover"'),
        lambda text: text.replace("1.001", "NaN"),
        lambda text: text.replace("as expected", "fine"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(home: Path, damage: Any) -> None:
    file = save_calibration(calibration())
    file.write_text(damage(file.read_text()))
    with pytest.raises(InputError, match="cannot be used") as caught:
        hardware_for(CARD)
    assert str(file) in caught.value.message
    assert "vram-search calibrate" in caught.value.remedy


def test_damage_to_another_cards_file_does_not_matter(home: Path) -> None:
    save_calibration(calibration())
    (calibration_folder() / "h200-143771mib.json").write_text("{")
    assert hardware_for(CARD).context_bytes == 345 * MIB


def test_a_write_that_fails_leaves_the_old_calibration(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_calibration(calibration())

    def full(source: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_calibration(calibration(context_bytes=400 * MIB))
    assert hardware_for(CARD).context_bytes == 345 * MIB
    assert [file.suffix for file in calibration_folder().iterdir()] == [".json"]
