"""top: what a terminal shows of running sweeps, from their journals alone."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tune_jobs.analysis.top import read_sweeps, text_of
from tune_jobs.config.language import Language, use_language
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.records.sweep_lock import alone
from tuning_common.cli import text_columns

ROOT = Path(__file__).resolve().parents[2]
METRIC = "eval/rouge_combined_f1"
SHOWN = ROOT / "tests" / "golden" / "top" / "running.txt"


def at(seconds: float) -> dict[str, float]:
    return {"at": 1000.0 + seconds, "elapsed_s": seconds}


def seen(**more: float) -> Mapping[str, object]:
    return {"trial/node": "10.0.0.2", "trial/card": "0"} | {
        name.replace("__", "/"): value for name, value in more.items()
    }


def lived(output_dir: Path, settings: Mapping[str, object] | None = None) -> SweepFolder:
    folder = SweepFolder.of(output_dir, "wide")
    folder.append(SweepRecord(sweep="wide", metric=METRIC, goal="maximize", trials=8, member="minji"))
    journal = Journal(folder.path / "journal.jsonl")
    for number in range(1, 6):
        estimate = {"estimate": {"upper_bytes": 6 * 2**30}} if number == 2 else {}
        journal.write("submitted", number, spec={"name": f"t{number}", "sampled": settings or {}, **estimate})
    journal.write("started", 1, bundle={"gpus": 0.5}, **at(0))
    journal.write("reported", 1, evaluation=1, value=10.0, metrics=seen(), **at(10))
    journal.write("ended", 1, status="stopped", reason="low", **at(10))
    journal.write("started", 2, bundle={"gpus": 0.25}, **at(0))
    journal.write("retried", 2, kind="out_of_memory", message="", **at(20))
    journal.write("started", 2, bundle={"gpus": 0.5}, **at(20))
    full = seen(trial__held_bytes=5.5 * 2**30, train__tokens_per_second=1200.0)
    journal.write("reported", 2, evaluation=1, value=31.5, metrics=full, **at(40))
    journal.write("reported", 2, evaluation=2, value=30.0, metrics=full, **at(60))
    journal.write("started", 3, bundle={"gpus": 0.25}, **at(0))
    journal.write("reported", 3, evaluation=1, value=20.0, metrics=seen(), **at(30))
    journal.write("started", 4, bundle={"gpus": 0.25}, **at(0))
    journal.write("reported", 4, evaluation=1, value=25.0, metrics=seen(), **at(30))
    journal.write("paused", 4, reason="minji holds 4 of 1 GPUs", **at(30))
    journal.write("waits", 5, reason="asks for 0.5 GPUs, 0 are free")
    return folder


def test_a_running_sweep_is_shown_with_what_waits_and_why(tmp_path: Path) -> None:
    folder = lived(tmp_path)
    with alone(folder):
        sweeps = read_sweeps(tmp_path, now_s=1100.0)
        assert text_of(sweeps, 80) + "\n" == SHOWN.read_text()
    (over,) = read_sweeps(tmp_path, now_s=1100.0)
    assert not over.is_running
    assert [trial.state for trial in over.trials] == ["interrupted", "interrupted", "paused", "waiting"]


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, columns: int, language: Language) -> None:
    folder = lived(tmp_path, settings={"learning_rate": 1e-3, "dropout": 0.1, "label_smoothing": 0.125, "warmup": 3})
    with alone(folder), use_language(language):
        lines = text_of(read_sweeps(tmp_path, now_s=1100.0), columns).split("\n")
    assert max(map(text_columns, lines)) <= columns
    header = re.split(r" {2,}", next(line for line in lines if "GPUs" in line))
    assert len(header) == {80: 6, 120: 10, 200: 12}[columns]
    named = {"en": ["trial", "status", "best", "GPUs"], "ko": ["시도", "상태", "최고", "GPUs"]}[language]
    assert set(named) < set(header)


@pytest.mark.parametrize("arguments", [["--once"], []])
def test_it_is_shown_once_where_no_terminal_watches(tmp_path: Path, arguments: list[str]) -> None:
    with alone(lived(tmp_path)):
        done = command("--output-dir", str(tmp_path), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wide (minji): running, last event ")
    assert "no sweep runs in" in command("--output-dir", str(tmp_path)).stdout


def test_programs_read_the_same(tmp_path: Path) -> None:
    lived(tmp_path)
    shown = json.loads(command("--output-dir", str(tmp_path), "--format", "json", "--all").stdout)
    (sweep,) = shown["sweeps"]
    assert (sweep["best"], sweep["best_trial"], sweep["ended"]) == (31.5, 2, {"stopped": 1})
    assert sweep["trials"][0]["estimated_bytes"] == 6 * 2**30


def test_an_absent_folder_is_a_wrong_request(tmp_path: Path) -> None:
    done = command("--output-dir", str(tmp_path / "absent"))
    assert done.returncode == 2
    assert "does not exist; give --output-dir" in done.stderr


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tune_jobs", "top", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_equal_numbers_of_two_raylets_on_one_host_are_two_cards(tmp_path: Path) -> None:
    folder = SweepFolder.of(tmp_path, "wide")
    folder.append(SweepRecord(sweep="wide", metric=METRIC, goal="maximize", trials=2))
    journal = Journal(folder.path / "journal.jsonl")
    for number, raylet in ((1, "a"), (2, "b"), (3, "b")):
        journal.write("submitted", number, spec={"name": f"t{number}"})
        journal.write("started", number, bundle={"gpus": 0.5}, **at(0))
        told = {"trial/node": "10.0.0.2", "trial/card": "0", "trial/raylet": raylet}
        journal.write("reported", number, evaluation=1, value=1.0, metrics=told, **at(1))
    with alone(folder):
        (sweep,) = read_sweeps(tmp_path, now_s=1002.0)
    assert [trial.tenants for trial in sweep.trials] == [1, 2, 2]


def test_how_many_trials_a_card_takes_best_is_one_line(tmp_path: Path) -> None:
    folder = SweepFolder.of(tmp_path, "wide")
    folder.append(SweepRecord(sweep="wide", metric=METRIC, goal="maximize", trials=2))
    journal = Journal(folder.path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "t1", "gpu_model": "A40", "config": {"model": "t5"}})
    journal.write("started", 1, bundle={"gpus": 0.5}, **at(0))
    for evaluation in range(1, 9):
        tenants = 1 + evaluation % 2
        metrics = {"card/tenants": tenants, "train/tokens_per_second": 100.0 / tenants**1.2}
        journal.write("reported", 1, evaluation=evaluation, value=1.0, metrics=metrics, **at(evaluation))
    assert "\nA40: a card gets most done with 1 trial (with 2: 13 % less)\n" in text_of(
        read_sweeps(tmp_path, 1100.0), 80
    )
