"""A model's name is resolved: folder, shipped shape, second name, local cache, hub."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.models.popular_names import HELD_BACK, REPORTED
from vram_search.errors import InputError
from vram_search.models import find_by_path, find_model, find_on_this_machine
from vram_search.models.hub import is_online
from vram_search.models.names import hub_names, shipped_name
from vram_search.resources import shipped
from vram_search.spec.shape import shape_names

INDEX = json.loads(shipped("configs", "models", "index.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network and an empty cache, whatever the machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_index_names_every_shape_and_no_name_twice() -> None:
    assert sorted(INDEX) == shape_names()
    names = [name.lower() for name in hub_names()]
    assert len(set(names)) == len(names)
    assert len(shape_names()) >= 150


@pytest.mark.parametrize("slug", shape_names())
def test_every_name_of_a_shape_finds_it(slug: str) -> None:
    for name in (slug, *INDEX[slug]["names"]):
        found = shipped_name(name)
        assert found is not None and found.slug == slug


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen3-4B-Thinking-2507", "qwen3-4b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2.5-7b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "r1-distill-qwen-1.5b"),
        ("NousResearch/Llama-2-7b-hf", "llama-2-7b"),
        ("Qwen/Qwen-14B-Chat", "qwen1.5-14b"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b"),
        ("unsloth/Qwen3-14B-unsloth-bnb-4bit", "qwen3-14b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
    ],
)
def test_second_names_share_a_shape(name: str, slug: str) -> None:
    found = find_model(name)
    assert found.config.name == slug
    assert found.origin in ("shipped", "alias")
    assert (name in found.note) is (found.origin == "alias")


def test_owner_counts() -> None:
    """Unsloth's Phi-4 has Llama's layers, Microsoft's has fused ones."""
    assert find_model("unsloth/phi-4").shape().model_type == "llama"
    assert find_model("microsoft/phi-4").shape().model_type == "phi3"
    assert shipped_name("somebody/Qwen2.5-3B-Instruct") is None


def test_quantised_copy_is_named_as_such() -> None:
    found = find_model("unsloth/Llama-3.2-3B-Instruct-bnb-4bit")
    assert found.checkpoint == "bnb-4bit"
    assert "quantised copy" in found.note


def test_same_name_of_another_owner_is_used_offline_with_a_note() -> None:
    found = find_model("somebody/Qwen2.5-3B-Instruct")
    assert found.origin == "same name"
    assert found.config.name == "qwen2.5-3b"
    assert "out of reach" in found.note


def test_reported_and_held_back_names_have_a_shape_without_network() -> None:
    found = {name: find_on_this_machine(name) for name in (*REPORTED, *HELD_BACK)}
    missing = [name for name, model in found.items() if model is None]
    assert missing == ["cognitivecomputations/dolphin-2.9-llama3-8b"]  # no published config.json
    assert all(model.config.name for model in found.values() if model is not None)


@pytest.mark.parametrize(
    ("name", "slug", "checkpoint"),
    [
        ("TheBloke/Llama-2-7B-GPTQ", "llama-2-7b", "gptq"),
        ("hugging-quants/Meta-Llama-3.1-405B-BNB-NF4-BF16", "llama-3.1-405b", "bnb-4bit"),
        ("nvidia/Qwen3-30B-A3B-NVFP4", "qwen3-30b-a3b", "nvfp4"),
        ("RedHatAI/Llama-3.2-3B-Instruct-FP8-Dynamic", "llama-3.2-3b", "fp8"),
        ("axolotl-ai-co/Mistral-Small-4-119B-2603-BF16", "mistral-small-4-119b", ""),
        ("unsloth/Hermes-3-Llama-3.1-8B-bnb-4bit", "llama-3.1-8b", "bnb-4bit"),
    ],
)
def test_copies_of_known_publishers_share_a_shape(name: str, slug: str, checkpoint: str) -> None:
    found = find_on_this_machine(name)
    assert found is not None
    assert (found.config.name, found.origin, found.checkpoint) == (slug, "alias", checkpoint)


@pytest.mark.parametrize(
    ("name", "slug", "checkpoint"),
    [
        ("RedHatAI/Llama-3.3-70B-Instruct-quantized.w4a16", "llama-3.1-70b", "gptq"),
        ("Intel/Qwen3-8B-int4-AutoRound", "qwen3-8b", "gptq"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.1-70b", "nvfp4"),
        ("ISTA-DASLab/Meta-Llama-3.1-8B-AQLM-PV-2Bit-1x16-hf", "llama-3.1-8b", "aqlm"),
        ("somebody/Qwen3-8B-gptqmodel-4bit", "qwen3-8b", "gptq"),
        ("somebody/Qwen2.5-7B-Instruct-4bit-gptq", "qwen2.5-7b", "gptq"),
    ],
)
def test_further_endings_of_quantised_copies_are_known(
    name: str, slug: str, checkpoint: str
) -> None:
    found = find_model(name)
    assert (found.config.name, found.checkpoint) == (slug, checkpoint)


@pytest.mark.parametrize(
    ("name", "slug", "what"),
    [
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "llama-3.1-8b", "GGUF files"),
        ("mlx-community/Qwen2.5-7B-Instruct-4bit", "qwen2.5-7b", "MLX weights"),
        ("turboderp/Qwen3-8B-exl2", "qwen3-8b", "ExLlama weights"),
    ],
)
def test_copies_for_other_programs_stand_for_their_original(
    name: str, slug: str, what: str
) -> None:
    found = find_model(name)
    assert found.config.name == slug
    assert f"holds {what}, which are not trained" in found.note


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Qwen/Qwen2.5-7B-Instruct@main", "qwen2.5-7b"),
        ("'Qwen/Qwen3-4B'", "qwen3-4b"),
        ("Qwen/Qwen3-4B/", "qwen3-4b"),
        ("hf://Qwen/Qwen3-4B", "qwen3-4b"),
        ("https://www.modelscope.cn/models/Qwen/Qwen3-4B", "qwen3-4b"),
        ("huggingface.co/Qwen/Qwen3-4B?library=transformers", "qwen3-4b"),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "llama-3.2-3b"),
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama-3.1-8b"),
        ("qwen2.5:7b-instruct-q4_K_M", "qwen2.5-7b"),
        ("llama3.2:3b", "llama-3.2-3b"),
        ("gemma3:4b-it-qat", "gemma-3-4b"),
        ("Llama 3.1 8B Instruct", "llama-3.1-8b"),
        ("mistral 7b v0.3", "mistral-7b-v0.3"),
    ],
)
def test_a_name_is_found_as_people_write_it(name: str, slug: str) -> None:
    assert find_model(name).config.name == slug


@pytest.mark.parametrize("name", ["qwen 27b", "gemma 34b", "llama-27b", "Falcon 37B", "yi 1 56b"])
def test_the_digits_of_a_version_and_a_size_do_not_run_together(name: str) -> None:
    with pytest.raises(InputError, match="no model"):
        find_model(name)


def test_ollamas_tag_of_an_untuned_model_is_the_published_one() -> None:
    assert "taken for Qwen/Qwen2.5-Coder-1.5B," in find_model("qwen2.5-coder:1.5b-base").note
    assert "taken for meta-llama/Llama-3.1-8B," in find_model("llama3.1:8b-text-q4_K_M").note


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("deepseek-r1:7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B?"),
        ("qwen3-coder:30b", "Qwen/Qwen3-Coder-30B-A3B-Instruct?"),
        ("llama3.2-vision:11b", "meta-llama/Llama-3.2-11B-Vision,"),
        ("ministral-8b", "mistralai/Ministral-3-8B-Base-2512,"),
        ("llama4", "meta-llama/Llama-4-Scout-17B-16E,"),
    ],
)
def test_a_name_that_is_not_found_gets_published_ones_with_its_words(name: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        find_model(name)
    assert caught.value.remedy.startswith(f"did you mean {meant}")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nomic-embed-text", "an embedding model"),
        ("qwen3-embedding:0.6b", "an embedding model"),
        ("BAAI/bge-m3", "an embedding model"),
        ("bge-m3", "an embedding model"),
        ("all-minilm:22m", "an embedding model"),
        ("whisper-large-v3", "a speech recognition model"),
        ("stable-diffusion-3.5", "an image generation model"),
    ],
)
def test_models_of_another_kind_are_named_without_their_owner_too(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"is {kind}, not a causal text model"):
        find_model(name)


@pytest.mark.parametrize("name", ["qwen", "llama3.1", "./Qwen2.5-7B", "Qwen 2.5"])
def test_a_name_without_a_size_or_of_a_missing_folder_is_not_guessed(name: str) -> None:
    with pytest.raises(InputError, match="no model"):
        find_model(name)


def test_the_folder_of_an_adapter_names_its_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-4B"}')
    with pytest.raises(InputError, match="holds an adapter of Qwen/Qwen3-4B") as caught:
        find_model(str(tmp_path))
    assert caught.value.remedy == "give the model Qwen/Qwen3-4B"


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        ("/data/models/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("D:\\llm\\Llama-3.1-8B-Instruct-AWQ", "llama-3.1-8b"),
        ("saves/qwen3-4b/full/sft", "qwen3-4b"),
        ("~/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/1cfa9a72", "qwen3-4b"),
        ("/root/.cache/modelscope/hub/Qwen/Qwen2___5-3B-Instruct", "qwen2.5-3b"),
        ("/path/to/DeepSeek-V3.1-source", "deepseek-v3"),
        ("/path/to/model", ""),
        ("out/checkpoint-1200", ""),
        ("/data/llama", ""),
    ],
)
def test_a_path_of_another_machine_may_hold_a_name(path: str, slug: str) -> None:
    found = find_by_path(path)
    assert (found.config.name if found else "") == slug
    if found:
        assert path in found.note and "is not on this machine" in found.note


def test_a_copy_for_other_programs_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="holds GGUF files, which are not trained") as caught:
        find_model("somebody/Unheard-Of-GGUF")
    assert caught.value.remedy == "name the model that it was made from"


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/Qwen/Qwen2.5-7B-Instruct",
        "hf.co/Qwen/Qwen2.5-7B-Instruct/tree/main",
        " Qwen/Qwen2.5-7B-Instruct ",
        "Qwen2.5-7B-Instruct",
    ],
)
def test_an_address_and_a_name_without_owner_find_the_model(name: str) -> None:
    assert find_model(name).config.name == "qwen2.5-7b"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("somebody/Qwen2.5-7B-Instruct-abliterated", "qwen2.5-7b"),
        ("somebody/Meta-Llama-3.1-8B-Instruct-GPTQ-INT4", "llama-3.1-8b"),
        ("somebody/gemma-2-9b-it-SimPO", "gemma-2-9b"),
        ("somebody/Josiefied-Qwen3-8B-abliterated-v1", "qwen3-8b"),
        ("somebody/dolphin-2.9.4-llama3.1-8b", "llama-3.1-8b"),
        ("somebody/Llama-3-Words-Between-8B", "llama-3.1-8b"),
        ("somebody/typhoon2.1-gemma3-4b", "gemma-3-4b"),
        ("somebody/MyHermes-Qwen3-30B-A3B-AWQ", "qwen3-30b-a3b"),
    ],
)
def test_tuned_copy_offline_is_taken_for_the_model_whose_name_it_holds(
    name: str, slug: str
) -> None:
    found = find_model(name)
    assert (found.config.name, found.origin) == (slug, "same name")
    assert "whose name is the same or a part of it" in found.note


@pytest.mark.parametrize(
    "name",
    [
        "somebody/Phi-4-mini-flash-reasoning",
        "somebody/Llama-3.1-8B-Pruned-4B",
        "somebody/Gemma-5-2B",  # no number between family and size
        "somebody/Llama-Pro-13B",  # a family without its version, and words between
        "somebody/Qwen3-7.5B",
    ],
)
def test_name_that_states_another_size_is_not_guessed(name: str) -> None:
    with pytest.raises(InputError, match="hub is out of reach"):
        find_model(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("openai/whisper-large-v3", "speech recognition"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "image generation"),
        ("BAAI/bge-m3", "embedding"),
        ("google-bert/bert-base-uncased", "encoder"),
        ("google/flan-t5-large", "encoder-decoder"),
        ("google/t5gemma-2-1b-1b", "encoder-decoder"),
        ("Qwen/Qwen3-TTS-1.7B", "speech synthesis"),
    ],
)
def test_name_of_a_model_that_writes_no_text_is_refused_as_such(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"{kind} model|an {kind}, not"):
        find_model(name)


def test_unknown_name_offline_says_what_to_do_in_one_message() -> None:
    with pytest.raises(InputError) as error:
        find_model("somebody/unheard-of-3b")
    assert "hub is out of reach" in error.value.message
    assert "hf download somebody/unheard-of-3b config.json" in error.value.remedy


def test_mistyped_name_gets_the_nearest_ones() -> None:
    with pytest.raises(InputError, match=r"no model 'qwen2\.5-7'") as error:
        find_model("qwen2.5-7")
    assert "qwen2.5-7b" in error.value.remedy


def test_model_in_the_local_cache_is_found_without_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--somebody--tuned" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    config = shipped("configs", "models", "qwen2.5-3b", "config.json").read_text("utf-8")
    (snapshot / "config.json").write_text(config)
    refs = tmp_path / "hub" / "models--somebody--tuned" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123")
    found = find_on_this_machine("somebody/tuned")
    assert found is not None
    assert found.origin == "cache" and "cache" in found.note
    assert found.shape().model_type == "qwen2"


def test_folder_comes_before_everything_else(tmp_path: Path) -> None:
    config = shipped("configs", "models", "gemma-2-2b", "config.json").read_text("utf-8")
    folder = tmp_path / "Qwen" / "Qwen2.5-3B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    found = find_model("Qwen/Qwen2.5-3B", beside=tmp_path)
    assert found.origin == "folder"
    assert found.shape().model_type == "gemma2"


def test_folder_without_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        find_model("empty")


@pytest.mark.parametrize("name", ["", "a" * 5000, "../../etc/passwd", "a/b/c", "Qwen/\x00", "-x/y"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        find_model(name)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: one open model, one gated one."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        body = shipped("configs", "models", "qwen2.5-3b", "config.json").read_bytes()
        if self.path.startswith("/org/open/resolve/main/config.json"):
            self.send_response(200)
            self.send_header("ETag", '"0123"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)
            return
        gated = self.path.startswith("/org/gated/")
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FIND = """
import sys
from tests.models.popular_names import HELD_BACK, REPORTED
from vram_search.errors import InputError
from vram_search.models import find_model
try:
    found = find_model(sys.argv[1])
    print(found.origin, found.shape().model_type)
except InputError as error:
    print(error)
"""


def find_on(hub: str, home: Path, name: str) -> str:
    """The answer of a fresh process that asks this hub."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FIND, name], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hub_is_asked_last_and_once(hub: str, tmp_path: Path) -> None:
    assert find_on(hub, tmp_path, "org/open") == "hub qwen2\n"
    assert find_on(hub, tmp_path, "org/open") == "cache qwen2\n"


def test_gated_model_is_explained(hub: str, tmp_path: Path) -> None:
    answer = find_on(hub, tmp_path, "org/gated")
    assert "is gated" in answer and "HF_TOKEN" in answer


def test_model_that_the_hub_does_not_know(hub: str, tmp_path: Path) -> None:
    assert "does not exist on the hub" in find_on(hub, tmp_path, "org/none")


@pytest.mark.parametrize(
    ("file", "slug"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", "qwen2.5-7b"),
        ("qwen2.5-7b-instruct-q8_0.gguf", "qwen2.5-7b"),
        ("Llama-3.1-8B-Instruct-UD-IQ2_XXS.gguf", "llama-3.1-8b"),
        ("Qwen3-4B-BF16.gguf", "qwen3-4b"),
    ],
)
def test_gguf_file_has_the_shape_of_its_name(tmp_path: Path, file: str, slug: str) -> None:
    (tmp_path / file).touch()
    found = find_model(str(tmp_path / file))
    assert found.config.name == slug and "by its name" in found.note


def test_gguf_file_of_an_unknown_name_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").touch()
    with pytest.raises(InputError, match="no shipped model is called 'mine'") as caught:
        find_model(str(tmp_path / "mine.gguf"))
    assert "shape:" in (caught.value.remedy or "")


def test_hub_is_reached_through_the_proxy_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a company's proxy the hub's own address does not answer."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: False)
    asked = []

    def connect(address: tuple[str, int], seconds: float) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    for proxy in ("", "http://user:word@proxy.example:3128", "proxy.example", "p.example:no-port"):
        monkeypatch.setattr(urllib.request, "getproxies", lambda proxy=proxy: {"https": proxy})
        assert not is_online()
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: True)
    assert not is_online()
    hub = ("hub.example", 443)
    assert asked == [hub, ("proxy.example", 3128), ("proxy.example", 80), hub]
