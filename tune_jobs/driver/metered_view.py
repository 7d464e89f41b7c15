"""A sweep's numbers for Prometheus, set from its progress beside the live view."""

import time
from collections import Counter
from collections.abc import Callable

from cluster.machines.metrics import METER_S, Meter
from tune_jobs.driver.view import View
from tune_jobs.records.progress import SweepProgress, TrialStatus

_STATES: tuple[TrialStatus, ...] = (
    "waiting",
    "running",
    "paused",
    "finished",
    "stopped",
    "failed",
    "refused",
    "interrupted",
)


class MeteredView:
    """A view that also sets the sweep's metrics, every few seconds.

    Args:
        view: Shows the progress.
        meter: Sets metrics.
        member: Whose sweep it is; empty where there are no quotas.
        clock: Seconds that only grow.
    """

    def __init__(self, view: View, meter: Meter, member: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._view, self._meter, self._member, self._clock = view, meter, member, clock
        self._set_at_s = -METER_S
        self._retries = 0
        self._cards: set[tuple[str, str]] = set()

    def event(self, text: str) -> None:
        """Says that something happened."""
        self._view.event(text)

    def refresh(self, progress: SweepProgress) -> None:
        """Shows the present state and sets the metrics when it is time."""
        self._view.refresh(progress)
        if self._clock() - self._set_at_s >= METER_S:
            self._set_at_s = self._clock()
            self._measure(progress)

    def close(self, progress: SweepProgress) -> None:
        """Shows the final state and sets the metrics of it."""
        self._measure(progress)
        self._view.close(progress)

    def _measure(self, progress: SweepProgress) -> None:
        tags = {"sweep": progress.sweep, "member": self._member}
        for state in _STATES:
            self._meter.gauge("tuning_trials", progress.count(state), state=state, **tags)
        best = progress.best()
        if best is not None and best.best is not None:
            self._meter.gauge("tuning_best_score", best.best, metric=progress.metric, **tags)
        retries = sum(trial.retries for trial in progress.trials.values())
        if retries > self._retries:
            self._meter.count("tuning_retries", retries - self._retries, **tags)
            self._retries = retries
        tenants = Counter(
            (trial.place[0], card)
            for trial in progress.trials.values()
            if trial.status == "running" and trial.place
            for card in trial.place[1].split(",")  # a trial on several cards is a tenant of each
        )
        self._cards |= set(tenants)
        for node, card in self._cards:  # a card that nobody is on any more has none, and does not keep its last number
            self._meter.gauge("tuning_card_tenants", tenants[node, card], node=node, card=card, **tags)
