"""A trial that counts instead of training, for tests of where trials run and of what happens when they fail."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tests.tune_jobs.linear_devices import LinearDevices
from tests.waiting import wait_until
from tune_jobs.records.trial_spec import STARTED_KEY, TrialSpec
from tune_jobs.trial.run_trial import attempt
from tune_jobs.trial.tune_session import last_checkpoint, location, report

STEPS = 3


def counting_trial(
    config: dict[str, object],
    devices: LinearDevices | None = None,
    steps: int = STEPS,
    score: Callable[[TrialSpec, int], float] = lambda spec, step: float(step),
) -> None:
    """Counts with a checkpoint at each step.

    It goes through the attempt, the guard and the session of a real trial. With `wait_for` among its sampled values it
    ends when that file is in the sweep's folder.

    Args:
        config: As Tune passes it.
        devices: What trials hold.
        steps: To which it counts; the sampled `steps` where there is one.
        score: Returns the value at a step.
    """
    spec = TrialSpec.from_tune(config)
    here = location()
    spec = replace(spec, bundle=replace(spec.bundle, gpus=here.gpus))
    where = {
        "trial/node": here.address,
        "trial/raylet": here.node,
        "trial/card": here.card,
        "trial/gpu_model": here.gpu_model or spec.gpu_model,
        "trial/granted": here.gpus,
        "trial/pid": os.getpid(),
    }
    last = int(str(spec.sampled.get("steps", steps)))

    def train(
        settings: RunConfig, folder: Path, *, reporter: Reporter, resume_from: Path | None, **options: object
    ) -> None:
        done = json.loads((resume_from / "step.json").read_text())["step"] if resume_from else 0
        for step in range(done + 1, last + 1):
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "step.json").write_text(json.dumps({"step": step}))
            reporter.log({"memory/reserved_bytes": float(settings.micro_batch)})
            reporter.report({spec.metric: score(spec, step)}, checkpoint)
        if "wait_for" in spec.sampled:
            come = Path(spec.sweep_folder) / str(spec.sampled["wait_for"])  # so far, another trial or the driver
            wait_until(come.exists, come.name, known=lambda: str(sorted(come.parent.iterdir())))

    def send(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        report({**metrics, **{name: value for name, value in where.items() if value is not None}}, checkpoint)

    send({STARTED_KEY: True}, None)
    start = Path(spec.resume_from) if spec.resume_from else None
    attempt(spec, train, send, lambda metrics: None, start, persisted=last_checkpoint, device_of=devices or no_device)


def no_device(spec: object, shape: object) -> None:
    """Says that a trial has no device."""
