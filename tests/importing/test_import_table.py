"""A CSV file by hand: an empty cell is unknown, and a faulty one is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.cli.import_runs import command
from vram_search.errors import InputError
from vram_search.importing.table import COLUMNS, load_table
from vram_search.store import ImportedTrial

WriteTable = Callable[[str | bytes], Path]

FULL = (
    "run,outcome,model_name_or_path,eval_loss,train_loss,steps_done,steps_total,optim,lora_target,"
    "lora_rank,lora_alpha,cutoff_len,per_device_train_batch_size,gradient_accumulation_steps,"
    "learning_rate,seed,train_runtime,adapter_bytes,reserved_bytes,vram_bytes,device,source,note\n"
    'one,complete,Qwen/Qwen2.5-3B-Instruct,1.25,1.5,51,51,adamw_8bit,"q_proj,v_proj",8,16,512,2,8,'
    "1e-4,7,174,7.05 MiB,5 GiB,3.1 GB,a card,a notebook,by hand\n"
)


@pytest.fixture
def write(tmp_path: Path) -> WriteTable:
    def write_table(text: str | bytes) -> Path:
        file = tmp_path / "runs.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write_table


def only(file: Path) -> ImportedTrial:
    (run,) = load_table(file)
    return run


def test_full_row_is_a_trial(write: WriteTable) -> None:
    run = only(write(FULL))
    assert run.hyperparameters == {
        "optim": "adamw_8bit",
        "lora_target": "qv",
        "lora_rank": 8,
        "lora_alpha": 16,
        "cutoff_len": 512,
        "batch_size": 16,
        "learning_rate": 1e-4,
    }
    result, provenance = run.result, run.provenance
    assert (result.outcome, result.eval_loss, result.steps_done) == ("complete", 1.25, 51)
    assert result.measured == {"reserved_bytes": 5 * 2**30}
    assert (result.seconds, result.device, run.seed) == ({"train": 174.0}, "a card", 7)
    assert provenance["reported"] == {
        "adapter_bytes": 7_392_461,
        "vram_bytes": 3_100_000_000,
        "train_loss": 1.5,
    }
    assert provenance["notes"] == ["a notebook", "by hand"]
    assert provenance["unknown"] == []


def test_empty_cells_are_unknown(write: WriteTable) -> None:
    run = only(write("run,outcome,eval_loss,lora_rank\none,complete,,\n"))
    assert set(run.hyperparameters.values()) == {None}
    assert (run.result.eval_loss, run.result.measured, run.result.seconds) == (None, None, None)
    assert {"eval_loss", "lora_rank", "seed", "model"} <= set(run.provenance["unknown"])


def test_outcome_is_the_persons_word(write: WriteTable) -> None:
    text = "run,outcome,steps_done,steps_total,note\none,oom,2,51,died at step 2\n"
    result = only(write(text)).result
    assert (result.outcome, result.eval_loss) == ("oom", None)
    assert result.error == {"stage": "train", "step": 2, "message": "died at step 2"}


def test_effective_batch_stands_where_its_factors_are_unknown(write: WriteTable) -> None:
    run = only(write("run,outcome,batch_size\none,complete,12\n"))
    assert run.hyperparameters["batch_size"] == 12


def test_fingerprint_ignores_order_of_columns_and_other_rows(write: WriteTable) -> None:
    before = only(write("run,outcome,eval_loss\none,complete,1.2\n")).fingerprint
    text = "\ufeffeval_loss,outcome,note,run\r\n1.3,complete,,two\r\n\r\n1.2,complete,,one\r\n"
    two, one = load_table(write(text))
    assert one.fingerprint == before != two.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["line 1: the column run is missing"]),
        ("run\n", ["line 1: the column outcome is missing"]),
        ("run,outcome\n", ["holds no run"]),
        ("run,outcome,colour\n", ["line 1: 'colour' is not a known column"]),
        ("run,outcome,run\n", ["line 1: 'run' stands twice"]),
        ("run,outcome\none,complete,x\n", ["line 2: 3 cells for 2 columns"]),
        ("run,outcome\none,\n", ["line 2: outcome: is missing"]),
        ("run,outcome\none,fine\n", ["line 2: outcome: is not an outcome (is 'fine')"]),
        ("run,outcome\n,complete\n", ["line 2: run: is missing"]),
        ("run,outcome\na,oom\nb,oom\na,oom\n", ["line 4: run: 'a' stands in line 2"]),
        ("run,outcome,eval_loss\na,complete,low\n", ["line 2: eval_loss: is not a number"]),
        ("run,outcome,lora_rank\na,complete,8.5\n", ["line 2: lora_rank: is not a whole number"]),
        ("run,outcome,lora_rank\na,complete,inf\n", ["line 2: lora_rank: is not a whole number"]),
        ("run,outcome,train_runtime\na,oom,-1\n", ["line 2: train_runtime: is out of range"]),
        ("run,outcome,vram_bytes\na,oom,much\n", ["line 2: vram_bytes: is not a size"]),
        ('run,outcome\n"a,oom\n', ["not valid CSV"]),
        (b"run,outcome\n\xe9,oom\n", ["not UTF-8 (byte 12)"]),
        ("run,outcome\n" + "a" * 501 + ",oom\n", ["line 2: run: is too long"]),
        ("run,outcome\n" + "a" * 200_000 + ",oom\n", ["line 2: not valid CSV: field larger"]),
    ],
)
def test_faulty_table_is_refused_with_its_line_and_a_remedy(
    write: WriteTable, text: str | bytes, words: list[str]
) -> None:
    file = write(text)
    with pytest.raises(InputError) as caught:
        load_table(file)
    for word in (str(file), *words):
        assert word in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("column", COLUMNS)
def test_help_names_every_column(column: str) -> None:
    assert column in " ".join((command.help or "").split())


def test_a_table_in_utf_16_is_read(write: WriteTable) -> None:
    runs = load_table(write("run,outcome,eval_loss\nStraße,complete,1.5\n".encode("utf-16")))
    assert runs[0].provenance["run"] == "Straße"
