"""`vram-search estimate`: rows, studies, options, comparisons, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from vram_search import models
from vram_search.answers.points import ShapeLoader
from vram_search.cli.estimate_words import generic_lines
from vram_search.cli.main import main
from vram_search.errors import InputError
from vram_search.estimate import plans, settle_plan
from vram_search.estimate.calibration import Calibration, save_calibration
from vram_search.estimate.margin import GENERIC_MARGIN, conformal_margin
from vram_search.estimate.memory.hardware import H200_CONTEXT, Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory_budget import card_memory
from vram_search.estimate.recipes.jsonl_row import parse_point
from vram_search.models import tree
from vram_search.report.parts import part_differences, stacked_bar
from vram_search.report.wrapping import WIDTH
from vram_search.spec import Card, load_shape, load_study
from vram_search.spec.card import load_card
from vram_search.spec.initial_points import initial_points
from vram_search.spec.model_tree import ModelTree

DATA = Path(__file__).parent.parent / "fixtures"
ROW = {
    "model": "qwen2.5-0.5b",
    "lora_rank": 8,
    "lora_target": ["q_proj", "v_proj"],
    "per_device_train_batch_size": 2,
    "cutoff_len": 512,
    "optimizer": "adamw_8bit",
}
FIT = ["--model", "qwen2.5-3b", "--card", "rtx-5060-ti-16gb"]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def estimate(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """`vram-search estimate ...` in this process, without this machine's calibrations."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["vram-search", "estimate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    return run


Estimate = Callable[..., Answer]


def write_rows(folder: Path, *rows: object) -> Path:
    file = folder / "rows.jsonl"
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(texts) + "\n")
    return file


def predict_rows(estimate: Estimate, file: Path, *more: object) -> Answer:
    return estimate("--points", file, "--models", DATA / "models", "--json", *more)


def test_every_measured_row_gets_its_line_in_order(estimate: Estimate) -> None:
    answer = predict_rows(estimate, DATA / "vram_truth.jsonl")
    assert (answer.code, answer.err) == (0, "")
    rows = [json.loads(line) for line in (DATA / "vram_truth.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [(line["model"], line["note"]) for line in lines] == [
        (row["model"], row["note"]) for row in rows
    ]
    for line in lines:
        assert sum(line["parts"].values()) == line["process_bytes"]
        assert line["process_bytes"] == line["reserved_bytes"] + H200_CONTEXT


def test_row_is_predicted_as_the_library_predicts_it(estimate: Estimate, tmp_path: Path) -> None:
    row = ROW | {"lengths": "random", "prepare_for_kbit_training": True, "note": "n", "x": [1]}
    answer = predict_rows(estimate, write_rows(tmp_path, row, "", ROW), "--card", "a100-40gb")
    shape_of = ShapeLoader(DATA / "models")
    card = Card.model_validate(load_card("a100-40gb"))
    first, second = (json.loads(line) for line in answer.out.splitlines())
    expected = predict(parse_point(row, shape_of).workload, Hardware.of(card)).with_replay()
    assert first == {
        "model": row["model"],
        "note": "n",
        **expected.as_dict(),
        "not_modelled": [],
        "margin": pytest.approx(conformal_margin([])),
    }
    assert "note" not in second


def test_fields_of_a_row_reach_the_workload() -> None:
    row = ROW | {
        "gradient_checkpointing": False,
        "quantization": "int8",
        "double_quantization": False,
        "attention": "eager",
        "gradient_accumulation_steps": 3,
        "per_device_eval_batch_size": 4,
        "prediction_loss_only": False,
        "lengths": "worst_first",
        "fused_linear_cross_entropy": True,
        "cap_gib": "ignored",
        "env": {"PYTORCH_ALLOC_CONF": "a:1,expandable_segments:True"},
        "lora_target": "all-linear",
    }
    workload = parse_point(row, ShapeLoader(DATA / "models")).workload
    assert (workload.quantization, workload.attention) == ("int8", "eager")
    assert (workload.gradient_accumulation_steps, workload.per_device_eval_batch_size) == (3, 4)
    assert workload.eval_cutoff_len == 512
    assert workload.expandable_segments and workload.fused_linear_cross_entropy
    assert not workload.gradient_checkpointing and not workload.equal_lengths
    assert not workload.double_quantization and not workload.prediction_loss_only
    assert len(workload.lora_modules) == 7


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", ["(the row)", "not JSON"]),
        ("[1]", ["(the row)", "not a mapping"]),
        ("[" * 100_000, ["(the row)", "not JSON"]),
        (json.dumps(ROW | {"lora_rank": float("nan")}), ["NaN is not a JSON number"]),
        ('{"lora_rank": 1e999}', ["lora_rank: ", "(is inf)"]),
        ({k: v for k, v in ROW.items() if k != "cutoff_len"}, ["cutoff_len: is missing"]),
        (ROW | {"lora_rank": True}, ["lora_rank: ", "(is True)", "remedy: write a whole number"]),
        (ROW | {"lora_rank": 8.0}, ["lora_rank: ", "(is 8.0)"]),
        (ROW | {"lora_rank": 0}, ["lora_rank: ", "(is 0)"]),
        (ROW | {"cutoff_len": -512}, ["cutoff_len: ", "(is -512)"]),
        (ROW | {"cutoff_len": 2**31 + 1}, ["cutoff_len: ", "to 2147483648"]),
        (ROW | {"per_device_eval_batch_size": -1}, ["from 0 to"]),
        (
            ROW | {"gradient_checkpointing": 1},
            ["gradient_checkpointing: is neither"],
        ),
        (ROW | {"optimizer": "adam"}, ["optimizer: ", "(is 'adam')", "paged_lion_8bit"]),
        (ROW | {"optimizer": ["adam"]}, ["optimizer: "]),
        (ROW | {"lora_target": ["qkv_proj"]}, ["lora_target: ", "qkv_proj", "remedy: ", "up_proj"]),
        (ROW | {"lora_target": []}, ["lora_target: is not a list of module names"]),
        (ROW | {"lora_target": "q_proj"}, ["lora_target: is not a list of texts"]),
        (ROW | {"lora_target": ["q_proj", "q_proj"]}, ["lora_target: names a module twice"]),
        (ROW | {"quantization": "fp4"}, ["quantization: ", "nf4, int8, none"]),
        (ROW | {"quantization": None}, ["quantization: is null"]),
        (ROW | {"attention": "flash"}, ["attention: ", "sdpa, eager"]),
        (ROW | {"lengths": "some"}, ["lengths: ", "full, random, worst_first"]),
        (ROW | {"env": "a"}, ["env: is not a mapping"]),
        (ROW | {"env": {"PYTORCH_ALLOC_CONF": 1}}, ["env: PYTORCH_ALLOC_CONF is not a text"]),
        (ROW | {"note": 1}, ["note: is not a text"]),
        (ROW | {"model": "../models/qwen2.5-0.5b"}, ["model: is not a model's name", "letters"]),
        (ROW | {"model": ".."}, ["model: is not a model's name"]),
        (ROW | {"model": "qwen2.5-0.5b\n"}, ["model: is not a model's name"]),
        (ROW | {"model": "gpt-5"}, ["model: ", "no such file"]),
        (ROW | {"cutoff_len": 2**31, "per_device_train_batch_size": 2**31}, ["absurd sizes"]),
    ],
)
def test_faulty_row_is_refused_with_its_line_and_field(
    estimate: Estimate, tmp_path: Path, row: object, words: list[str]
) -> None:
    file = write_rows(tmp_path, "", row)
    answer = predict_rows(estimate, file)
    assert (answer.code, answer.out) == (2, "")
    assert "remedy: " in answer.err and "Traceback" not in answer.err
    for word in [f"{file}:2: ", *words]:
        assert word in answer.err


def test_faulty_row_has_an_error_in_its_place(estimate: Estimate, tmp_path: Path) -> None:
    bad = ROW | {"optimizer": "lomo", "lora_rank": 0, "note": "the second"}
    answer = predict_rows(estimate, write_rows(tmp_path, ROW, "", bad, "{", ROW))
    assert answer.code == 0 and "2 of 4 rows are wrong" in answer.err
    first, second, third, fourth = map(json.loads, answer.out.splitlines())
    assert first == fourth and first["required_bytes"] > 0
    assert (second["model"], second["note"]) == (bad["model"], "the second")
    assert second["error"]["line"] == 3
    by_field = {fault["field"]: fault for fault in second["error"]["faults"]}
    assert by_field.keys() == {"optimizer", "lora_rank"}
    assert "updates weights during the backward pass" in by_field["optimizer"]["message"]
    assert "adamw_8bit" in by_field["optimizer"]["remedy"]
    assert third == {"error": {"line": 4, "faults": third["error"]["faults"]}}


def test_all_faults_of_a_file_are_named_together(estimate: Estimate, tmp_path: Path) -> None:
    file = write_rows(tmp_path, ROW | {"lora_rank": 0, "cutoff_len": 0}, "", "{")
    answer = predict_rows(estimate, file)
    assert f"{file}: 3 faults" in answer.err
    for place in (":1: lora_rank", ":1: cutoff_len", ":3: (the row)"):
        assert f"{file}{place}" in answer.err


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_file_without_rows_is_refused(estimate: Estimate, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    answer = predict_rows(estimate, file)
    assert answer.code == 2 and str(file) in answer.err


def test_configuration_that_fits_says_by_how_much(estimate: Estimate) -> None:
    answer = estimate(*FIT)
    assert (answer.code, answer.err) == (0, "")
    first, *rest = answer.out.splitlines()
    assert first.startswith("fits NVIDIA GeForce RTX 5060 Ti 16 GB: ")
    assert first.endswith(" to spare")
    assert "changes, the cheapest first" not in answer.out
    assert "changes, the cheapest first" in estimate(*FIT, "--changes").out
    assert all(len(line) <= WIDTH for line in [first, *rest])


MISFIT = [*FIT, "--batch", 16, "--no-checkpointing", "--optim", "adamw_torch"]


def test_configuration_that_does_not_fit_exits_with_0_and_names_changes(estimate: Estimate) -> None:
    answer = estimate(*MISFIT)
    assert answer.code == 0
    assert answer.out.startswith("does not fit NVIDIA GeForce RTX 5060 Ti 16 GB: ")
    assert all(len(line) <= WIDTH for line in answer.out.splitlines())
    for word in ("enable_liger_kernel", "gradient_checkpointing", "optim adamw_8bit", "fits with"):
        assert word in answer.out


def test_margin_is_part_of_the_verdict(estimate: Estimate) -> None:
    (plan,) = json.loads(estimate(*MISFIT, "--json").out)["plans"]
    needed = plan["required_bytes"] * (1 + plan["margin"])
    assert plan["margin"] == pytest.approx(conformal_margin([]))
    assert plan["fits"] is False
    assert plan["spare_bytes"] == pytest.approx(plan["budget_bytes"] - needed, abs=1000)
    assert plan["spare_percent"] == pytest.approx(
        100 * plan["spare_bytes"] / plan["budget_bytes"], abs=0.01
    )


def test_change_saves_what_the_changed_options_save(estimate: Estimate) -> None:
    (plan,) = json.loads(estimate(*MISFIT, "--json").out)["plans"]
    (liger,) = json.loads(estimate(*MISFIT, "--liger", "--json").out)["plans"]
    saved = {change["name"]: change["saved_bytes"] for change in plan["changes"]}
    assert plan["required_bytes"] - liger["required_bytes"] == saved["enable_liger_kernel"]


def test_dropout_of_the_adapter_costs_bytes_that_a_change_saves(estimate: Estimate) -> None:
    (plan,) = json.loads(estimate(*MISFIT, "--json").out)["plans"]
    (dropping,) = json.loads(estimate(*MISFIT, "--lora-dropout", "0.05", "--json").out)["plans"]
    saved = {change["name"]: change["saved_bytes"] for change in dropping["changes"]}
    assert dropping["required_bytes"] - plan["required_bytes"] == saved["lora_dropout 0"] > 0


@pytest.fixture
def generic_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a family that transformers lacks, which its process would say after seven
    seconds."""

    def refuse(file: Path) -> NoReturn:
        raise InputError("transformers has no class for some_new_family", "install a newer one")

    monkeypatch.setattr(tree, "_read_from_class", refuse)
    config = json.loads((DATA / "models" / "qwen2.5-0.5b" / "config.json").read_text())
    config |= {"model_type": "some_new_family", "architectures": ["SomeNewForCausalLM"]}
    folder = tmp_path / "models" / "some-new"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_generic_estimate_of_an_unknown_family_leaves_the_answer_open(
    estimate: Estimate, generic_model: Path, tmp_path: Path
) -> None:
    answer = estimate("--model", generic_model, "--card", "t4-16gb")
    words = " ".join(answer.out.split())
    assert "generic estimate, not modelled: " in words and "±" not in words
    assert "not known whether it fits" in words and "--no-trace" in words
    (plan,) = json.loads(estimate("--model", generic_model, "--card", "t4-16gb", "--json").out)[
        "plans"
    ]
    assert plan["margin"] == GENERIC_MARGIN and plan["not_modelled"] and plan["fits"] is None
    rows = write_rows(tmp_path, ROW | {"model": "some-new"})
    row = json.loads(estimate("--points", rows, "--models", generic_model.parent).out)
    assert row["margin"] == GENERIC_MARGIN and row["not_modelled"] == plan["not_modelled"]


def test_generic_estimate_of_a_family_close_to_a_formula_states_its_error() -> None:
    close = " ".join(" ".join(generic_lines(["glm: rotation of interleaved pairs"], 0.15)).split())
    assert close.endswith("±15 %")
    assert "±" not in "".join(generic_lines(["bamba: layers that are not attention"], 0.15))


def test_calibration_of_the_card_replaces_its_assumed_context(estimate: Estimate) -> None:
    assert "context and workspaces: assumed" in estimate(*FIT).out
    save_calibration(
        Calibration(
            measured_at="2026-03-01T00:00:00+00:00",
            card_name="NVIDIA GeForce RTX 5060 Ti",
            total_bytes=17103323136,
            driver="580.1",
            versions={},
            context_bytes=123_456_789,
            padded_context_bytes=123_456_789,
            context_source="process",
            cublas_workspace_bytes=2**20,
            cublaslt_workspace_bytes=2**20,
            allocator="as expected",
            measured_over_predicted=1.0,
        )
    )
    assert "context and workspaces: calibrated" in estimate(*FIT).out
    (plan,) = json.loads(estimate(*FIT, "--json").out)["plans"]
    assert (plan["context_bytes"], plan["context_origin"]) == (123_456_789, "calibrated")
    assert plan["budget_bytes"] == 17103323136 - 966367642 - 123_456_789
    assert plan["process_bytes"] == plan["reserved_bytes"] + 123_456_789


def test_study_gives_chosen_and_smallest_plan(
    estimate: Estimate, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    study = load_study(file)
    hp = initial_points(study.space)[0]
    shape = load_shape(file.parent / "shape")
    candidates = plans(shape, hp, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    chosen = settle_plan(candidates, card_memory(study.card).budget_bytes, conformal_margin([]))
    assert chosen is not None
    answer = json.loads(estimate(file, "--json").out)
    found = {plan["name"].split(",")[0]: plan for plan in answer["plans"]}
    assert found["fastest plan that fits"]["required_bytes"] == chosen.estimate.required_bytes
    assert found["smallest plan"]["required_bytes"] == min(
        candidate.estimate.required_bytes for candidate in candidates
    )
    assert "fastest plan that fits" in estimate(file).out


def test_answer_says_where_the_shape_of_a_second_name_came_from(
    estimate: Estimate, write_study: Callable[..., Path]
) -> None:
    name = "unsloth/Qwen2.5-3B-bnb-4bit"
    note = (
        f"{name} has the shape of Qwen/Qwen2.5-3B-Instruct, which is shipped; its weights are a "
        "quantised copy (bnb-4bit)"
    )
    arguments = ("--model", name, "--card", "rtx-5060-ti-16gb")
    assert json.loads(estimate(*arguments, "--json").out)["model_note"] == note
    assert f"note: {note}" in " ".join(estimate(*arguments).out.split())
    assert "note:" not in estimate(*FIT).out
    file = write_study(model={"model_name_or_path": name})
    assert json.loads(estimate(file, "--json").out)["model_note"] == note
    assert f"note: {note}" in " ".join(estimate(file).out.split())


@pytest.mark.parametrize("space", [{}, {"lora_rank": [8, 64], "lora_target": ["qv"]}])
def test_study_is_estimated_at_a_published_configuration(
    estimate: Estimate, write_study: Callable[..., Path], space: dict[str, Any]
) -> None:
    """It is not called the first trial: `gp` starts with points of earlier searches."""
    file = write_study(search_space=space)
    study = load_study(file)
    point = initial_points(study.space)[0]
    shown = json.loads(estimate(file, "--json").out)["hyperparameters"]
    assert shown == point.model_dump(mode="json", exclude={"learning_rate"})
    words = " ".join(estimate(file).out.split())
    assert "; published configuration: " in words
    assert "first" not in words


def test_comparison_of_rows_has_the_largest_difference_first(
    estimate: Estimate, tmp_path: Path
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(ROW))
    printed = predict_rows(estimate, write_rows(tmp_path, ROW | {"cutoff_len": 1024})).out
    b.write_text(printed)
    answer = estimate("--compare", a, b, "--models", DATA / "models", "--json")
    parts = json.loads(answer.out)["parts"]
    sizes = [abs(part["difference_bytes"]) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    (total,) = [t for t in json.loads(answer.out)["totals"] if t["name"] == "process_bytes"]
    assert total["difference_bytes"] == sum(part["difference_bytes"] for part in parts)
    text = estimate("--compare", a, b, "--models", DATA / "models").out
    assert "B - A" in text and "allocated_bytes" in text


def test_comparison_of_a_study_with_itself_is_zero(
    estimate: Estimate, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    parts = json.loads(estimate("--compare", file, file, "--json").out)["parts"]
    assert parts and all(part["difference_bytes"] == 0 for part in parts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["error: nothing to estimate\n", "give one of"]),
        (["demo.yaml", "--points", "rows.jsonl"], ["a file and --points are given"]),
        (["demo.yaml", "--batch", "2"], ["--batch: not an option of a file"]),
        (["--model", "qwen2.5-3b"], ["which card", "RTX 4060 Ti 16GB"]),
        (["--model", "qwen2.5-3b", "--card", "../x"], ["no card '../x'", "configs/cards"]),
        (["--model", "gpt-5", "--card", "a100-40gb"], ["no model 'gpt-5'", "config.json"]),
        (["--model", str(DATA), "--card", "a100-40gb"], ["config.json: no such file"]),
        (["--model", "a\0b", "--card", "a100-40gb"], ["no model"]),
        (["--model", "x" * 9000, "--card", "a100-40gb"], ["model"]),
        ([*FIT, "--optim", "adam"], ["no optimizer 'adam'", "adamw_8bit"]),
        ([*FIT, "--optim", "galore_adamw"], ["galore_adamw is not modelled", "choose one of"]),
        ([*FIT, "--lora-rank", "99999999999"], ["--lora-rank", "not in the range"]),
        ([*FIT, "--batch", str(2**31), "--cutoff-len", str(2**31)], ["absurd sizes"]),
        ([*FIT, "--points", "rows.jsonl"], ["--model and --points"]),
        ([*FIT, "--lora-target", "wo"], ["lora_target 'wo'", "has no wo"]),
        ([*FIT, "--batch", "0"], ["--batch"]),
        ([*FIT, "--lora-dropout", "1"], ["lora_dropout 1.0", "from 0 to 0.99"]),
        ([*FIT, "--lora-dropout", "nan"], ["lora_dropout nan", "from 0 to 0.99"]),
        (["nosuch.yaml"], ["nosuch.yaml", "no such study file"]),
        (["--points", "nosuch.jsonl"], ["nosuch.jsonl", "cannot be read"]),
        (["--points", str(DATA)], ["cannot be read"]),
        (["--points", str(DATA / "vram_truth.jsonl"), "--models", "nosuch"], ["nosuch", "no such"]),
        (["--points", "a.jsonl", "--changes"], ["--changes: not an option of --points"]),
        (["--compare", "nosuch.json", "nosuch.yaml"], ["nosuch.json", "cannot be read"]),
        (["--compare", str(DATA / "vram_truth.jsonl"), "nosuch.yaml"], ["vram_truth.jsonl:1"]),
    ],
)
def test_wrong_arguments_are_refused(
    estimate: Estimate, arguments: list[str], words: list[str]
) -> None:
    answer = estimate(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


@pytest.mark.parametrize(
    "content",
    [b"\x80\x81", b"study: [", b"- 1", b"", b"\x00", b"study: 1", b"a: b", b"[" * 1000],
)
def test_yaml_that_is_neither_study_nor_recipe_is_refused(
    estimate: Estimate, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    for arguments in ([file, "--card", "t4-16gb"], ["--compare", file, file]):
        answer = estimate(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert "any.yaml" in answer.err and "Traceback" not in answer.err


def test_bars_stack_and_end_with_what_is_required() -> None:
    lines = stacked_bar({"weights": 600, "logits": 400}, 1000, 500)
    weights, logits, required, budget = lines
    assert logits.index("#") == weights.rindex("#") + 1
    assert logits.rindex("#") == required.rindex("=")
    assert budget.rindex("-") < required.rindex("=")


def test_part_that_one_side_lacks_counts_as_0() -> None:
    (gone, same) = part_differences({"same": 1, "gone": 5}, {"same": 1})
    assert (gone.name, gone.difference_bytes, same.difference_bytes) == ("gone", -5, 0)


def test_heavy_packages_stay_out(tmp_path: Path) -> None:
    code = (
        "import sys; from vram_search.cli.main import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "estimate", "demo", *FIT[2:]], capture_output=True, text=True
    )
    assert done.returncode in (0, 2)  # 2 without the package that holds the demo's model
    assert not {"torch", "optuna", "sqlalchemy", "transformers"} & set(done.stderr.split())


def test_recipe_of_an_unknown_model_says_what_it_trains_and_takes_a_model(
    estimate: Estimate, tmp_path: Path
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "model_name_or_path: /path/to/model\nlora_rank: 16\nquantization_bit: 4\ncutoff_len: 512\n"
    )
    code, out, err = estimate(file, "--card", "24GB")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert words.startswith("not known whether it fits: the file is read, its model /path/to/model")
    assert "a recipe of LLaMA-Factory: finetuning_type lora, objective sft" in words
    assert "quantization nf4, lora_rank 16" in words
    assert "--model NAME|FOLDER" in words
    assert estimate(file, "--check").code == 1
    answer = json.loads(estimate(file, "--json").out)
    assert answer["fits"] is None and answer["training"]["lora_rank"] == 16
    named = json.loads(estimate(file, "--model", "qwen2.5-0.5b", "--card", "24GB", "--json").out)
    assert named["plans"][0]["fits"] is True
    wrong = estimate(file, "--model", "/no/such", "--card", "24GB")
    assert wrong.code == 2 and "/no/such" in wrong.err


def test_model_is_not_given_for_a_study(
    estimate: Estimate, write_study: Callable[..., Path]
) -> None:
    code, _, err = estimate(write_study(), "--model", "qwen2.5-3b")
    assert code == 2 and "is a study, which names its model" in err


def test_llamafactory_recipe_is_told_from_a_study(estimate: Estimate, tmp_path: Path) -> None:
    recipe = {
        "model_name_or_path": "Qwen/Qwen2.5-3B-Instruct",
        "stage": "sft",
        "finetuning_type": "lora",
        "quantization_bit": 4,
        "lora_rank": 8,
        "lora_target": "all",
        "dataset": "alpaca_en_demo",
        "template": "qwen",
        "cutoff_len": 1024,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "bf16": True,
    }
    file = tmp_path / "recipe.yaml"
    file.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in recipe.items()))
    answer = estimate(file, "--card", "rtx-5060-ti-16gb")
    assert (answer.code, answer.err) == (0, "")
    assert "a recipe of LLaMA-Factory" in answer.out and "RTX 5060 Ti" in answer.out
    as_json = tmp_path / "recipe.json"
    as_json.write_text(json.dumps(recipe))
    compared = estimate("--compare", file, as_json)
    assert compared.code == 0 and "base_weights" in compared.out


@pytest.mark.parametrize(
    ("cutoff_len", "changes", "answer", "bound"),
    [
        (1024, {}, True, "none"),
        (1024, {"stage": "ppo"}, None, "lower"),
        (65536, {"stage": "ppo"}, False, "lower"),
        (1024, {"deepspeed": "ds.json"}, True, "upper"),
        (65536, {"deepspeed": "ds.json"}, None, "upper"),
        (1024, {"stage": "ppo", "deepspeed": "ds.json"}, None, "open"),
    ],
)
def test_what_is_not_modelled_leaves_the_answer_open_where_it_may_turn_it(
    estimate: Estimate,
    tmp_path: Path,
    cutoff_len: int,
    changes: dict[str, Any],
    answer: bool | None,
    bound: str,
) -> None:
    keys = {"model_name_or_path": "Qwen/Qwen2.5-3B-Instruct", "per_device_train_batch_size": 2}
    keys |= {"quantization_bit": 4, "bf16": True, "cutoff_len": cutoff_len, **changes}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(keys))
    (plan,) = json.loads(estimate(file, "--card", "rtx-5060-ti-16gb", "--json").out)["plans"]
    assert (plan["fits"], plan["bound"]) == (answer, bound)
    text = estimate(file, "--card", "rtx-5060-ti-16gb").out
    assert ("recipe.yaml: at most " in text) is (bound == "upper")
    first = text.splitlines()[0]
    words = {True: "fits ", False: "does not fit ", None: "not known whether it fits "}
    assert first.startswith(words[answer])
    assert ("at least" in first, "at most" in first) == (
        answer is None and "stage" in changes,
        answer is None and bound == "upper",
    )


@pytest.mark.parametrize("command", ["estimate", "fit"])
def test_bytes_of_experts_in_16_bits_are_named(
    command: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_class(config: Path) -> ModelTree:
        raise InputError("no class here: the formula counts")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vram-search", command, *arguments])
        with pytest.raises(SystemExit):
            main()
        return " ".join(capsys.readouterr().out.split())

    monkeypatch.setattr(models.tree, "model_tree", no_class)
    card = ("--card", "rtx-4090-24gb")
    words = run("--model", "mixtral-8x7b", *card)
    assert "the experts stay in 16 bits: 84.00 GiB, which would be 21.67 GiB in NF4" in words
    assert "bitsandbytes#1849" in words
    in_16_bits = ("--quantization", "none")
    assert "experts stay" not in run("--model", "mixtral-8x7b", *card, *in_16_bits)
    assert "experts stay" not in run("--model", "llama-2-13b", *card)
