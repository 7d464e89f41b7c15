"""W&B's `early_terminate: {type: hyperband}` as a scheduler of Ray Tune."""

import math
from collections.abc import Mapping

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_jobs.search.early_stopping import EVALUATION
from tune_jobs.search.scheduler_controller import SchedulerController


class WandbHyperBand(FIFOScheduler):  # type: ignore[misc]  # ray is untyped here
    """Stops trials at one list of brackets; it has no budgets and never pauses, unlike Ray's HyperBandScheduler.

    At every report the trial is compared at the last bracket that it has reached: with the value at position
    floor(n/eta), counted from 0, of all n trials that have come so far, its own among them. Others go on arriving, so a
    trial may fall behind after its bracket. Compared is the trial's best value so far; with `strict` its value at the
    bracket.

    Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys, and where that is silent hyperband_stopping.py of
    https://github.com/wandb/sweeps, which however looks only every few minutes.

    Args:
        brackets: Evaluations, in rising order.
        eta: 1/eta of the trials pass a bracket.
        strict: See above.
    """

    def __init__(self, *, brackets: tuple[int, ...], eta: float, strict: bool = False) -> None:
        super().__init__()
        self._brackets, self._eta, self._strict = brackets, eta, strict
        self._sign = 1.0
        self._scores: dict[str, dict[int, float]] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: object) -> bool:
        """Takes the metric and whether high values ("max") or low values ("min") are good."""
        self._sign = -1.0 if mode == "min" else 1.0
        accepted: bool = super().set_search_properties(metric, mode, **spec)
        return accepted

    def on_trial_result(self, tune_controller: SchedulerController, trial: Trial, result: Mapping[str, float]) -> str:
        """Compares the trial at the last bracket that it has reached."""
        evaluation = int(result[EVALUATION])
        own = self._scores.setdefault(trial.trial_id, {})
        own[evaluation] = _known(self._sign * result[self.metric])
        bracket = max((one for one in self._brackets if one <= evaluation), default=0)
        if not bracket:
            return str(TrialScheduler.CONTINUE)
        arrived = sorted((_at(one, bracket) for one in self._scores.values() if max(one) >= bracket), reverse=True)
        score = _at(own, bracket) if self._strict else max(own.values())
        is_behind = score < arrived[int(len(arrived) / self._eta)] or math.isinf(score)
        decision: str = TrialScheduler.STOP if is_behind else TrialScheduler.CONTINUE
        return decision

    def debug_string(self) -> str:
        """Says what the scheduler does."""
        return f"W&B's hyperband at evaluations {', '.join(map(str, self._brackets))}"


def _at(scores: Mapping[int, float], bracket: int) -> float:
    """The value at a bracket, or at the last evaluation before it."""
    return scores[max((evaluation for evaluation in scores if evaluation <= bracket), default=min(scores))]


def _known(score: float) -> float:
    return -math.inf if math.isnan(score) else score
