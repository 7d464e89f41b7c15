"""A sweep's numbers for Prometheus: set from its progress beside the live view, and from a trial's own process."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from tune_jobs.driver.view import View
from tune_jobs.records.progress import SweepProgress, TrialStatus
from tune_jobs.records.trial_spec import TrialOrder

METER_S = 5.0
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


class Meter(Protocol):
    """Sets metrics; see cluster.machines.metrics.Meters."""

    def gauge(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""
        ...

    def count(self, name: str, by: float = 1.0, **tags: str) -> None:
        """Adds to a counter."""
        ...


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


class TrialMeter:
    """The numbers of one trial, set in its own process, on the node that it runs on.

    Args:
        meter: Sets metrics.
        order: The trial; its bundle is what it was granted.
        node: Address of the host.
        card: Number of the card there; empty where it runs without one.
    """

    def __init__(self, meter: Meter, order: TrialOrder, node: str, card: str) -> None:
        self._meter, self._order = meter, order
        self._tags = {"sweep": order.sweep, "trial": order.name, "node": node, "card": card}
        estimated = order.estimate.get("upper_bytes", 0.0)
        self._gauge("share", order.bundle.gpus)
        self._gauge("estimated_bytes", float(estimated) if isinstance(estimated, (int, float)) else 0.0)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers of a step: what the process holds at most, and how fast it learns."""
        held_bytes = metrics.get("trial/held_bytes", metrics.get("memory/reserved_bytes"))
        if held_bytes is not None:
            self._gauge("measured_bytes", held_bytes)
        if "train/tokens_per_second" in metrics:
            self._gauge("tokens_per_second", metrics["train/tokens_per_second"])

    def out_of_memory(self) -> None:
        """Counts an attempt that outgrew its share."""
        self._meter.count("tuning_out_of_memory", 1.0, **self._tags)

    def close(self) -> None:
        """The trial holds nothing any more; its process, which goes on exporting, may serve another trial."""
        for name in ("share", "estimated_bytes", "measured_bytes", "tokens_per_second"):
            self._gauge(name, 0.0)

    def _gauge(self, name: str, value: float) -> None:
        self._meter.gauge(f"tuning_trial_{name}", value, **self._tags)
