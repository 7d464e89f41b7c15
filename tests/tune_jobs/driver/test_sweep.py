"""A whole sweep on a real Ray and a real trainer: finished, resumed after kill -9, stopped by SIGTERM, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.tune_jobs.logged_values import compare_mlflow, compare_tensorboard
from tests.tune_jobs.tiny import write_tiny_grid
from tests.tune_jobs.wandb_compare import compare_with_ledger
from tests.tune_jobs.wandb_files import read_offline_run
from tests.waiting import ended, stretched, tail, wait_until
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.tracking.mirroring import LOG_NAME, STATUS_NAME, MirrorStatus, remark
from tuning_common.files import read_jsonl

ROOT = Path(__file__).resolve().parents[3]


def write_sweep(
    folder: Path, *, rates: str = "1e-3, 1e-2", epochs: int = 2, stop: str = "none", wandb: str = "disabled"
) -> Path:
    return write_tiny_grid(
        folder / "small.yaml",
        rates=rates,
        epochs=epochs,
        stop=stop,
        resources="cpus_per_trial: 1",
        tracking=f"wandb: {wandb}",
    )


def command(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "run", "small.yaml", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )


def wait_for(path: Path, text: str, count: int, process: "subprocess.Popen[str]") -> None:
    """Waits until a file holds a text so often."""

    def alive() -> None:
        assert process.poll() is None, process.communicate()

    wait_until(
        lambda: path.exists() and path.read_text().count(text) >= count,
        f"{text} comes {count} times",
        alive=alive,
        known=lambda: tail(path),
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow under SQLAlchemy 2.1
def test_a_sweep_leaves_its_results_and_a_model_that_transformers_loads(tmp_path: Path) -> None:
    others = "tensorboard: true, mlflow: {uri: 'sqlite:///mlflow.db', experiment: night}"
    path = write_sweep(tmp_path, rates="1e-2, 1e-5, 2e-5", epochs=3, stop="asha", wandb=f"offline, {others}")
    path.write_text(path.read_text() + "team: {member: minji}\n")
    (tmp_path / "team.yaml").write_text("members:\n  minji: {quota_gpus: 1}\n")
    process = command(tmp_path, "--format", "json", "--dashboard")
    out, err = ended(process)
    assert process.returncode == 0, err
    assert "Ray's dashboard: http://127.0.0.1:" in err
    result = json.loads(out)
    folder = SweepFolder.of(tmp_path / "outputs", "small")
    records = folder.load().trials
    assert [record.trial_id for record in sorted(records, key=lambda record: record.trial_id)] == ["1", "2", "3"]
    assert set(result["trials"].values()) <= {"finished", "stopped"}
    best = next(record for record in records if record.name == result["best"]["name"])
    assert best.best_metrics["eval/rouge_combined_f1"] == result["best"]["value"]
    assert best.sampled["learning_rate"] == best.resolved["learning_rate"]
    assert best.node is not None
    assert best.member == "minji"
    assert best.plan == {
        "micro_batch": 8,
        "accumulation": 1,
        "gradient_checkpointing": False,
        "ranks": 1,
        "sharded": False,
        "loss_batch": 32,
        "generation_batch": 32,
    }
    assert (best.simulated, best.share, best.gpu_model) == (True, 0.125, "simulated-24GiB")
    assert best.estimate is not None
    assert sum(best.estimate["terms"].values()) == best.estimate["device_bytes"]  # type: ignore[attr-defined]
    assert result["simulated"]
    assert "[simulated cards]" in err
    assert (Path(result["best_model_dir"]) / "model.safetensors").exists()
    assert (Path(best.experiment_dir) / "metrics.json").exists()
    assert "learning_rate: " in folder.best_config.read_text()
    assert folder.sweep_file.read_text() == (tmp_path / "small.yaml").read_text()
    for record in records:
        compare_tensorboard(folder.path / "tensorboard" / record.name, record)
    compare_mlflow(f"sqlite:///{tmp_path}/mlflow.db", "night", {record.name: record for record in records})
    assert folder.report_html.exists()
    assert folder.report_picture.exists()
    assert "Better by" in folder.review.read_text()
    wandb = folder.path / "wandb"
    wait_until(
        lambda: MirrorStatus.read(wandb / STATUS_NAME).over, "the mirror's end", known=lambda: tail(wandb / LOG_NAME)
    )
    kept = remark(0, MirrorStatus.read(wandb / STATUS_NAME), wandb.relative_to(tmp_path))
    assert kept == f"W&B: 3 runs are kept offline; send them with: wandb sync {folder.path.relative_to(tmp_path)}/wandb"
    assert kept in err or "W&B: runs are still being written" in err, "the driver waits a second or two for the mirror"
    mirrored = {run.run["display_name"]: run for run in map(read_offline_run, folder.path.glob("wandb/offline-run-*"))}
    assert set(mirrored) == {record.name for record in records}
    for record in records:
        run = mirrored[record.name]
        compare_with_ledger(run, record)
        assert (run.run["run_group"], run.run["job_type"]) == ("small", "trial")
        assert run.run["tags"] == [record.resolved["model"], "grid"]
        assert run.config["plan"] == record.plan
        steps = [json.loads(line) for line in (Path(record.experiment_dir) / "steps.jsonl").read_text().splitlines()]
        assert [row["train/learning_rate"] for row in run.history if "system/load_1m" in row] == [
            step["train/learning_rate"] for step in steps
        ]
        loads = [row for row in run.history if "system/load_1m" in row]
        assert all(row["system/process_cpu_percent"] >= 0 for row in loads if "system/process_cpu_percent" in row)
        assert all(0 < row["system/host_memory_percent"] < 100 for row in loads)
        (table,) = folder.path.glob(f"wandb/offline-run-*{run.run['run_id']}/files/media/table/*.table.json")
        shown = json.loads(table.read_text(encoding="utf-8"))
        written, _ = read_jsonl(Path(record.experiment_dir) / "predictions.jsonl")
        texts = {str(row["fname"]): row for row in written}
        assert {row[1] for row in shown["data"]} == set(texts)
        for row in shown["data"]:
            assert (row[2], row[3]) == (texts[row[1]]["dialogue"], texts[row[1]]["prediction"])
        scores = [row[-1] for row in shown["data"]]
        assert scores == sorted(scores, reverse=True)
    assert "trial 1 starts" in err


@pytest.mark.ray
@pytest.mark.slow
def test_after_kill_9_of_the_driver_resume_repeats_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path, epochs=8)
    journal = tmp_path / "outputs/sweep_results/small/journal.jsonl"
    first = command(tmp_path, "--cpu-only")
    wait_for(journal, '"event": "saved"', 3, first)
    first.kill()
    first.communicate()
    saved = [record for record in read_jsonl(journal)[0] if record["event"] == "saved"]
    last_saved = {record["number"]: tmp_path / "outputs" / str(record["folder"]) for record in saved}
    states = {number: json.loads((path / "trial_state.json").read_text()) for number, path in last_saved.items()}

    second = command(tmp_path, "--resume", "--cpu-only")
    _, err = ended(second)
    assert second.returncode == 0, err
    events = read_jsonl(journal)[0]
    border = max(place for place, event in enumerate(events) if event == saved[-1])
    again = {
        number: min(
            int(str(e["evaluation"])) for e in events[border:] if e["event"] == "reported" and e["number"] == number
        )
        for number in states
    }
    assert again == {number: state["evaluations"] + 1 for number, state in states.items()}
    records = SweepFolder.of(tmp_path / "outputs", "small").load().trials
    assert [record.status for record in records] == ["finished", "finished"]
    assert all([row["iteration"] for row in record.history] == list(range(1, 9)) for record in records)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("asked_by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_and_the_last_line_is_how_to_go_on(tmp_path: Path, asked_by: signal.Signals) -> None:
    path = write_sweep(tmp_path, rates="1e-3", epochs=40)
    path.write_text(path.read_text().replace("num_epochs: {value: 40}", "num_epochs: {values: [1, 40]}"))
    began = time.monotonic()
    process = command(tmp_path, "--cpu-only")
    folder = SweepFolder.of(tmp_path / "outputs", "small")
    for event in ("ended", "started"):
        wait_for(folder.path / "journal.jsonl", f'"event": "{event}"', 1 if event == "ended" else 2, process)
    asked = time.monotonic()
    process.send_signal(asked_by)
    _, err = ended(process)
    assert process.returncode == 1
    assert time.monotonic() - asked < stretched(30, quiet_s=20, took_s=asked - began)
    assert err.rstrip().endswith("resume with: python -m tune_jobs run small.yaml --cpu-only --resume")
    assert "Traceback" not in err
    assert "asked to stop: trials save a checkpoint at their next step and end" in err
    assert not (folder.path / "stop").exists()
    assert folder.best_config.exists()
    assert folder.report_html.exists() == (asked_by == signal.SIGINT), "a job server would kill what takes long"


def test_a_wrong_request_costs_no_cluster(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    path.write_text(path.read_text().replace("8}", "8}\n  train_file: {value: absent.jsonl}", 1))
    process = command(tmp_path)
    _, err = ended(process)
    assert process.returncode == 2
    assert "absent.jsonl" in err
    assert not (tmp_path / "outputs" / "sweep_results").exists()


def test_a_run_waits_for_its_hour_and_an_interrupt_runs_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    soon = datetime.now() + timedelta(hours=2)
    process = command(tmp_path, "--start-at", f"{soon:%H:%M}")
    assert process.stderr is not None
    said = next(line for line in process.stderr if line.startswith("waits"))
    assert f" {soon:%H:%M} (" in said
    assert "nothing runs before" in said
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 1
    assert "nothing was run" in err
    assert not (tmp_path / "outputs" / "sweep_results").exists()


def test_resuming_what_never_ran_is_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    process = command(tmp_path, "--resume")
    _, err = ended(process)
    assert process.returncode == 2
    assert "nothing to resume" in err
