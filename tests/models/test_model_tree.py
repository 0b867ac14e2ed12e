"""Reading a module tree through the cache and the subprocess."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.tiny import TINY_CONFIG
from tests.model_code.configs import STARCODER_2
from tests.model_code.in_process import read_in_this_process
from vram_search.errors import InputError
from vram_search.extras import MissingPackageError
from vram_search.models import tree as tree_module
from vram_search.models.tree import model_tree, read_shape, tree_key


def written(folder: Path, values: dict[str, object]) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "read", [read_in_this_process, pytest.param(subprocess.run, marks=pytest.mark.slow)]
)
def test_tree_is_read_by_another_process_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[..., Any]
) -> None:
    monkeypatch.setattr(subprocess, "run", read)
    tree = model_tree(written(tmp_path, STARCODER_2))
    assert tree.class_name == "Starcoder2ForCausalLM"
    tree_module._tree.cache_clear()
    monkeypatch.setattr(tree_module, "_read_from_class", lambda file: pytest.fail("read again"))
    assert model_tree(tmp_path) == tree
    assert len(list((home / "cache" / "trees").iterdir())) == 1


def test_broken_cache_is_read_again(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, STARCODER_2)
    folder = home / "cache" / "trees"
    folder.mkdir(parents=True)
    (folder / f"{tree_key(STARCODER_2)}.json").write_text('{"format": 2, "lin', encoding="utf-8")
    monkeypatch.setattr(tree_module, "_read_from_class", lambda file: pytest.fail("is read"))
    with pytest.raises(pytest.fail.Exception, match="is read"):
        model_tree(file)


def test_copies_of_one_model_share_a_tree() -> None:
    copy = {**STARCODER_2, "_name_or_path": "somebody/copy", "torch_dtype": "float16"}
    assert tree_key(copy) == tree_key(STARCODER_2)
    assert tree_key({**STARCODER_2, "hidden_size": 64}) != tree_key(STARCODER_2)


def test_refusal_of_the_class_is_one_sentence(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", read_in_this_process)
    with pytest.raises(InputError, match="has no model_type 'chatglm9'") as refused:
        model_tree(written(tmp_path, {"model_type": "chatglm9"}))
    assert "\n" not in refused.value.message


def test_absurd_number_of_layers_is_refused_before_the_class_is_asked(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(InputError, match="num_hidden_layers: is more than 10,000"):
        model_tree(written(tmp_path, STARCODER_2 | {"num_hidden_layers": 10**9}))


def test_class_that_takes_too_long_is_one_message(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("model_code", 300)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(InputError, match="took more than 300 s"):
        model_tree(written(tmp_path, STARCODER_2))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"quant_method": "newthing"}, "the bytes of quant_method 'newthing' are not known"),
        ({"bits": 4}, "quant_method"),
        ([1], "quantization_config"),
    ],
)
def test_weights_in_an_unknown_format_are_not_read_as_plain_ones(
    tmp_path: Path, section: object, words: str
) -> None:
    """The class alone would drop the section."""
    file = written(tmp_path, {**TINY_CONFIG, "quantization_config": section})
    with pytest.raises(InputError, match=words):
        read_shape(file)


def test_a_file_that_its_class_alone_can_read_keeps_the_format_of_its_weights(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", read_in_this_process)
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    values = {key: value for key, value in STARCODER_2.items() if key != "vocab_size"}
    shape = read_shape(written(tmp_path, {**values, "quantization_config": section}))
    assert shape.checkpoint is not None and shape.checkpoint.title == "gptq"
    assert "the checkpoint is already quantised (gptq)" in shape.not_modelled


def test_light_installation_says_what_needs_transformers(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "installed_version", lambda _: "")
    with pytest.raises(MissingPackageError, match="the modules of starcoder2 from its class needs"):
        model_tree(written(tmp_path, STARCODER_2))
