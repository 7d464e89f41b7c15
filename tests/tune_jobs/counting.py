"""A trial that counts instead of training, for tests of where trials run and of what happens when they fail."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tests.tune_jobs.ordered import METRIC
from tests.waiting import wait_until
from tune_jobs.driver.tuner import last_checkpoint, present_place, report
from tune_jobs.records.trial_spec import ORDER_KEY, TrialOrder
from tune_jobs.trial.run_trial import attempt

STEPS = 3


def counting_trial(config: dict[str, object]) -> None:
    """Counts to STEPS with a checkpoint at each, through the attempt, the guard and the door of a real trial."""
    order = TrialOrder.from_dict(config[ORDER_KEY])  # type: ignore[arg-type]
    place = present_place()
    order = replace(order, bundle=replace(order.bundle, gpus=place.gpus))
    where = {
        "trial/node": place.node,
        "trial/raylet": place.raylet,
        "trial/card": place.card,
        "trial/gpu_model": place.gpu_model,
        "trial/granted": place.gpus,
        "trial/pid": os.getpid(),
    }

    def train(
        settings: RunConfig, folder: Path, *, reporter: Reporter, resume_from: Path | None, **options: object
    ) -> None:
        done = json.loads((resume_from / "step.json").read_text())["step"] if resume_from else 0
        for step in range(done + 1, STEPS + 1):
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "step.json").write_text(json.dumps({"step": step}))
            reporter.log({"memory/reserved_bytes": float(settings.micro_batch)})
            reporter.report({METRIC: float(step)}, checkpoint)
        if "wait_for" in order.sampled:
            come = Path(order.sweep_folder) / str(order.sampled["wait_for"])  # so far, another trial or the driver
            wait_until(come.exists, come.name, known=lambda: str(sorted(come.parent.iterdir())))

    def send(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        report({**metrics, **where}, checkpoint)

    start = last_checkpoint() or (Path(order.resume_from) if order.resume_from else None)
    attempt(order, train, send, lambda metrics: None, start)
