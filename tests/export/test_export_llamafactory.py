"""What an export for LLaMA-Factory holds, and that it reads back as the trial it came from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import make_point
from vram_search.data import Example, Rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.export import TOOLS, Template, export_files, exported_trial, parse_export
from vram_search.export.llamafactory_schema import check_llamafactory
from vram_search.export.trial import MOST_EVALUATIONS, eval_interval
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan, load_shape
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.store import StudyRecord, TrialRecord

PHI_3 = load_shape(shipped("configs", "models", "phi-3-mini-4k"))


def llamafactory_files(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    *,
    template: Template | None = None,
    **options: Any,
) -> dict[str, str]:
    exported = exported_trial(study, trial, rows, **options)
    return export_files(TOOLS["llama-factory"], replace(exported, template=template))


targets = st.one_of(
    st.sampled_from(sorted(LORA_TARGET_SETS)),
    st.lists(
        st.sampled_from(["q_proj", "k_proj", "up_proj", "down_proj"]), min_size=1, unique=True
    ).map(",".join),
)
plans = st.builds(
    MemoryPlan,
    per_device_train_batch_size=st.integers(1, 512),
    gradient_accumulation_steps=st.integers(1, 512),
    gradient_checkpointing=st.booleans(),
    enable_liger_kernel=st.booleans(),
    per_device_eval_batch_size=st.integers(1, 512),
    expandable_segments=st.booleans(),
)


@st.composite
def points(draw: st.DrawFn) -> tuple[Hyperparameters, MemoryPlan]:
    plan = draw(plans)
    hp = make_point(
        optim=draw(st.sampled_from(sorted(OPTIMIZERS))),
        lora_target=draw(targets),
        lora_rank=draw(st.integers(1, 1024)),
        lora_alpha=draw(st.integers(1, 4096)),
        cutoff_len=draw(st.integers(16, 1_048_576)),
        batch_size=plan.batch_size,
        learning_rate=draw(st.floats(1e-300, 1.0)),
    )
    return hp, plan


def config_of(files: dict[str, str]) -> dict[str, object]:
    (text,) = [text for name, text in files.items() if name.endswith(".yaml")]
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


@given(point=points())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hyperparameters_and_plan_survive_the_way_there_and_back(
    study: StudyRecord, trial: TrialRecord, rows: Rows, point: tuple[Hyperparameters, MemoryPlan]
) -> None:
    hp, plan = point
    recorded = replace(
        trial, hyperparameters=hp.model_dump(mode="json"), plan=plan.model_dump(mode="json")
    )
    files = llamafactory_files(study, recorded, rows)
    assert check_llamafactory(config_of(files)) == []
    assert parse_export(TOOLS["llama-factory"], files["demo-trial-7.yaml"]) == {
        "hyperparameters": recorded.hyperparameters,
        "plan": recorded.plan,
        "seed": recorded.seed,
    }


def test_the_first_line_is_the_command_that_runs_it(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    text = llamafactory_files(study, trial, rows)["demo-trial-7.yaml"]
    assert text.splitlines()[0] == "# llamafactory-cli train demo-trial-7.yaml"
    assert "#   PowerShell  llamafactory-cli train .\\demo-trial-7.yaml" in text.splitlines()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in text


def test_expandable_segments_are_set_for_bash_only(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    assert trial.plan is not None
    trial = replace(trial, plan=trial.plan | {"expandable_segments": True})
    lines = llamafactory_files(study, trial, rows)["demo-trial-7.yaml"].splitlines()
    assert lines[0].startswith("# PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True llamafactory")
    assert not any("PYTORCH" in line for line in lines if "PowerShell" in line)


def test_hyperparameters_stand_under_llamafactorys_names(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config = config_of(llamafactory_files(study, trial, rows))
    expected = {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
        "quantization_bit": 4,
        "quantization_type": "nf4",
        "double_quantization": True,
        "lora_target": "q_proj,v_proj",
        "lora_rank": 16,
        "lora_alpha": 32,
        "cutoff_len": 256,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "disable_gradient_checkpointing": False,
        "max_steps": 90,
        "warmup_steps": 9,
        "bf16": True,
        "seed": 43,
        "data_seed": 43,
        "template": "qwen",
        "report_to": "none",
    }
    assert {key: config.get(key) for key in expected} == expected
    assert "trust_remote_code" not in config


def test_every_trial_has_an_output_folder_of_its_own(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    folders = {
        config_of(llamafactory_files(study, replace(trial, number=number), rows))["output_dir"]
        for number in range(5)
    }
    assert len(folders) == 5


def test_a_card_without_bfloat16_trains_in_fp16(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    old = study.spec["card"] | {"compute_capability": "7.5"}
    config = config_of(
        llamafactory_files(replace(study, spec=study.spec | {"card": old}), trial, rows)
    )
    assert (config["bf16"], config["fp16"]) == (False, True)


def test_a_trial_that_never_counted_its_steps_gets_those_of_its_epochs(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    unstarted = replace(trial, outcome="infeasible", steps_total=0, eval_loss_step=None)
    config = config_of(llamafactory_files(study, unstarted, rows))
    # 4 rows, micro-batches of 2, 4 of them accumulated: one step an epoch, three epochs
    assert config["max_steps"] == 3


@given(best=st.integers(1, 5000), rest=st.integers(0, 5000), rung=st.floats(0.01, 0.99))
def test_the_best_checkpoint_is_one_that_llamafactory_evaluates(
    best: int, rest: int, rung: float
) -> None:
    every = eval_interval(best, (rung,), best + rest)
    assert best % every == 0
    assert (best + rest) // every <= MOST_EVALUATIONS or every == best


def test_the_first_rung_sets_the_pace_of_evaluations() -> None:
    assert eval_interval(90, (1 / 9,), 90) == 10
    assert eval_interval(67, (1 / 9,), 100) == 67
    assert eval_interval(90, (), 90) == 90


def test_bytes_are_labelled_predicted_or_measured(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    text = llamafactory_files(study, trial, rows)["demo-trial-7.yaml"]
    assert "# peak bytes measured on NVIDIA Test: VRAM needed 2.50 GiB, reserved 2.00 GiB" in text
    assert "# peak bytes predicted for Test Card 8 GB: VRAM needed 3.00 GiB" in text
    on_cpu = replace(trial, measured=None, device="CPU")
    text = llamafactory_files(study, on_cpu, rows)["demo-trial-7.yaml"]
    assert "# peak bytes predicted for Test Card 8 GB" in text
    assert "measured on" not in text
    unknown = replace(trial, measured=None, predicted=None)
    text = llamafactory_files(study, unknown, rows)["demo-trial-7.yaml"]
    assert "# peak bytes neither predicted nor measured" in text


def test_provenance_names_study_trial_losses_versions_seed_data_and_date(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    text = llamafactory_files(study, trial, rows)["demo-trial-7.yaml"]
    for part in (
        "demo, revision 2",
        "7, outcome complete, of 2026-03-01 09:30 UTC",
        "1.2345 nats per answer token, best checkpoint (step 60)",
        "at the study's eval cutoff of 512 tokens",
        "1.2401 at cutoff_len 256; transformers' Trainer averages over batches",
        "torch 2.13.0, transformers 5.6.0",
        "seed       43; data hash d1",
    ):
        assert part in text


def test_a_trial_without_a_loss_says_so(study: StudyRecord, trial: TrialRecord, rows: Rows) -> None:
    early = replace(trial, outcome="oom", eval_loss=None, eval_loss_step=None)
    text = llamafactory_files(study, early, rows)["demo-trial-7.yaml"]
    assert "outcome oom" in text
    assert "eval_loss  none was measured" in text


@given(device=st.text(), version=st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_recorded_text_breaks_out_of_its_comment(
    study: StudyRecord, trial: TrialRecord, rows: Rows, device: str, version: str
) -> None:
    odd = replace(trial, device=device, versions={"torch": version})
    plain = config_of(llamafactory_files(study, trial, rows))
    assert config_of(llamafactory_files(study, odd, rows)) == plain


def test_rows_are_written_as_they_were_split(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    files = llamafactory_files(study, trial, rows)
    for name, examples in (("train", rows.train), ("eval", rows.eval)):
        written = json.loads(files[f"{name}.json"])
        assert written == [{"messages": example.turns} for example in examples]
    info = json.loads(files["dataset_info.json"])
    config = config_of(files)
    assert info[config["dataset"]]["file_name"] == "train.json"
    assert info[config["eval_dataset"]]["file_name"] == "eval.json"
    assert info["train"]["columns"] == {"messages": "messages"}
    assert info["train"]["tags"]["assistant_tag"] == "assistant"


@pytest.mark.parametrize(
    "roles",
    [
        ("assistant",),
        ("user", "user", "assistant"),
        ("user", "assistant", "assistant"),
        ("user", "system", "assistant"),
    ],
)
def test_rows_that_llamafactory_would_drop_are_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows, roles: tuple[str, ...]
) -> None:
    odd = Rows((*rows.train, Example(tuple((role, "x") for role in roles))), rows.eval, "d1")
    with pytest.raises(FaultyFileError, match=r"row 5.*would drop"):
        llamafactory_files(study, trial, odd)


def test_rows_that_changed_since_the_trial_are_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    with pytest.raises(InputError, match=r"changed since trial 7.*\n?restore the data set"):
        llamafactory_files(study, trial, replace(rows, data_hash="d2"))


def test_a_trial_without_a_plan_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    with pytest.raises(InputError, match="no memory plan"):
        llamafactory_files(study, replace(trial, plan=None), rows)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"weights": "random", "shape": "smollm2-135m"}, "random weights"),
        ({"model_name_or_path": "/models/some.gguf"}, "no GGUF"),
    ],
)
def test_a_model_that_llamafactory_cannot_read_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows, model: dict[str, str], message: str
) -> None:
    spec = study.spec | {"model": study.spec["model"] | model}
    odd = replace(study, spec=spec)
    with pytest.raises(InputError, match=message):
        llamafactory_files(odd, trial, rows)
    with pytest.raises(InputError, match=message):
        instead = model.get("model_name_or_path", "/configs/smollm2-135m/config.json")
        llamafactory_files(odd, trial, rows, model_name_or_path=instead)


def test_a_folder_made_from_a_gguf_file_takes_its_place(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    spec = study.spec | {"model": study.spec["model"] | {"model_name_or_path": "/m/some.gguf"}}
    files = llamafactory_files(
        replace(study, spec=spec),
        trial,
        rows,
        template=Template("smollm2", "S:\n# not a comment"),
        model_name_or_path="C:\\models\\my model",
    )
    config = config_of(files)
    assert config["model_name_or_path"] == "C:\\models\\my model"
    assert config["default_system"] == "S:\n# not a comment"


def test_a_target_that_the_model_lacks_is_refused(
    study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    with pytest.raises(FaultyFileError, match=r"lora_target.*v_proj"):
        llamafactory_files(study, trial, rows, shape=PHI_3)


@pytest.mark.parametrize("text", ["a: [", "- 1", "lora_rank: 8\n"])
def test_what_no_export_wrote_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_export(TOOLS["llama-factory"], text)
