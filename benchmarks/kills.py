"""Kills a sweep's driver at random moments and resumes it; compares the outcome with that of an undisturbed run.

`python -m benchmarks.kills --kills 10` trains six tiny models one after another under ASHA, once undisturbed and once
with repeated `kill -9` of the driver and all its child processes. One trial runs at a time, so that ASHA compares the
same trials in both. Writes kills.md in its own folder.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import table
from benchmarks.sweeps import ROOT, driver_environment

SWEEP = """
name: NAME
method: grid
parameters:
  learning_rate: {values: [1e-3, 3e-3, 1e-2]}
  batch_size: {values: [8, 16]}
  num_epochs: {value: 6}
  max_train_samples: {value: 48}
  max_eval_samples: {value: 6}
  decoder_max_len: {value: 16}
  encoder_max_len: {value: 64}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
  tiny_vocab_size: {value: 400}
early_terminate: {type: asha, eta: 2}
resources: {max_concurrent_trials: 1, simulate: 1x24GiB}
tracking: {wandb: disabled}
"""
LIMIT_S = 900.0
EARLIEST_S, LATEST_S = 4.0, 30.0  # after a driver's start


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a sweep, without times.

    Attributes:
        statuses: Status of each trial, by its sampled values.
        scores: Score of each evaluation.
        winner: Sampled values of the best trial.
    """

    statuses: dict[str, str]
    scores: dict[str, list[float]]
    winner: str


def start(folder: Path, name: str, *, resume: bool) -> "subprocess.Popen[bytes]":
    """Starts a driver in a process group of its own."""
    (folder / f"{name}.yaml").write_text(SWEEP.replace("NAME", name), encoding="utf-8")
    command = [sys.executable, "-m", "tune_jobs", "run", f"{name}.yaml", *(["--resume"] if resume else [])]
    log = (folder / f"{name}.log").open("ab")
    return subprocess.Popen(
        command, cwd=folder, env=driver_environment(), stdout=log, stderr=log, start_new_session=True
    )


def run_killed(folder: Path, name: str, kills: int, seed: int) -> list[float]:
    """Kills the driver repeatedly and lets the last one finish; returns the lifetime of each killed one in seconds."""
    rng = random.Random(seed)
    journal = folder / "outputs" / "sweep_results" / name / "journal.jsonl"
    lived_s: list[float] = []
    while True:
        process = start(folder, name, resume=journal.exists())
        delay_s = rng.uniform(EARLIEST_S, LATEST_S)
        try:
            process.wait(delay_s if len(lived_s) < kills else LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert len(lived_s) < kills, f"{name} has not ended in {LIMIT_S:g} s"
            lived_s.append(delay_s)
            time.sleep(2.0)  # Ray's processes notice that their driver is gone
            continue
        assert process.returncode == 0, (folder / f"{name}.log").read_text(encoding="utf-8")[-3000:]
        return lived_s


def outcome_of(folder: Path, name: str) -> Outcome:
    """Reads the ledger."""
    ledger = folder / "outputs" / "sweep_results" / name / "all_results.jsonl"
    trials: dict[str, dict[str, object]] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["event"] == "trial":
            trials[json.dumps(record["sampled"], sort_keys=True)] = record
    scores = {key: [row["eval/rouge_combined_f1"] for row in trial["history"]] for key, trial in trials.items()}  # type: ignore[attr-defined]
    winner = max(scores, key=lambda key: max(scores[key], default=-1.0))
    statuses = {key: str(trial["status"]) for key, trial in sorted(trials.items())}
    return Outcome(statuses=statuses, scores=dict(sorted(scores.items())), winner=winner)


def main() -> int:
    """Runs both sweeps and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_killed(folder, "undisturbed", 0, chosen.seed)
        lived_s = run_killed(folder, "killed", chosen.kills, chosen.seed)
        undisturbed, killed = outcome_of(folder, "undisturbed"), outcome_of(folder, "killed")
    rows = [
        ("trials with the same status", sum(killed.statuses[k] == v for k, v in undisturbed.statuses.items())),
        ("trials with the same scores, bit for bit", sum(killed.scores[k] == v for k, v in undisturbed.scores.items())),
        ("trials", len(undisturbed.statuses)),
        ("same winner", "yes" if killed.winner == undisturbed.winner else "no"),
    ]
    text = [
        "# A sweep whose driver is killed",
        "",
        f"Written by `python -m benchmarks.kills --kills {chosen.kills} --seed {chosen.seed}`: {len(lived_s)} drivers"
        f" were killed after {', '.join(f'{one:.0f}' for one in lived_s)} s.",
        "",
        table(["what", "result"], rows),
        "",
    ]
    (ROOT / "benchmarks" / "kills.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
    return 0 if killed == undisturbed else 1


if __name__ == "__main__":
    sys.exit(main())
