"""The Python API: light to import, typed, and its page of examples runs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import vram_search
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search import api
from vram_search.answers.run import RunAnswer
from vram_search.worker import process

ROOT = Path(__file__).resolve().parent.parent
RECIPE = """\
model_name_or_path: Qwen/Qwen2.5-3B-Instruct
quantization_bit: 4
finetuning_type: lora
lora_target: all
cutoff_len: 1024
per_device_train_batch_size: 2
bf16: true
"""


def test_examples_of_the_page_run(
    home: Path,
    write_study: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_study()
    (tmp_path / "shape" / "model.safetensors").touch()  # the fake process loads no weights
    write_study(model={"model_name_or_path": "shape"})
    (tmp_path / "qlora.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "COMMAND", FAKE_TRAINER)
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/python-api.md", "exec"), names)
    answer = names["ended"]
    assert isinstance(answer, RunAnswer)
    schema = json.loads((ROOT / "docs" / "schema" / "run.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(answer.as_dict())
    printed = capsys.readouterr().out
    assert "3 trials are finished" in printed
    assert "no optimizer 'adam'" in printed


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, vram_search; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "optuna", "pydantic", "sqlalchemy", "numpy", "yaml", "inspect"}
    assert heavy & set(done.stdout.split()) == set()


def test_asking_for_bytes_loads_neither_torch_nor_optuna_nor_the_database() -> None:
    code = (
        "import sys, vram_search; vram_search.estimate('qwen2.5-3b', '16GB'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "optuna", "sqlalchemy"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize("name", [n for n in vram_search.__all__ if n != "__version__"])
def test_every_name_is_there_with_a_docstring(name: str) -> None:
    assert callable(getattr(vram_search, name))
    described = getattr(api, name, getattr(vram_search, name))
    assert described.__doc__


@pytest.mark.parametrize("name", ["estimate", "export"])
def test_function_that_shares_its_name_with_a_package_is_both(name: str) -> None:
    package = getattr(vram_search, name)
    assert inspect.signature(package) == inspect.signature(getattr(api, name))
    assert package is sys.modules[f"vram_search.{name}"]


def test_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"vram_search.* has no attribute 'nothing'"):
        vram_search.nothing  # type: ignore[attr-defined]  # noqa: B018, asking is the test


def test_types_reach_a_user_of_the_package(tmp_path: Path) -> None:
    script = tmp_path / "use.py"
    script.write_text(
        "import vram_search\n"
        "fits: bool | None = vram_search.estimate('qwen2.5-3b', '16GB').fits\n"
        "wrong: str = vram_search.fit('qwen2.5-3b', '16GB').card.budget_bytes\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert re.findall(r"use\.py:(\d+): error", done.stdout) == ["3"], done.stdout
