"""Wrong input on the command line: exit code 2, one message, no traceback, nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vram_search.cli.main import main
from vram_search.resources import shipped
from vram_search.store import open_store, sqlite_url

WriteStudy = Callable[..., Path]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """`main()` in this process, as fast as a function call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["vram-search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)


@pytest.fixture
def cli(
    home: Path,
    rows_are_not_encoded: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    return Cli(monkeypatch, capsys)


def assert_refused(answer: Answer, home: Path, *words: str) -> None:
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.lower().count("error: ") == 1
    for word in words:
        assert word in answer.err
    assert not home.exists()


def write_model(folder: Path, *, weights: bool = True) -> str:
    folder.mkdir()
    config = shipped("configs", "models", "phi-3-mini-4k", "config.json")
    (folder / "config.json").write_bytes(config.read_bytes())
    if weights:
        (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def test_good_study_passes_the_same_way_in(cli: Cli, home: Path, write_study: WriteStudy) -> None:
    """What the refusals below are measured against: the fixture itself is accepted."""
    answer = cli("run", write_study(), "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert "study tiny" in answer.out


@pytest.mark.parametrize("strategy", ["gp", "tpe"])
@pytest.mark.parametrize("enqueued", [True, False])
def test_dry_run_keeps_within_80_columns_and_says_what_is_listed(
    cli: Cli, home: Path, strategy: str, enqueued: bool
) -> None:
    study = shipped("studies", "td-010.yaml")
    answer = cli(
        "run", study, "--dry-run", f"--set=strategy={strategy}", f"--set=enqueue_priors={enqueued}"
    )
    assert answer.code == 0
    assert all(line.startswith("note: ") for line in answer.err.splitlines())
    assert max(map(len, answer.out.splitlines())) <= 80
    words = " ".join(answer.out.split())
    assert ("learned from earlier searches" in words) is (strategy == "gp" and enqueued)
    assert ("not tried first (enqueue_priors: false)" in words) is not enqueued
    assert words.count(" needed, fits: ") == (3 if strategy == "gp" and enqueued else 7)


@pytest.mark.parametrize(("trials", "listed"), [("20", 3), ("6", 1), ("2", 7)])
def test_dry_run_lists_what_a_small_budget_leaves_room_for(
    cli: Cli, home: Path, trials: str, listed: int
) -> None:
    answer = cli("run", shipped("studies", "td-010.yaml"), "--dry-run", "--trials", trials)
    words = " ".join(answer.out.split())
    assert words.count(" needed, fits: ") == listed
    assert ("not tried first: few trials" in words) is (trials == "2")


def test_missing_study_file(cli: Cli, home: Path) -> None:
    assert_refused(cli("run", "nosuch.yaml"), home, "nosuch.yaml", "no such study file", "demo")


def test_many_faults_are_counted_after_the_first_twenty(
    cli: Cli, home: Path, write_study: WriteStudy
) -> None:
    ranks = ", ".join(["x"] * 500)
    answer = cli("run", write_study(), "--set", f"search_space.lora_rank=[{ranks}]")
    assert_refused(answer, home, "500 faults", "search_space.lora_rank[19]", "and 480 more")
    assert "lora_rank[20]" not in answer.err


@pytest.mark.parametrize("path", [".", "/", ""])
def test_path_without_a_file_name(cli: Cli, home: Path, path: str) -> None:
    assert_refused(cli("run", path), home, "is a folder, no such study file")


def test_text_in_another_encoding_is_named_as_such(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes("{}\ncaf\u00e9".encode("latin-1"))
    answer = cli("estimate", "--points", tmp_path / "rows.jsonl")
    assert_refused(answer, home, "rows.jsonl: cannot be read (not UTF-8 at byte 6)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "-15"), "A negative number is not possible here"),
        (("queue", "move", "x", "1"), "'x' is not a whole number"),
        (("import", ""), "the path is empty"),
        (("export", "best", "-o", ""), "the path is empty"),
        (("estimate", "--points", "nosuch.jsonl"), "cannot be read (No such file or directory)"),
    ],
)
def test_click_and_the_system_are_put_in_plain_words(
    cli: Cli, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert_refused(cli(*arguments), home, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: [1\nmodel: {}", ["not valid YAML", "line 2"]),
        ("study: a\nseed: 2024-13-45", ["not valid YAML"]),
        ("study: !!timestamp x", ["line 1, column 8: 'x' is not a valid timestamp"]),
        ("study: a\nseed: !!bool maybe", ["line 2, column 7: 'maybe' is not a valid bool"]),
        ("study: a\nseed: 0x" + "f" * 400, ["more than 308 digits"]),
        ("- a list", ["holds no study"]),
        ("study: " + "[" * 1000 + "]" * 1000, ["not valid YAML", "too deeply nested"]),
        (
            "study: a\nseed: 1\nsearch_space: {lora_rank: 4, lora_rank: 8}\nstudy: b\n",
            [
                "2 faults\n",
                "study: is in line 1 and again in line 4",
                "lora_rank: is in line 3 and again in line 3",
            ],
        ),
    ],
)
def test_malformed_study_file(
    cli: Cli, home: Path, tmp_path: Path, text: str, words: list[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert_refused(cli("run", file), home, str(file), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sead": 1}, ["1 fault\n", "sead: unknown key; did you mean 'seed'?"]),
        ({"seed": "8"}, ["seed: ", "(is '8')"]),
        ({"search_space": {"lora_rank": 8.0}}, ["search_space.lora_rank[0]: ", "(is 8.0)"]),
        ({"search_space": {"lora_rank": []}}, ["search_space.lora_rank: is empty"]),
        ({"search_space": {"lora_rank": 0}}, ["search_space.lora_rank[0]: ", "(is 0)"]),
        ({"search_space": {"optim": "adam"}}, ["search_space.optim[0]: ", "allowed: adamw_torch"]),
        ({"dataset": {"train": "gone.jsonl"}}, ["dataset.train: no such file", "gone.jsonl"]),
        ({"card": "rtx-1"}, ["card: no card 'rtx-1'", "configs/cards/README.md"]),
        ({"training": {"num_train_epochs": 1e300}}, ["training.num_train_epochs: ", "(is 1e+300)"]),
        ({"training": {"max_steps": 10**20}}, ["training.max_steps: ", "equal to 1000000000"]),
        ({"training": {"lora_alpha_ratio": 1025}}, ["training.lora_alpha_ratio: ", "(is 1025)"]),
        (
            {"model": "qwen"},
            ["model: is not a mapping of keys (is 'qwen'); allowed: model_name_or_p"],
        ),
        ({"card": ["l4-24gb"]}, ["card: is not a mapping of keys; allowed: name, "]),
        ({"training": 3}, ["training: is not a mapping of keys (is 3); allowed: num_train_epochs"]),
        ({"study": "a b"}, ["study: is not of the allowed form (is 'a b'); allowed: letters"]),
        ({"study": "a" * 5000}, [f"(is '{'a' * 199}...); allowed: letters"]),
        ({"seed": -1, "card": "rtx-1", "zzz": 1}, ["3 faults\n", "seed: ", "card: ", "zzz: "]),
    ],
)
def test_faulty_value_in_the_study_file(
    cli: Cli, home: Path, write_study: WriteStudy, changes: dict[str, Any], words: list[str]
) -> None:
    file = write_study(**changes)
    assert_refused(cli("run", file), home, str(file), *words)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", ["rows.jsonl", "the data set is empty"]),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "c"}', ["row 2.output: is missing"]),
        ('{"question_text": "a"}', ["rows.jsonl", "question_text", "dataset.columns"]),
        (
            '{"instruction": "a", "output": "b"}\n{',
            ["1 of 2 rows cannot be used", "on_bad_row=skip"],
        ),
        ("[" * 100_000, ["1 of 1 rows cannot be used"]),
        ('{"instruction": "a", "output": "b"}', ["leaves no training row of 1"]),
    ],
)
def test_faulty_data_set(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path, rows: str, words: list[str]
) -> None:
    file = write_study()
    (tmp_path / "rows.jsonl").write_text(rows)
    assert_refused(cli("run", file), home, "rows.jsonl", *words)


def test_lora_targets_that_the_model_lacks(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "phi")
    space = {"lora_target": ["all", ["W_pack"], ["up_proj", "down_proj"]]}
    file = write_study(model={"model_name_or_path": model}, search_space=space)
    assert_refused(
        cli("run", file),
        home,
        "2 faults\n",
        "search_space.lora_target[1]: ",
        "has no W_pack; it has qkv_proj",
        "search_space.lora_target[2]: ",
        "has no up_proj",
    )


def test_model_folder_without_weights(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "phi", weights=False)
    file = write_study(model={"model_name_or_path": model})
    assert_refused(cli("run", file), home, model, "a model folder without weights")


def test_model_folder_without_config(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    file = write_study(model={"model_name_or_path": "empty"})
    assert_refused(cli("run", file), home, "holds no config.json")


def test_hub_model_of_unknown_shape(cli: Cli, home: Path, write_study: WriteStudy) -> None:
    file = write_study(model={"model_name_or_path": "someone/unheard-of-3b"})
    assert_refused(cli("run", file), home, "someone/unheard-of-3b", "config.json")


def test_card_too_small_for_the_base_model(cli: Cli, home: Path, write_study: WriteStudy) -> None:
    file = write_study(
        model={"weights": "random", "shape": "qwen2.5-14b"},
        card={"name": "small", "total_bytes": "4 GiB"},
    )
    assert_refused(cli("run", file), home, "card small is too small", "4.00 GiB", "NF4", "remedy: ")


@pytest.mark.parametrize("until", ["25:00", "7", "soon", "07:00:00"])
def test_time_of_day_that_is_none(
    cli: Cli, home: Path, write_study: WriteStudy, until: str
) -> None:
    answer = cli("run", write_study(), "--until", until)
    assert_refused(answer, home, f"--until {until!r}", "like 07:00")


def test_hours_and_time_of_day_together(cli: Cli, home: Path, write_study: WriteStudy) -> None:
    answer = cli("run", write_study(), "--until", "07:00", "--hours", "2")
    assert_refused(answer, home, "exclude each other")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--trials", "0"),
        ("--trials", "many"),
        ("--hours", "0"),
        ("--hours", "-1"),
        ("--hours", "nan"),
        ("--hours", "inf"),
    ],
)
def test_budget_that_is_none(
    cli: Cli, home: Path, write_study: WriteStudy, option: str, value: str
) -> None:
    assert_refused(cli("run", write_study(), option, value), home, option, value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", ["--set 'seed'", "key=value"]),
        ("seed=[", ["--set 'seed=['", "not valid YAML"]),
        ("seed=0b_", ["not valid YAML"]),
        ('seed=!!int ""', ["not valid YAML", "is not a valid int"]),
        ('seed=!!float ""', ["not valid YAML"]),
        ("seed=!!timestamp x", ["not valid YAML"]),
        ("seed=!!bool maybe", ["not valid YAML"]),
        ("seed=" + "[" * 1000, ["not valid YAML"]),
        ("search_space.lora_rnk=8", ["search_space.lora_rnk: unknown key", "'lora_rank'"]),
    ],
)
def test_faulty_override(
    cli: Cli, home: Path, write_study: WriteStudy, override: str, words: list[str]
) -> None:
    assert_refused(cli("run", write_study(), "--set", override), home, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80", ["cannot be read"]),
        (b"study: [", ["not valid YAML"]),
        (b"- a list", ["holds no study"]),
        (b"study: " + b"[" * 1000, ["too deeply nested"]),
    ],
)
def test_faulty_file_in_place_of_a_studys_name(
    cli: Cli, home: Path, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    database, file = tmp_path / "search.db", tmp_path / "night.yaml"
    open_store(sqlite_url(database), create=True).close()
    file.write_bytes(content)
    assert_refused(cli("best", "--study", file, "--database", database), home, str(file), *words)


@pytest.mark.parametrize("command", [["best"], ["top"], ["show", "1"], ["export", "best"]])
def test_database_that_is_a_text_file(
    cli: Cli, home: Path, tmp_path: Path, command: list[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at " * 20)
    before = text.read_bytes()
    assert_refused(cli(*command, "--database", text), home, str(text))
    assert text.read_bytes() == before


def test_run_into_a_database_that_is_a_text_file(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at " * 20)
    before = text.read_bytes()
    folder = sorted(write_study().parent.rglob("*"))
    answer = cli("run", tmp_path / "study.yaml", "--database", text)
    assert_refused(answer._replace(out=""), home, str(text))  # stdout: the study that was begun
    assert text.read_bytes() == before
    assert sorted(tmp_path.rglob("*")) == folder


@pytest.mark.parametrize("database", ["mysql://localhost/search", "notes.txt"])
def test_dry_run_refuses_the_database_that_a_run_would(
    cli: Cli, home: Path, write_study: WriteStudy, tmp_path: Path, database: str
) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at " * 20)
    if "://" not in database:
        database = str(tmp_path / database)
    assert_refused(cli("run", write_study(database=database), "--dry-run"), home, database[:8])


@pytest.mark.parametrize("url", ["://", "postgresql://me:secret@localhost:port/search"])
def test_database_that_is_no_url(
    cli: Cli, home: Path, write_study: WriteStudy, training_device_at_hand: None, url: str
) -> None:
    for command in (["run", write_study()], ["best"], ["doctor"]):
        answer = cli(*command, "--database", url)
        assert_refused(answer, home, "is not a database URL", "remedy: ")
        assert "secret" not in answer.err


@pytest.mark.parametrize(
    "command", [["best"], ["top"], ["studies"], ["show", "1"], ["export", "best"]]
)
def test_reading_without_a_database(cli: Cli, home: Path, command: list[str]) -> None:
    assert_refused(cli(*command), home, str(home))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["show"],
        ["best", "--nosuch"],
        ["top", "-n", "0"],
        ["verify", "best", "--with", "llama-factory", "--tolerance", "nan"],
    ],
)
def test_usage_that_click_refuses(cli: Cli, home: Path, arguments: list[str]) -> None:
    assert_refused(cli(*arguments), home, "Usage: ")


def as_process(*arguments: object) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "vram_search", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def test_refusals_of_a_real_process(home: Path, write_study: WriteStudy) -> None:
    """The same end as `main()` in this process, seen from a shell."""
    assert_refused(as_process("run", "nosuch.yaml"), home, "no such study file", "remedy: ")
    faulty = write_study(search_space={"lora_rank": 0})
    assert_refused(as_process("run", faulty), home, "search_space.lora_rank[0]")
    assert_refused(as_process("best"), home, str(home))


@pytest.mark.parametrize("command", [("data", "\udc80.jsonl"), ("best", "--database", "\udc80.db")])
def test_name_of_another_encoding_is_one_message(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vram-search", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is not UTF-8\nremedy: rename the file" in capsys.readouterr().err


def test_endless_name_in_an_error_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vram-search", "estimate", "--model", "x" * 100_000])
    with pytest.raises(SystemExit):
        main()
    assert len(capsys.readouterr().err) < 10_000
