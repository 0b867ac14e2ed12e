"""CSV exports of W&B, MLflow and Optuna are read, and odd values never stop an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.importing.conftest import Cli
from vram_search.errors import InputError
from vram_search.importing.load import load_runs
from vram_search.importing.table import load_table
from vram_search.store import ImportedTrial

WriteTable = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteTable:
    def write_table(text: str) -> Path:
        file = tmp_path / "export.csv"
        file.write_text(text)
        return file

    return write_table


WANDB = """\
"Name","State","ID","Runtime","learning_rate","peft_config.default.r","peft_config.default.target_modules",\
"per_device_train_batch_size","gradient_accumulation_steps","max_steps","eval/loss","train/train_loss","train/global_step"
"a","finished","x1","3600","0.0002","16","[""q_proj"",""v_proj""]","2","8","-1","1.21","1.3","90"
"b","crashed","x2","100","0.001","32","all-linear","2","8","-1","","",""
"b","running","x3","","0.001","32","","","","","","",""
"c","finished","x4","5","auto","8","","","","","NaN","",""
"""
WANDB_API = """\
,summary,config,name
0,"{'eval/loss': 1.5, 'train/global_step': 20}",\
"{'learning_rate': 0.0001, 'peft_config': {'default': {'r': 8}}}",x
1,"{'eval/loss': nan}","{'learning_rate'",y
"""
MLFLOW = """\
run_id,experiment_id,status,start_time,end_time,metrics.eval_loss,metrics.train_loss,params.learning_rate,params.lora_r,\
params.base_model,params.optim,tags.mlflow.runName
4f,0,FINISHED,2026,2026,1.1,1.4,0.0003,8,Qwen/Qwen2.5-3B-Instruct,adamw_8bit,nice-run
5f,0,FAILED,2026,2026,,,0.01,8,Qwen/Qwen2.5-3B-Instruct,adamw_8bit,
6f,0,SCHEDULED,,,,,,,,,
"""
OPTUNA = """\
,number,value,datetime_start,datetime_complete,duration,params_learning_rate,params_lora_r,params_target_modules,state
0,0,1.4,2026-01-01,2026-01-01,0 days 00:10:00.500000,0.0002,16,"('q_proj', 'v_proj')",COMPLETE
1,1,1.9,2026-01-01,2026-01-01,0 days 00:02:00,0.002,8,,PRUNED
2,2,,2026-01-01,2026-01-01,0 days 00:01:00,0.02,8,,FAIL
3,3,,,,,0.02,8,,WAITING
"""
OPTUNA_DASHBOARD = """\
Number,State,Value,Param learning_rate,Param lora_rank
0,Complete,1.4,0.0002,16
1,Fail,,0.02,8
"""


def told(run: ImportedTrial, *names: str) -> tuple[Any, ...]:
    return (run.provenance["run"], run.result.outcome, *(run.hyperparameters[n] for n in names))


def test_wandb_export_is_read(write: WriteTable) -> None:
    runs = load_table(write(WANDB))
    assert [told(run, "learning_rate", "lora_rank", "lora_target") for run in runs] == [
        ("a", "complete", 2e-4, 16, "qv"),
        ("b", "lost", 1e-3, 32, "all"),
        ("b (line 4)", "unknown", 1e-3, 32, None),
        ("c", "diverged", None, 8, None),
    ]
    first = runs[0]
    assert (first.result.eval_loss, first.result.steps_done, first.result.steps_total) == (
        1.21,
        90,
        0,
    )
    assert (first.result.seconds, first.hyperparameters["batch_size"]) == ({"train": 3600.0}, 16)
    assert first.provenance["source"] == "wandb"


def test_cell_of_an_export_that_cannot_be_read_is_unknown_with_a_note(write: WriteTable) -> None:
    notes = load_table(write(WANDB))[3].provenance["notes"]
    assert notes == ["learning_rate is not a number (is 'auto'), so it is taken as unknown"]


def test_table_of_wandbs_api_is_read(write: WriteTable) -> None:
    first, second = load_table(write(WANDB_API))
    assert told(first, "learning_rate", "lora_rank") == ("x", "unknown", 1e-4, 8)
    assert first.result.eval_loss == 1.5
    assert told(second, "learning_rate") == ("y", "unknown", None)


def test_mlflow_export_is_read(write: WriteTable) -> None:
    runs = load_table(write(MLFLOW))
    assert [told(run, "learning_rate", "lora_rank", "optim") for run in runs] == [
        ("nice-run", "complete", 3e-4, 8, "adamw_8bit"),
        ("5f", "lost", 1e-2, 8, "adamw_8bit"),
    ]
    assert runs[0].result.eval_loss == 1.1
    assert runs[0].provenance["model"]["name"] == "Qwen/Qwen2.5-3B-Instruct"


def test_optuna_export_is_read(write: WriteTable) -> None:
    runs = load_table(write(OPTUNA))
    assert [told(run, "learning_rate", "lora_rank", "lora_target") for run in runs] == [
        ("trial 0", "complete", 2e-4, 16, "qv"),
        ("trial 1", "pruned", 2e-3, 8, None),
        ("trial 2", "lost", 2e-2, 8, None),
    ]
    assert (runs[0].result.eval_loss, runs[0].result.seconds) == (1.4, {"train": 600.5})
    assert "objective value" in runs[0].provenance["notes"][0]


def test_export_of_optunas_dashboard_is_read(write: WriteTable) -> None:
    runs = load_table(write(OPTUNA_DASHBOARD))
    assert [told(run, "learning_rate", "lora_rank") for run in runs] == [
        ("trial 0", "complete", 2e-4, 16),
        ("trial 1", "lost", 2e-2, 8),
    ]


def test_preference_training_of_an_export_is_not_ranked(write: WriteTable) -> None:
    text = "Name,State,eval/loss,eval/rewards/chosen\na,finished,0.3,1.2\nb,finished,1.3,\n"
    first, second = load_table(write(text))
    assert (first.other_training, second.other_training) == ("preference", None)


PATTERN = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?\.(?:q_proj|v_proj){1,2})"


@pytest.mark.parametrize(
    ("cell", "target"),
    [
        (f'"{PATTERN}"', PATTERN),
        ("\"['q_proj', 'v_proj']\"", "qv"),
        ("\"{'v_proj', 'q_proj'}\"", "qv"),
        ('"[q_proj, v_proj]"', "qv"),
    ],
)
def test_targets_of_an_export_are_names_or_a_whole_pattern(
    write: WriteTable, cell: str, target: str
) -> None:
    (run,) = load_table(write(f"Name,State,target_modules\na,finished,{cell}\n"))
    assert run.hyperparameters["lora_target"] == target


@pytest.mark.parametrize(
    ("mark", "rate", "loss"), [(";", "0,0002", "1,21"), ("\t", "2e-4", "1.21")]
)
def test_a_spreadsheets_marks_are_read(write: WriteTable, mark: str, rate: str, loss: str) -> None:
    rows = [["Name", "State", "hparams.lr", "val/loss"], ["a", "preempted", rate, loss]]
    (run,) = load_table(write("\n".join(mark.join(row) for row in rows)))
    assert told(run, "learning_rate") == ("a", "lost", 2e-4)
    assert run.result.eval_loss == 1.21


def test_stage_of_a_table_by_hand_is_kept(write: WriteTable) -> None:
    text = "run,outcome,stage,finetuning_type\na,complete,dpo,\nb,complete,sft,full\n"
    assert [run.other_training for run in load_table(write(text))] == ["dpo", "sft, full"]


ODD = """\
run,outcome,eval_loss,learning_rate,lora_rank,lora_target,optim,cutoff_len,batch_size,seed,train_runtime,steps_done,steps_total,reserved_bytes
a,complete,1.5,0,8,qv,adamw_torch,512,8,1,0,0,0,
b,complete,9e18,2e-4,,"x.*{1,2}",,,,,,9,3,
c,complete,-1,,2147483647,,adamw,1,1,,1e9,,,1 B
d,complete,0,1e-300,8,qv,adamw_torch,512,8,1,10,5,10,5 GiB
e,complete,,2e9,1,all,,,,,,,,
f,unknown,nan,,,,,,,,,,,
g,diverged,inf,1,8,[b]bold[/b],,,,,,,,
h,oom,,,,,,,,,,,,
i,infeasible,,,,,,,,,,,,
j,lost,2,,,,,,,,,,,
k,pruned,3,,,,,,,,,,,
"""


COMMANDS = (
    "top",
    "top --all --csv",
    "best",
    "pareto",
    "importance",
    "show 5",
    "compare 0 1",
    "compare 2 5",
    "compare 4 6 --json",
    "report -o page.html",
    *(f"why {number}" for number in range(11)),
)


def test_odd_imported_values_crash_no_answer(
    write: WriteTable, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.imported(write(ODD))
    for command in COMMANDS:
        code, _, err = cli(*command.split())
        assert code == 0 or (code == 2 and "remedy" in err), (command, err)


RAY = "eval_loss,trial_id,training_iteration,time_total_s,done,config/learning_rate,config/lora_r\n"
COMET = "experiment_key,name,learning_rate,lora_r,eval_loss\n"


def test_exports_of_ray_tune_and_comet_are_read(write: WriteTable) -> None:
    ended, running = load_table(write(RAY + "1.3,a1,3,60.5,True,2e-4,16\n,a2,1,5,False,1e-4,8\n"))
    assert (ended.result.outcome, running.result.outcome) == ("complete", "unknown")
    assert ended.provenance["run"] == "a1"
    assert ended.hyperparameters["lora_rank"] == 16
    (run,) = load_table(write(COMET + "k1,first,2e-4,16,1.4\n"))
    assert (run.provenance["run"], run.result.outcome) == ("first", "complete")


NEPTUNE = (
    "sys/id,sys/name,sys/state,sys/failed,sys/running_time,"
    "finetuning/trainer_parameters/learning_rate,finetuning/trainer_parameters/lora_r,"
    "finetuning/eval/loss\n"
)
CLEARML = "NAME,STATUS,Transformers/learning_rate,Args/lora_r,eval_loss\n"


def test_exports_of_neptune_and_clearml_are_read(write: WriteTable) -> None:
    rows = "R-1,first,Inactive,False,60,2e-4,16,1.3\nR-2,,inactive,True,5,1e-4,8,1.9\n"
    first, failed, active = load_table(write(NEPTUNE + rows + "R-3,,Active,,,1e-4,8,\n"))
    assert (first.provenance["source"], first.provenance["run"]) == ("neptune", "first")
    assert (first.result.eval_loss, first.result.seconds) == (1.3, {"train": 60.0})
    assert first.hyperparameters["learning_rate"] == 2e-4
    assert first.hyperparameters["lora_rank"] == 16
    assert failed.provenance["run"] == "R-2"
    assert (failed.result.outcome, active.result.outcome) == ("lost", "unknown")
    done, aborted = load_table(write(CLEARML + "a,Published,2e-4,16,1.4\nb,Aborted,1e-4,8,2\n"))
    assert (done.provenance["run"], done.hyperparameters["lora_rank"]) == ("a", 16)
    assert (done.result.outcome, aborted.result.outcome) == ("complete", "lost")


def test_table_with_names_of_other_tools_is_read(write: WriteTable) -> None:
    text = "Learning rate,LoRA rank,batch,Eval loss,time\n2e-4,16,8,1.4,2h\n1e-4,8,8,,\n"
    done, unknown = load_table(write(text))
    assert (done.result.outcome, unknown.result.outcome) == ("complete", "unknown")
    assert done.hyperparameters["learning_rate"] == 2e-4
    assert done.hyperparameters["batch_size"] == 8
    assert done.provenance["run"] == "line 2"
    (oom,) = load_table(write("name,lr,val_loss,status\nx,1e-4,,OOM\n"))
    assert (oom.provenance["run"], oom.result.outcome) == ("x", "oom")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr,rank,loss\n2e-4,16,1.4\n", "'loss' may be of the training or of an evaluation"),
        ('[{"lora_rank": 16}]', "holds JSON, no table"),
        ("hash,hparams.learning_rate,Fv3xS\nab,2e-4,1.4\n", "no column is known to hold the loss"),
        ("NAME,Args/lora_r,eval > loss\nab,8,1.4\n", "no column is known to hold the loss"),
    ],
)
def test_table_that_leaves_a_doubt_is_refused(write: WriteTable, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_table(write(text))


@pytest.mark.parametrize(
    "text",
    [
        "run,lr,rank,eval_loss,time\nA,2e-4,16,1.234,90\n",
        'run,lr,rank,eval_loss,time\nA,"0,0002",16,"1,234",90\n',  # one comma is surely a decimal
        "sep=;\nrun;lr;rank;eval_loss;time\nA;0,0002;16;1,234;90\n",
        "Results,,,,\n,,,,\nrun,lr,rank,eval_loss,time,\nA,2e-4,16,1.234,90,\n",
        "run|lr|rank|eval_loss|time\nA|2e-4|16|1.234|90\n",
        "| a | b |\n|--|--|\n| 1 | 2 |\n\n# Runs\n\n"
        "| run | lr | rank | eval_loss | time |\n|--|--:|--|--|--|\n"
        "| **A** | 2e-4 | 16 | 1.234 | 90 |\n\nThe end.\n",
        "run,lr,rank,eval_loss (nats),Time [min]\nA,2e-4,16,~1.234,1.5\n",
        "run,lr,rank,eval_loss,time\nA,2 \u00b7 10\u207b\u2074,16,1.234 \u00b1 0.01,90\n",
        "run,lr.value,rank,eval_loss,time\nA,2e-4,16,1.234,90\n",
        "run,lr,rank,eval_loss,time\nA,0.02 %,16,1.234,90\nmean,,,1.234,90\n",
    ],
)
def test_tables_as_people_write_them_give_the_same_run(write: WriteTable, text: str) -> None:
    (run,) = load_table(write(text))
    assert told(run, "learning_rate", "lora_rank") == ("A", "complete", 2e-4, 16)
    assert (run.result.eval_loss, run.result.seconds) == (1.234, {"train": 90.0})


def test_comma_that_may_part_thousands_is_no_decimal(write: WriteTable) -> None:
    (run,) = load_table(write('run,lr,eval_loss\nA,2e-4,"1,234"\n'))
    assert run.result.eval_loss is None
    assert "eval_loss is not a number" in run.provenance["notes"][0]


def test_outcome_in_place_of_the_loss_is_the_outcome(write: WriteTable) -> None:
    runs = load_table(write("run,lr,eval_loss\nA,2e-4,OOM\nB,2e-4,crashed\nC,2e-4,-\nD,2e-4,low\n"))
    assert [run.result.outcome for run in runs] == ["oom", "lost", "unknown", "unknown"]


def test_state_in_a_persons_own_words_loses_no_run(write: WriteTable) -> None:
    states = ("CUDA out of memory", "early stopped", "so so", "queued")
    lines = "".join(f"{state[:5]},2e-4,1.2,{state}\n" for state in states)
    runs = load_table(write("run,lr,best_eval_loss,status\n" + lines))
    assert [run.result.outcome for run in runs] == ["oom", "complete", "unknown"]


def test_iterations_of_ray_are_one_run(write: WriteTable) -> None:
    text = "training_iteration,trial_id,eval_loss,config/lr,done\n1,a,1.5,2e-4,False\n"
    (run,) = load_table(write(text + "2,a,1.4,2e-4,True\n"))
    assert (run.result.outcome, run.result.eval_loss) == ("complete", 1.4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/a/events.out.tfevents.1.host", "TensorBoard's event files are not read"),
        ("0/ab/metrics/eval_loss", "mlflow.search_runs"),
        ("offline-run-1/run-1.wandb", "W&B's folder is not read"),
        ("notes.txt", "name a CSV file"),
    ],
)
def test_folder_of_a_tracker_says_how_its_runs_are_exported(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x")
    if "metrics" in name:
        (tmp_path / "0/ab/params").mkdir()
        (tmp_path / "0/ab/meta.yaml").write_text("status: 3")
    with pytest.raises(InputError, match="holds no run") as caught:
        load_runs(tmp_path)
    assert words in caught.value.remedy
