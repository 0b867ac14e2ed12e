"""Short runs are real processes that answer as told; NVML is replayed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_point
from vram_search.errors import InputError, VramSearchError
from vram_search.estimate.memory.predict import predict
from vram_search.gpu import FakeReader, GpuDevice, GpuSample
from vram_search.protocol import TrialJob
from vram_search.spec import MemoryPlan
from vram_search.spec.study import TrainingSpec
from vram_search.units import GIB, KIB, MIB
from vram_search.worker.calibrate import Trained, calibrate, short_run, workload_of

DEVICE = GpuDevice(
    index=0,
    uuid="GPU-1fce55b3",
    name="NVIDIA GeForce RTX 5060 Ti",
    total_bytes=16_311 * MIB,
    driver_version="580.95",
    cuda_driver_version="13.0",
    compute_capability="12.0",
    is_wddm=False,
    display_active=None,
)
RESERVED = 700 * MIB
CONTEXT = 345 * MIB + 4096

CHILD = """
import json, os, sys
lines = json.loads({lines!r})
for line in lines[sys.argv[1]]:
    print(json.dumps(line), flush=True)
    sys.stdin.readline()
"""


def requests(*sizes: int, allocated: int, reserved: int) -> dict[str, Any]:
    return {"sizes": sizes, "allocated_bytes": allocated, "reserved_bytes": reserved}


REQUESTS = [
    requests(KIB + 1, allocated=1536, reserved=2 * MIB),
    requests(MIB + 1, allocated=MIB + 512, reserved=20 * MIB),
    requests(10 * MIB, allocated=10 * MIB, reserved=10 * MIB),
    requests(10 * MIB + 1, allocated=10 * MIB + 512, reserved=12 * MIB),
    requests(12 * MIB, 11 * MIB, allocated=12 * MIB, reserved=12 * MIB),
    requests(12 * MIB, 11 * MIB - 512, allocated=11 * MIB - 512, reserved=12 * MIB),
]
"""What torch's allocator does (c10/cuda/CUDACachingAllocator.cpp)."""


def constants(**changes: Any) -> dict[str, Any]:
    fields = {
        "requests": REQUESTS,
        "cublas_workspace_bytes": 8320 * KIB,
        "cublaslt_workspace_bytes": MIB,
        "given_back_bytes": 9344 * KIB,
    }
    return {**fields, **changes}


def trained(**changes: Any) -> dict[str, Any]:
    job = TrialJob(
        number=0,
        hyperparameters=make_point(lora_target="qv", lora_rank=8, batch_size=2),
        target_modules=("q_proj", "v_proj"),
        plan=MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            gradient_checkpointing=True,
        ),
        training=TrainingSpec(max_steps=2),
        eval_cutoff_len=512,
        seed=1,
        adapter_folder="",
    )
    fields = {
        "versions": {"torch": "2.11.0", "bitsandbytes": "0.50.2"},
        "config": {
            "model_type": "llama",
            "vocab_size": 32_000,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "job": job.model_dump(mode="json"),
        "reserved_bytes": RESERVED,
        "max_allocated_bytes": 500 * MIB,
    }
    return {**fields, **changes}


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The command of a short run that reports what it is given."""

    def command(
        of_constants: dict[str, Any] | None = None, of_training: list[dict[str, Any]] | None = None
    ) -> tuple[str, ...]:
        lines = {
            "constants": [of_constants or constants()],
            "training": of_training or [trained(), trained()],
        }
        file = tmp_path / "child.py"
        file.write_text(CHILD.format(lines=json.dumps(lines)))
        return sys.executable, str(file)

    return command


def sample(process_bytes: int | None, device_bytes: int = 3 * GIB) -> GpuSample:
    return GpuSample(0.0, device_bytes, device_bytes, process_bytes)


def linux_reader() -> FakeReader:
    """Readings before the runs, and during constants, equal texts and padded ones."""
    equal, padded = RESERVED + CONTEXT, RESERVED + CONTEXT + 14 * MIB
    return FakeReader(DEVICE, [sample(None), sample(1), sample(equal), sample(padded)])


def test_the_context_is_what_the_process_holds_beyond_torchs_reserve(child: Any) -> None:
    found = calibrate(linux_reader(), command=child())
    assert (found.context_bytes, found.padded_context_bytes) == (CONTEXT, CONTEXT + 14 * MIB)
    assert found.context_source == "process"
    assert found.cublas_workspace_bytes == 8320 * KIB
    assert found.cublaslt_workspace_bytes == MIB
    assert found.allocator == "as expected"
    assert (found.card_name, found.driver) == (DEVICE.name, "580.95")
    assert found.versions == {"torch": "2.11.0", "bitsandbytes": "0.50.2"}


def test_the_short_training_is_held_against_its_prediction(child: Any) -> None:
    hardware = calibrate(linux_reader(), command=child()).hardware
    predicted = predict(workload_of(Trained.model_validate(trained())), hardware).allocated_bytes
    as_predicted = child(of_training=[trained(max_allocated_bytes=predicted), trained()])
    found = calibrate(linux_reader(), command=as_predicted)
    assert found.measured_over_predicted == 1.0
    assert found.notes == ()
    high = child(of_training=[trained(max_allocated_bytes=predicted * 2), trained()])
    assert "2.000 times" in calibrate(linux_reader(), command=high).notes[0]


def test_without_a_figure_per_process_the_devices_rise_counts_and_says_so(child: Any) -> None:
    idle = 900 * MIB
    busy = sample(None, idle + RESERVED + CONTEXT)
    reader = FakeReader(DEVICE, [sample(None, idle), sample(None), busy, busy])
    found = calibrate(reader, command=child())
    assert (found.context_bytes, found.context_source) == (CONTEXT, "device")
    assert any("nothing else came or went" in note for note in found.notes)


def test_a_neighbour_who_leaves_meanwhile_is_noticed(child: Any) -> None:
    after = sample(None, RESERVED)
    reader = FakeReader(DEVICE, [sample(None, 900 * MIB), sample(None), after, after])
    with pytest.raises(VramSearchError, match="another program gave memory back"):
        calibrate(reader, command=child())


def test_an_allocator_with_other_segments_is_named_with_its_figures(child: Any) -> None:
    odd = requests(MIB + 1, allocated=MIB + 512, reserved=32 * MIB)
    found = calibrate(linux_reader(), command=child(constants(requests=[*REQUESTS, odd])))
    assert found.allocator == "differs"
    (note,) = (note for note in found.notes if "requests of" in note)
    assert str(32 * MIB) in note and str(20 * MIB) in note


def test_workspaces_that_torch_does_not_give_back_are_doubted(child: Any) -> None:
    found = calibrate(linux_reader(), command=child(constants(given_back_bytes=0)))
    assert any("gave back 0 of" in note for note in found.notes)


def test_a_torch_without_cuda_is_refused_in_its_own_words(child: Any) -> None:
    with pytest.raises(InputError, match="built with no CUDA"):
        calibrate(linux_reader(), command=child({"fault": "torch 2.13 (built with no CUDA)"}))


@pytest.mark.parametrize("line", [{"requests": []}, [1, 2], {**constants(), "more": 1}])
def test_a_run_that_reports_something_else_is_refused(child: Any, line: Any) -> None:
    with pytest.raises(VramSearchError, match=r"reported something else|sent an invalid message"):
        calibrate(linux_reader(), command=child(line))


def test_a_run_sees_the_device_that_nvml_reads_and_no_allocator_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    file = tmp_path / "child.py"
    file.write_text(
        "import json, os\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'PYTORCH_CUDA_ALLOC_CONF')\n"
        "print(json.dumps({'fault': [os.environ.get(name) for name in names]}))"
    )
    with pytest.raises(InputError, match=r"\['GPU-1fce55b3', None\]"):
        calibrate(linux_reader(), command=(sys.executable, str(file)))


def python(source: str) -> tuple[str, ...]:
    return sys.executable, "-c", source


def run(source: str, timeout_seconds: float = 60.0) -> None:
    short_run(python(source), os.environ, lambda pid: sample(1), timeout_seconds)


def test_a_full_card_is_told_from_a_broken_stack() -> None:
    with pytest.raises(VramSearchError, match="the card is full"):
        run("raise SystemExit('torch.OutOfMemoryError: CUDA out of memory.')")
    with pytest.raises(VramSearchError, match=r"ended with code 1: .*No module named 'bnb'"):
        run("import sys; sys.exit(\"No module named 'bnb'\")")


def test_a_run_that_dies_after_its_report_is_no_measurement() -> None:
    with pytest.raises(VramSearchError, match="ended with code 3"):
        run("import os; os.write(1, b'{}\\n'); os._exit(3)")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_run_is_named_with_its_signal() -> None:
    with pytest.raises(VramSearchError, match=r"killed \(signal 9\)"):
        run("import os; os.kill(os.getpid(), 9)")


def test_a_run_that_hangs_is_ended() -> None:
    with pytest.raises(VramSearchError, match="longer than 0 s"):
        run("import sys; sys.stdin.read()", timeout_seconds=0.3)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), VramSearchError("the card fell off")])
def test_no_run_outlives_an_interrupted_calibration(error: BaseException) -> None:
    busy = "import threading; print({}, flush=True); threading.Event().wait()"
    pids: list[int] = []

    def interrupted(pid: int) -> GpuSample:
        pids.append(pid)
        raise error

    with pytest.raises(type(error)):
        short_run(python(busy), {}, interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_readings_are_taken_while_the_run_waits() -> None:
    """A run that went on at once would report its second line before the first reading."""
    source = (
        "import json, sys\n"
        "for n in range(2):\n"
        "    print(json.dumps({'n': n}), flush=True)\n"
        "    assert sys.stdin.readline() == '\\n'\n"
    )
    reader = FakeReader(DEVICE, [sample(1), sample(2)])
    found = short_run(python(source), os.environ, reader.sample)
    assert [(one.report["n"], one.sample.process_bytes) for one in found] == [(0, 1), (1, 2)]
