"""A real Tune run and its stand-ins come to the same decisions from the same results in the same order."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, TrialScheduler

from tests.tune_jobs.search.stand_in_driver import METRIC
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TRIALS, LAST = 8, 9


class Trainable(tune.Trainable):  # type: ignore[misc]  # ray is untyped here
    """Reports its own number, less a little at each evaluation."""

    def setup(self, config: dict[str, object]) -> None:
        self.number, self.made = int(str(config["number"])), 0

    def reset_config(self, new_config: dict[str, object]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, float]:
        self.made += 1
        return {METRIC: (self.number * 5) % TRIALS - self.made / 100}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "made").write_text(json.dumps(self.made))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.made = json.loads((Path(checkpoint_dir) / "made").read_text())


class Recorder(tune.Callback):  # type: ignore[misc]  # ray is untyped here
    """Keeps the results in the order in which the scheduler got them."""

    def __init__(self) -> None:
        self.results: list[tuple[int, int, float]] = []

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, object], **info: object
    ) -> None:
        self.results.append((int(trial.config["number"]), int(str(result[EVALUATION])), float(str(result[METRIC]))))


def asha() -> TrialScheduler:
    return ASHAScheduler(metric=METRIC, mode="max", max_t=LAST, reduction_factor=3)


def hyper_band() -> TrialScheduler:
    return HyperBandScheduler(metric=METRIC, mode="max", max_t=LAST, reduction_factor=3)


@pytest.mark.parametrize("make", [asha, hyper_band])
def test_tune_stops_the_trials_that_the_stand_ins_stop(make: Callable[[], TrialScheduler]) -> None:
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            tune.with_resources(Trainable, {"cpu": 1}),
            param_space={"number": tune.grid_search(list(range(TRIALS)))},
            tune_config=tune.TuneConfig(scheduler=make(), reuse_actors=True),
            run_config=tune.RunConfig(stop={EVALUATION: LAST}, storage_path=folder, callbacks=[recorder], verbose=0),
        ).fit()
    in_tune = {int(result.config["number"]): result.metrics[EVALUATION] for result in grid}

    stopping = EarlyStopping(make(), seed=0, last=LAST)
    for number in range(TRIALS):
        stopping.add(number, {})
    ours = dict.fromkeys(range(TRIALS), 0)
    ended: set[int] = set()
    for number, evaluation, value in recorder.results:
        assert number not in ended, f"Tune ran trial {number} to evaluation {evaluation}, we would have ended it"
        ours[number] = evaluation
        ruling = stopping.report(number, {METRIC: value, EVALUATION: evaluation})
        ended |= {*ruling.stopped, *([number] if ruling.decision == "stop" or evaluation == LAST else [])}
    assert ours == in_tune
    assert ended == set(range(TRIALS))
