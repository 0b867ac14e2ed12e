"""Files of every kind, several of them, folders, and the descriptions of other tools."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.data import Rows, load_rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.spec.dataset import DatasetSpec

ROWS = [{"instruction": f"ask {n}", "input": "", "output": f"answer {n}"} for n in range(6)]
LINES = "\n".join(json.dumps(row) for row in ROWS)
Load = Callable[..., Rows]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads names of `tmp_path`, two rows for evaluation."""

    def loaded(train: Any, **dataset: Any) -> Rows:
        given = {"train": train, "val_size": 2, **dataset}
        return load_rows(DatasetSpec.model_validate(given, context={"folder": tmp_path}), 42)

    return loaded


@pytest.fixture
def plain(tmp_path: Path, load: Load) -> Rows:
    (tmp_path / "plain.jsonl").write_text(LINES)
    return load("plain.jsonl")


def csv_text(delimiter: str) -> str:
    lines = [("instruction", "input", "output")]
    lines += [(row["instruction"], "", f'"{row["output"]}"') for row in ROWS]
    return "\n".join(delimiter.join(line) for line in lines)


def zipped(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", LINES.encode()),
        ("rows.data", LINES.encode()),
        ("rows.jsonl", LINES.encode("utf-16")),
        ("rows.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("rows.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("rows.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("rows.csv", csv_text(",").encode()),
        ("rows.csv", csv_text(";").encode()),
        ("rows.csv", b"sep=;\r\n" + csv_text(";").encode("utf-8-sig")[3:]),
        ("rows.tsv", csv_text("\t").encode()),
        ("rows.tsv", csv_text("\t").replace('"', "").encode()),
        ("rows.csv.gz", gzip.compress(csv_text(",").encode("utf-8-sig"), mtime=0)),
        ("rows.jsonl.gz", LINES.encode()),  # unpacked on its way
        ("rows.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("rows.zip", zipped(rows_csv=csv_text(","), README_md="no rows")),
        ("rows.jsonl", LINES.replace("\n", "\r").encode()),
        ("rows.txt", csv_text("\t").encode("utf-16")),  # Excel's "Unicode text"
        ("rows.csv", ("\n\n" + csv_text(",") + "\n,,\n,,\n").encode()),
        ("rows.csv", csv_text(", ").replace("input, output", 'input, "output"').encode()),
        ("rows.csv", csv_text(",").replace('"\n', '",,\n').encode()),
    ],
)
def test_rows_are_the_same_from_every_kind_of_file(
    tmp_path: Path, load: Load, plain: Rows, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    assert load(name) == plain


def test_row_of_a_table_that_does_not_fit_its_header_is_a_bad_row(
    tmp_path: Path, load: Load
) -> None:
    """Their texts would be cut at the comma, or joined with later rows."""
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\nSky?,Blue, I think\nSea?,Green\n" + "Sun?,Hot\n" * 3)
    with pytest.raises(FaultyFileError, match="line 2 has 3 cells for 2 columns"):
        load("rows.csv")
    assert load("rows.csv", on_bad_row="skip").bad == 1
    file.write_text('question,answer\nSky?,"say \\"blue\\" now"\n' + "Sun?,Hot\n" * 3)
    with pytest.raises(FaultyFileError, match="line 2 has text after a closing quote"):
        load("rows.csv")
    file.write_text('question,answer\nSky?,"Blue\n' + "Sun?,Hot\n" * 200)
    with pytest.raises(InputError, match="line 2 begins a quoted text that does not end"):
        load("rows.csv", on_bad_row="skip")


def test_quotes_in_a_table_with_tabs_are_a_part_of_the_text(tmp_path: Path, load: Load) -> None:
    (tmp_path / "rows.tsv").write_text('question\tanswer\nSky?\t"Blue" it is\nSea?\t"Green\n')
    rows = load("rows.tsv", val_size=1)
    said = {one.messages[1][1] for one in (*rows.train, *rows.eval)}
    assert said == {'"Blue" it is', '"Green'}


def test_lines_of_a_text_end_without_their_line_break(tmp_path: Path, load: Load) -> None:
    (tmp_path / "rows.txt").write_bytes(b"one\r\ntwo\r\nthree")
    rows = load("rows.txt", val_size=1)
    assert {one.messages[0][1] for one in (*rows.train, *rows.eval)} == {"one", "two", "three"}


def test_folder_gives_the_files_of_the_split(tmp_path: Path, load: Load, plain: Rows) -> None:
    other = {"instruction": "secret", "output": "secret"}
    for folder in ("mlx", "copy/data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "train.jsonl").write_text(LINES)
        (tmp_path / folder / "test-00000.jsonl").write_text(json.dumps(other))
        (tmp_path / folder / "._train.jsonl").write_bytes(b"\0")  # macOS
    (tmp_path / "mlx" / "LICENSE.txt").write_text("Do what you want.")
    for folder in ("splits/train", "splits/test"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "splits/train/0.jsonl").write_text(LINES)
    (tmp_path / "splits/test/0.jsonl").write_text(json.dumps(other))
    assert load("splits") == plain
    rows = load("mlx")
    assert rows == load("copy") == plain
    assert rows.notes[-1] == "mlx: files that are not read: LICENSE.txt, test-00000.jsonl"
    assert load("mlx", eval="mlx").eval[0].messages[0][1] == "secret"
    (tmp_path / "mlx" / "LICENSE.txt").unlink()
    write_info(tmp_path, mlx={"file_name": "mlx"})  # LLaMA-Factory reads every file
    assert len(load("mlx", dataset_dir=".", val_size=1).train) == 6


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ({"messages": [{"role": "user", "content": "Sky?"}]}, "put the row in brackets"),
        ({"instruction": ["Sky?"], "output": ["Blue."]}, "to_json(FILE, orient='records')"),
        ({"ask": ["Sky?"], "say": ["Blue."]}, "to_json(FILE, orient='records')"),
        ({"a1": {"question": "Sky?"}, "a2": {"question": "Sea?"}}, "write them as a list"),
    ],
)
def test_json_object_says_how_it_becomes_rows(
    tmp_path: Path, load: Load, value: Any, remedy: str
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        load("rows.json")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_rows_are_the_same_from_parquet_and_arrow(
    tmp_path: Path, load: Load, plain: Rows, kind: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    table, file = pyarrow.Table.from_pylist(ROWS), tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(table, file)
    else:
        make = ipc.new_file if kind == "arrow" else ipc.new_stream
        with make(str(file), table.schema) as writer:
            writer.write_table(table)
    assert load(file.name) == plain
    packed = pyarrow.compress(file.read_bytes(), codec="zstd", asbytes=True)
    (tmp_path / f"{file.name}.zst").write_bytes(packed)
    assert load(f"{file.name}.zst") == plain


def test_folder_saved_by_datasets_is_read(tmp_path: Path, load: Load, plain: Rows) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(
        str(tmp_path / "both")
    )
    assert load("one") == plain
    rows = load("both", eval=[{"path": "both", "split": "test"}])
    assert (len(rows.train), len(rows.eval)) == (6, 1)
    with pytest.raises(InputError, match="has no split dev; it has train, test"):
        load([{"path": "both", "split": "dev"}])


def test_hub_name_without_network_is_one_sentence(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load("nobody/nothing-here")
    assert not logging.getLogger("huggingface_hub.utils").isEnabledFor(logging.WARNING)
    assert "\n" not in caught.value.message
    assert "nobody/nothing-here" in caught.value.message
    assert "save_to_disk" in caught.value.remedy


def test_several_files_patterns_and_folders_are_read_in_order(
    tmp_path: Path, load: Load, plain: Rows
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in range(3):
        lines = [json.dumps(row) for row in ROWS[2 * part : 2 * part + 2]]
        (folder / f"part-{part}.jsonl").write_text("\n".join(lines))
    (folder / "README.md").write_text("no rows")
    (folder / "metadata.json").write_text('{"license": "mit"}')
    names = [f"parts/part-{part}.jsonl" for part in range(3)]
    assert load(names) == load("parts/*.jsonl") == load("parts") == plain
    rows = load(names, max_samples=1)
    assert [e.messages[0][1] for e in (*rows.train, *rows.eval)] == ["ask 2", "ask 0", "ask 4"]


def test_bad_rows_name_their_own_file(tmp_path: Path, load: Load, plain: Rows) -> None:
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a"}\n{"instruction": "b"}')
    with pytest.raises(FaultyFileError, match=r"bad\.jsonl: 2 of 2 rows"):
        load(["plain.jsonl", "bad.jsonl"])


def write_info(folder: Path, **entries: Any) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(entries))


def test_data_sets_of_llama_factory_are_found_by_their_names(
    tmp_path: Path, load: Load, plain: Rows
) -> None:
    talk = [
        {
            "talk": [
                {"who": "me", "says": row["instruction"]},
                {"who": "you", "says": row["output"]},
            ]
        }
        for row in ROWS
    ]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    (tmp_path / "lines.jsonl").write_text('{"body": "one"}\n{"body": "two"}')
    write_info(
        tmp_path,
        plain={"file_name": "plain.jsonl"},
        talk={
            "file_name": "talk.json",
            "formatting": "sharegpt",
            "columns": {"messages": "talk"},
            "tags": {
                "role_tag": "who",
                "content_tag": "says",
                "user_tag": "me",
                "assistant_tag": "you",
            },
        },
        lines={"file_name": "lines.jsonl", "columns": {"prompt": "body"}},
        pairs={"file_name": "plain.jsonl", "ranking": True},
        odd={"file_name": "plain.jsonl", "colums": {}},
    )
    assert load("plain", dataset_dir=".") == load("talk", dataset_dir=".") == plain
    assert len(load("plain, talk", dataset_dir=".").train) == 10
    assert load("lines", dataset_dir=".", val_size=1).train[0].is_text
    with pytest.raises(InputError, match="has no data set 'plane'") as caught:
        load("plane", dataset_dir=".")
    assert "plain" in caught.value.remedy
    with pytest.raises(InputError, match=r"ranking: true.*preference training"):
        load("pairs", dataset_dir=".")
    with pytest.raises(FaultyFileError, match=r"odd\.colums"):
        load("odd", dataset_dir=".")


def test_entries_of_axolotl_are_read(tmp_path: Path, load: Load, plain: Rows) -> None:
    talk = [
        {"turns": [{"by": "customer", "what": r["instruction"]}, {"by": "us", "what": r["output"]}]}
        for r in ROWS
    ]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    entry = {
        "path": "talk.json",
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "turns",
        "message_property_mappings": {"role": "by", "content": "what"},
        "roles": {"user": ["customer"], "assistant": ["us"]},
    }
    loader = {"path": "json", "data_files": {"train": "plain.jsonl", "test": "none.jsonl"}}
    assert load([loader]) == load([{"path": "json", "data_files": ["plain.jsonl"]}]) == plain
    own = {"field_instruction": "instruction", "field_output": "output"}
    assert load([entry]) == plain
    assert load([{"path": "plain.jsonl", "type": "alpaca"}]) == plain
    assert load([{"path": "plain.jsonl", "type": own}]) == plain
    (tmp_path / "text.jsonl").write_text('{"body": "one"}\n{"body": "two"}')
    text = load([{"path": "text.jsonl", "type": "completion", "field": "body"}], val_size=1)
    assert text.train[0].is_text
    with pytest.raises(InputError, match="preference training"):
        load([{"path": "plain.jsonl", "type": "chatml.intel"}])
    with pytest.raises(InputError, match="type 'own_type' is not read"):
        load([{"path": "plain.jsonl", "type": "own_type"}])
    with pytest.raises(FaultyFileError, match="feild_messages"):
        load([{"path": "plain.jsonl", "feild_messages": "x"}])


def test_formats_of_an_axolotl_entry_write_the_text(tmp_path: Path, load: Load) -> None:
    rows = [
        {"ask": "1+1?", "more": "fast", "say": "2", "sys": "Count."},
        {"ask": "2+2?", "more": "", "say": "4"},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    kind = {
        "system_prompt": "Be kind.",
        "system_format": "<<{system}>>",
        "field_system": "sys",
        "field_instruction": "ask",
        "field_input": "more",
        "field_output": "say",
        "format": "Q {instruction} ({input}) A ",
        "no_input_format": "Q {instruction} A ",
    }
    read = load([{"path": "own.jsonl", "type": kind}], val_size=1)
    assert {example.messages for example in (*read.train, *read.eval)} == {
        (("text_read", "<<Count.>>Q 1+1? (fast) A "), ("text", "2")),
        (("text_read", "<<Be kind.>>Q 2+2? A "), ("text", "4")),
    }


def test_segments_of_input_output_keep_their_labels(tmp_path: Path, load: Load) -> None:
    segments = [
        {"label": False, "text": "<s>ask"},
        {"label": True, "text": "say</s>"},
        {"label": False, "text": "again"},
        {"label": True, "text": "yes"},
    ]
    rows = [{"segments": segments}, {"segments": segments[:2]}, {"segments": segments[:1]}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entry = {"path": "own.jsonl", "type": "input_output"}
    read = load([entry], val_size=1, on_bad_row="skip")
    assert (read.bad, read.empty) == (1, 1)
    both = {example.messages for example in (*read.train, *read.eval)}
    whole = (
        ("segment_read", "<s>ask"),
        ("segment", "say</s>"),
        ("segment_read", "again"),
        ("segment", "yes"),
    )
    assert both == {whole, whole[:2]}
