"""How soon trials take their first step, under our driver and under bare Ray Tune; benchmarks/startup.py starts it.

`python -m benchmarks.startup_trials ours|bare FOLDER` trains the same small model on the same few sample dialogues for
one step in each trial, two trials at a time, and prints JSON: for each trial, in order of starts, the seconds from
Tune's start of the trial to the end of its first step. *bare* is `tune.Tuner` with a function that trains with
Seq2SeqTrainer, as people write it: each trial has a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cluster.machines.loopback import LOOPBACK, prefer_loopback
from dialsum.config import RunConfig
from tuning_common.cli import emit
from tuning_common.files import write_text

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 8
AT_ONCE = 2
RATES = tuple((number + 1) * 1e-4 for number in range(TRIALS))
CHANGES = {"num_epochs": 1, "max_train_samples": 8, "max_eval_samples": 4}  # one step of eight dialogues
SWEEP = {
    "name": "first_steps",
    "method": "grid",
    "base_config": str(ROOT / "configs/tiny.yaml"),
    "parameters": {"learning_rate": {"values": list(RATES)}} | {name: {"value": CHANGES[name]} for name in CHANGES},
    "early_terminate": {"type": "none"},
    "resources": {"cpus_per_trial": 1, "max_concurrent_trials": AT_ONCE},
    "tracking": {"wandb": "disabled"},
}


def ours(folder: Path) -> list[float]:
    """Runs a sweep and reads its journal and the logs of its trials."""
    write_text(folder / "sweep.yaml", yaml.safe_dump(SWEEP))
    command = [sys.executable, "-m", "tune_jobs", "run", str(folder / "sweep.yaml"), "--output", str(folder)]
    subprocess.run([*command, "--cpu-only"], check=True, capture_output=True, cwd=ROOT)
    journal = (folder / "sweep_results/first_steps/journal.jsonl").read_text(encoding="utf-8").splitlines()
    events = list(map(json.loads, journal))
    folders = {event["number"]: event["spec"]["folder"] for event in events if event["event"] == "submitted"}
    starts = [(event["at"], event["number"]) for event in events if event["event"] == "started"]
    return [_first_step_at(folder / folders[number]) - at for at, number in sorted(starts)]


def _first_step_at(run: Path) -> float:
    """Returns the time of the first step in a trial's log.

    The line is `2026-12-01 03:40:25,744 INFO step 1: ...`.
    """
    lines = (run / "training.log").read_text(encoding="utf-8").splitlines()
    day, second = next(line for line in lines if " step 1: " in line).split()[:2]
    return datetime.fromisoformat(f"{day} {second.replace(',', '.')}").timestamp()


def bare(folder: Path) -> list[float]:
    """Runs the same with Tune alone."""
    import ray
    from ray import tune

    class Starts(tune.Callback):  # type: ignore[misc]  # ray publishes no types
        """Notes when each trial starts."""

        def __init__(self) -> None:
            self.at: dict[str, float] = {}

        def on_trial_start(self, iteration: int, trials: list["Trial"], trial: "Trial", **info: object) -> None:
            """Is called by Tune, as our driver's callback is."""
            self.at[trial.trial_id] = time.time()

    prefer_loopback()
    starts = Starts()
    ray.init("local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False, _node_ip_address=LOOPBACK)
    results = tune.Tuner(
        tune.with_resources(bare_trial, {"cpu": 1}),
        param_space={"learning_rate": tune.grid_search(list(RATES))},
        tune_config=tune.TuneConfig(metric="first_step_at", mode="max"),
        run_config=tune.RunConfig(storage_path=str(folder.resolve()), name="bare", verbose=0, callbacks=[starts]),
    ).fit()
    first_steps = {result.metrics["trial_id"]: float(result.metrics["first_step_at"]) for result in results}
    ray.shutdown()
    return [first_steps[trial] - at for trial, at in sorted(starts.at.items(), key=lambda one: one[1])]


def bare_trial(changes: dict[str, float]) -> None:
    """What a person's own function does: it imports, loads, and trains."""
    import os
    import tempfile

    from ray import tune
    from transformers import TrainerCallback

    os.chdir(ROOT)
    from benchmarks.training_run import CACHE, plain_trainer
    from dialsum.preparation import prepare

    found: list[float] = []

    class FirstStep(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
        """Notes when it ends."""

        def on_step_end(self, *arguments: object, **kwargs: object) -> None:
            """Is called by the trainer."""
            found.append(time.time())

    settings = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text(encoding="utf-8"))
    config = RunConfig.from_dict(settings | CHANGES | {"max_steps": 1} | changes, where="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        trainer = plain_trainer(config, prepare(config, CACHE), Path(folder), padded=False)
        trainer.add_callback(FirstStep())
        trainer.train()
    tune.report({"first_step_at": found[0]})


def main(arguments: Sequence[str]) -> int:
    """Runs one side and prints its seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("ours", "bare"))
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    emit(json.dumps({"ours": ours, "bare": bare}[chosen.side](chosen.folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
