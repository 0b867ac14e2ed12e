"""`vram-search fit`: what it calls the largest fits, and the next step does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner, Result

from vram_search.cli.fit import command
from vram_search.errors import InputError
from vram_search.estimate.max_fit import Cell, MaxFit, last_that_fits
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget, card_memory
from vram_search.report.fit_picture import colour_of, grid_lines, grid_svg, mark
from vram_search.resources import shipped
from vram_search.spec.card import Card, load_card
from vram_search.spec.shape import load_shape

USUAL = ("--model", "qwen2.5-3b", "--card", "rtx-5060-ti-16gb")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _without_calibrations(home: Path) -> None:
    """Those of this machine would change the figures."""


def fit(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def fit_json(*arguments: object) -> dict[str, Any]:
    done = fit(*arguments, "--json")
    assert done.exit_code == 0, done.output
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def asker(answer: dict[str, Any]) -> Callable[[int, int, int], bool]:
    """Whether a cutoff_len, micro-batch and rank fit, asked of the memory model itself."""
    settings = answer["settings"]
    card = Card.model_validate(load_card(answer["card"]["name"]))
    shape = load_shape(shipped("configs", "models", answer["model"]))

    def fits(cutoff_len: int, micro_batch: int, rank: int) -> bool:
        workload = Workload(
            shape=shape,
            lora_modules=tuple(shape.target_modules(settings["lora_target"])),
            lora_rank=rank,
            optimizer=settings["optim"],
            per_device_train_batch_size=micro_batch,
            cutoff_len=cutoff_len,
            gradient_checkpointing=settings["gradient_checkpointing"],
            quantization=settings["quantization"],
            fused_linear_cross_entropy=settings["enable_liger_kernel"],
            equal_lengths=False,
            expandable_segments=card.platform == "linux",
        )
        required = predict(workload, Hardware.of(card)).required_bytes
        return bool(required * (1 + answer["margin"]) <= card_memory(card).budget_bytes)

    return fits


@pytest.mark.parametrize(
    "arguments",
    [
        USUAL,
        (*USUAL, "--liger", "--cutoff-len", 4096, "--micro-batch", 2),
        (*USUAL, "--no-checkpointing", "--lora-target", "qv", "--lora-rank", 64),
        ("--model", "gemma-2-2b", "--card", "rtx-2070-8gb", "--optim", "paged_adamw_32bit"),
        ("--model", "mistral-7b-v0.3", "--card", "a100-80gb", "--quantization", "int8"),
        ("--model", "qwen2.5-14b", "--card", "rtx-3060-12gb"),
        ("--model", "smollm2-135m", "--card", "h200-141gb", "--liger"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_the_largest_fits_and_the_next_step_does_not(arguments: tuple[object, ...]) -> None:
    answer = fit_json(*arguments)
    fits, rank = asker(answer), answer["settings"]["lora_rank"]
    for found in answer["largest_cutoff_len"]:
        largest, batch = found["cutoff_len"], found["per_device_train_batch_size"]
        assert found["fits"] == (largest is not None)
        assert largest is None or fits(largest, batch, rank)
        assert found["at_limit"] == (largest == 32768)
        assert found["at_limit"] or not fits((largest or 0) + 256, batch, rank)
    for found in answer["largest_per_device_train_batch_size"]:
        cutoff, largest = found["cutoff_len"], found["per_device_train_batch_size"]
        assert largest is None or fits(cutoff, largest, rank)
        assert found["at_limit"] or not fits(cutoff, (largest or 0) + 1, rank)
    for found in answer["largest_lora_rank"]:
        cutoff, batch = found["cutoff_len"], found["per_device_train_batch_size"]
        largest = found["lora_rank"] or 0
        assert not largest or fits(cutoff, batch, largest)
        higher = [2**power for power in range(11) if 2**power > largest]
        assert not any(fits(cutoff, batch, rank) for rank in higher)
        assert found["at_limit"] == (not higher)
    for cell in answer["grid"]:
        place = (cell["cutoff_len"], cell["per_device_train_batch_size"], rank)
        assert cell["fits"] == fits(*place)


@pytest.mark.parametrize(("budget", "largest"), [(0, None), (1, 1), (49, 7), (50, 7), (999, 9)])
def test_search_stops_at_the_budget(budget: int, largest: int | None) -> None:
    found = last_that_fits(range(1, 10), lambda value: value**2, lambda size: size <= budget)
    assert found == largest


def test_rank_is_found_although_bytes_fall_with_it() -> None:
    """8-bit states begin at 4096 elements, so a higher rank may need fewer bytes."""

    class Falling(MaxFit):
        def required_bytes(self, *, cutoff_len: int, micro_batch: int, lora_rank: int) -> int:
            return self.limit.budget_bytes + (1 if lora_rank in (4, 512, 1024) else 0)

    shape = load_shape(shipped("configs", "models", "smollm2-135m"))
    workload = Workload(shape, ("q_proj",), 16, "adamw_8bit", 1, 1024)
    card = Card.model_validate(load_card("rtx-2070-8gb"))
    limit = replace(MemoryBudget.of(card, shape), margin=0.0)
    assert Falling(workload, limit).largest_rank(1024, 1).lora_rank == 256


def test_printed_tables_are_the_json_and_80_columns_wide() -> None:
    done = fit(*USUAL, "--cutoff-len", 2048, "--micro-batch", 4)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    answer = fit_json(*USUAL, "--cutoff-len", 2048, "--micro-batch", 4)
    for found in answer["largest_cutoff_len"]:
        row = [str(found["per_device_train_batch_size"]), str(found["cutoff_len"] or "none")]
        assert any(words[:2] == row for words in rows)
    assert [found["cutoff_len"] for found in answer["largest_lora_rank"]] == [1024, 2048]


def test_long_words_stay_within_80_columns(tmp_path: Path) -> None:
    folder = tmp_path / ("a-very-long-name-" * 9)
    folder.mkdir()
    config = shipped("configs", "models", "qwen2.5-14b", "config.json")
    (folder / "config.json").write_bytes(config.read_bytes())
    names = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    done = fit("--model", folder, "--card", "rtx-2070-8gb", "--lora-target", names)
    assert done.exit_code == 0, done.output
    assert "none" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def row_of(*required: int) -> list[list[Cell]]:
    return [[Cell(512, 2**n, size, size / 1000) for n, size in enumerate(required)]]


def test_marks_tell_without_colour_what_colour_tells() -> None:
    cells = row_of(100, 950, 951, 1000, 1001)[0]
    assert [mark(cell) for cell in cells] == ["", "", "!", "!", "no"]
    plain = grid_lines([cells], 1000, colour=False)
    coloured = grid_lines([cells], 1000, colour=True)
    assert "\x1b[" in coloured[2] and "\x1b" not in "".join(plain)
    assert [click.unstyle(line).rstrip() for line in coloured] == plain


def test_svg_is_whole_and_escapes_its_words(tmp_path: Path) -> None:
    file = tmp_path / "fit.svg"
    assert fit(*USUAL, "--svg", file).exit_code == 0
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    answer = fit_json(*USUAL)
    grey = [r for r in root.iter(f"{SVG}rect") if r.get("fill") == "#ececec"]
    refused = [cell for cell in answer["grid"] if not cell["fits"]]
    assert len(grey) == len(refused) + 1  # and one in the legend
    words = " ".join(text.text or "" for text in root.iter(f"{SVG}text"))
    for word in ("cutoff_len", "micro-batch", "GiB needed", "does not fit", "VRAM limit", "16384"):
        assert word in words
    evil = grid_svg(row_of(10), 1000, "<b>&'\"\x07", "]]><script>")
    assert ElementTree.fromstring(evil).find(f"{SVG}title") is not None
    assert "<script>" not in evil


@pytest.mark.parametrize(
    ("share", "colour"), [(-1, "#440154"), (0, "#440154"), (0.2, "#414487"), (2, "#fde725")]
)
def test_ramp_ends_in_viridis_ends(share: float, colour: str) -> None:
    assert colour_of(share) == colour


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--model", "qwen2.5-3"], ["no model 'qwen2.5-3'", "qwen2.5-3b"]),
        (["--model", "no/such/folder"], ["no model", "config.json"]),
        (["--model", "../models/phi-4"], ["no model"]),
        (["--card", "rtx-5060-to-16gb"], ["no card", "rtx-5060-ti-16gb"]),
        (["--card", "../cards/t4-16gb"], ["no card", "t4-16gb"]),
        (["--card", ""], ["no card ''", "configs/cards"]),
        (["--lora-rank", "0"], ["lora_rank 0", "1 to 1024"]),
        (["--lora-rank", "-8"], ["lora_rank -8"]),
        (["--lora-rank", "100000"], ["lora_rank 100000"]),
        (["--cutoff-len", "0"], ["cutoff_len 0"]),
        (["--micro-batch", "-1"], ["micro_batch -1"]),
        (["--optim", "adamw8bit"], ["no optimizer 'adamw8bit'", "adamw_8bit"]),
        (["--quantization", "nf5"], ["no quantization 'nf5'", "nf4"]),
        (["--lora-target", "q_prj"], ["q_prj", "q_proj"]),
        (["--lora-target", "q_proj,q_proj"], ["twice"]),
        (["--lora-target", ""], ["lora_target ''"]),
        (["--svg", "model.safetensors"], [".svg"]),
        (["--svg", "no/such/folder/fit.svg"], ["cannot be written", "No such file"]),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_remedy(changes: list[str], words: list[str]) -> None:
    done = fit(*USUAL, *changes)
    assert isinstance(done.exception, InputError)
    assert done.exception.remedy
    assert done.output == ""
    for word in words:
        assert word in str(done.exception)


def test_a_model_that_no_search_can_train_is_refused() -> None:
    result = fit("--model", "gemma-3n-e2b", "--card", "rtx-5060-ti-16gb")
    assert isinstance(result.exception, InputError)
    assert "transformers cannot train gemma3n_text in NF4" in result.exception.message


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    done = fit("--model", tmp_path, "--card", "t4-16gb")
    assert isinstance(done.exception, InputError)


def test_a_folder_and_a_hub_name_mean_the_shipped_shape() -> None:
    usual = fit_json(*USUAL)
    folder = shipped("configs", "models", "qwen2.5-3b")
    for model in (str(folder), "Qwen/Qwen2.5-3B-Instruct"):
        again = fit_json("--model", model, "--card", "rtx-5060-ti-16gb")
        assert again | {"model": "qwen2.5-3b"} == usual


def test_answer_says_where_the_shape_of_a_second_name_came_from() -> None:
    words = "has the shape of Qwen/Qwen2.5-3B-Instruct, which is shipped"
    arguments = ("--model", "Qwen/Qwen2.5-Coder-3B", "--card", "rtx-5060-ti-16gb")
    assert fit_json(*arguments)["model_note"] == f"Qwen/Qwen2.5-Coder-3B {words}"
    assert f"note: Qwen/Qwen2.5-Coder-3B {words}" in " ".join(fit(*arguments).output.split())
    assert fit_json(*USUAL)["model_note"] == ""
    assert "note:" not in fit(*USUAL).output


def test_command_as_a_process_loads_no_heavy_package() -> None:
    script = (
        "import sys; from vram_search.cli.fit import command\n"
        "command(sys.argv[1:], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *USUAL], capture_output=True, text=True, check=True
    )
    assert not {"torch", "optuna", "sqlalchemy", "transformers"} & set(done.stderr.split())
