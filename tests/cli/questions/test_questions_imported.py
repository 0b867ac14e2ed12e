"""Every question can be put to runs made elsewhere, of which much is unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Ask = Any

TABLE = """\
run,outcome,model_name_or_path,eval_loss,steps_done,steps_total,optim,lora_target,lora_rank,train_runtime
[bold]first,complete,Qwen/Qwen2.5-3B-Instruct,1.0026,51,51,adamw_8bit,"q_proj,v_proj",8,174
ultra,oom,Qwen/Qwen2.5-3B-Instruct,,2,51,adamw_torch_fused,[/x],4,
second,complete,Qwen/Qwen2.5-1.5B-Instruct,0.9358,,,adamw_torch,all,8,
no logs,complete,Qwen/Qwen2-7B-Instruct,,,,,,,
dead,lost,Qwen/Qwen2-7B-Instruct,,,,,,,
early,pruned,Qwen/Qwen2-7B-Instruct,1.5,,,,,,
wild,diverged,Qwen/Qwen2-7B-Instruct,,,,,,,
"""


@pytest.fixture
def imported(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(TABLE)
    assert ask("import", tmp_path / "runs.csv").code == 0


@pytest.mark.usefixtures("imported")
def test_best_imported_run_is_told_with_what_its_loss_means(ask: Ask) -> None:
    out = ask("best").out
    assert "trial 2, eval_loss 0.9358" in out
    assert "\n  settings         all r8" in out and "\n  imported         run second" in out
    assert "\n  evaluation       0.9358 per token" in ask("show", "best").out
    assert "each eval_loss is its own tool's" in out


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_unknown_fields_are_no_obstacle(ask: Ask, form: list[str]) -> None:
    for number in range(7):
        assert ask("why", number, *form).code == 0
        if number:
            assert ask("compare", 0, number, *form).code == 0
    assert ask("top", "--all", *form).code == 0


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("command", ["train", "merge", "card", "samples", "chat"])
def test_imported_runs_are_not_trained_or_used_here(ask: Ask, command: str) -> None:
    answer = ask(command, "best")
    assert answer.code == 2
    assert "holds imported runs: they were not trained here" in answer.err


@pytest.mark.usefixtures("imported")
def test_names_are_printed_as_they_are(ask: Ask) -> None:
    assert "[/x]" in ask("top", "--all").out
    assert ask("top", "--all", "--csv").csv[0]["run"] == "[bold]first"
    assert ask("top", "--all", "--csv").csv[0]["seconds"] == "174.0"


@pytest.mark.usefixtures("imported")
def test_other_models_are_named_before_their_losses_are_compared(ask: Ask) -> None:
    notes = ask("compare", 0, 2, "--json").json["notes"]
    assert "another model or other rows: the losses do not compare" in notes


@pytest.mark.usefixtures("imported")
def test_what_is_unknown_of_both_runs_is_not_called_the_same(ask: Ask) -> None:
    assert "plan: not known" in ask("compare", 0, 2).words
    assert "settings: not known" in ask("compare", 3, 4).words
    assert ": the same" not in ask("compare", 3, 4).out


@pytest.mark.usefixtures("imported")
def test_required_bytes_of_imported_runs_are_unknown(ask: Ask) -> None:
    assert ask("pareto").code == 2
    assert ask("best", "--limit", "1TiB").code == 2
    assert ask("best", "--time-limit", "3m", "--json").json["trial"]["number"] == 0


MODULES = ["best", "top", "compare", "pareto", "importance", "why"]


@pytest.mark.parametrize("module", MODULES)
def test_question_loads_neither_training_nor_search(module: str) -> None:
    code = f"import sys, vram_search.cli.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "optuna", "alembic", "rich"}
    assert heavy & set(done.stdout.split()) == set()
