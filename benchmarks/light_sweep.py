"""`python -m benchmarks.light_sweep SWEEP ...`: `python -m tune_jobs run` with trials that compute a chain of hashes.

A trial's scores depend on its settings and on every step since its start, so that a repeated, a missing and a foreign
step change them, and neither torch nor a model is needed.
"""

import hashlib
import json
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.sweeps import METRIC, NO_MODEL, run_with
from cluster.machines.loopback import prefer_loopback
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tune_jobs.trial.run_trial import run_trial
from tuning_common import cli

STEPS = 4  # of each evaluation
STEP_S = 0.05
SWEEP = """
name: NAME
method: grid
parameters:
  learning_rate: {values: [1e-3, 2e-3, 3e-3, 1e-2]}
  num_epochs: {value: 8}
"""
SWEEP += NO_MODEL + "resources: {cpus_per_trial: 1, max_concurrent_trials: 2}\n"


def light_train(
    config: RunConfig, folder: Path, *, reporter: Reporter, resume_from: Path | None, **options: object
) -> None:
    """Takes the place of dialsum.trainer.train."""
    done, state = 0, f"{config.learning_rate!r} {config.batch_size}"
    if resume_from is not None:
        kept = json.loads((resume_from / "state.json").read_text(encoding="utf-8"))
        done, state = kept["step"], kept["state"]

    def save() -> Path:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state.json").write_text(json.dumps({"step": step, "state": state}), encoding="utf-8")
        return checkpoint

    for step in range(done + 1, config.num_epochs * STEPS + 1):
        time.sleep(STEP_S)
        state = hashlib.sha256(state.encode()).hexdigest()
        reporter.log({"train/loss": 1 + int(state[:8], 16) / 16**8})
        if step % STEPS == 0:
            reporter.report({METRIC: int(state[:8], 16) / 16**8}, save())
        elif reporter.wants_checkpoint():
            reporter.interrupted(save())


def light_trial(config: dict[str, object]) -> None:
    """What Tune runs in the trial's process."""
    run_trial(config, train=light_train)


if __name__ == "__main__":
    prefer_loopback()
    sys.exit(cli.run(partial(run_with, light_trial)))
