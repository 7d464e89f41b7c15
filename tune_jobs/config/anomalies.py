"""The `anomalies` section of a sweep file: failed, hanging and diverged trials; detects an exploding loss. Pure."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tuning_common.strict import model
from tuning_common.units import parse_duration

Policy = Literal["retry", "stop"]
STALL_FLOOR_S = 1800.0  # loading a large model and its data for the first time may take this long
STALL_FACTOR = 10.0  # times the longest time between two reports of any trial
IN_A_ROW = 2  # readings above the bound: one alone may be an unlucky batch


@model
class Anomalies:
    """The reaction to each kind of failure: `retry` resumes from the last checkpoint, `stop` ends the trial.

    Attributes:
        exploding_loss: A training has diverged when its loss exceeds this factor times its lowest, and its first, in
            two readings in a row; None: only when it is NaN or infinite.
        diverged: The reaction to a diverged training; retries are limited by `resources.retries`. A retried training
            usually diverges again.
        stall_after: A trial hangs when it has not reported for this duration, for example 2h; None: ten times the
            longest time between two reports of any trial, but at least half an hour.
        stalled: The reaction to a trial whose hanging process was ended.
        lost_worker: The reaction to a trial whose process or node died.
    """

    exploding_loss: Annotated[float, Field(gt=1)] | None = 4.0
    diverged: Policy = "stop"
    stall_after: str | None = None
    stalled: Policy = "retry"
    lost_worker: Policy = "retry"

    @field_validator("stall_after")
    @classmethod
    def _check_duration(cls, value: str | None) -> str | None:
        if value is not None and parse_duration(value) <= 0:
            raise ValueError("stall_after must be longer than nothing")
        return value

    def stall_limit_s(self, longest_gap_s: float) -> float:
        """Returns how many seconds without a report mean that a trial hangs.

        Args:
            longest_gap_s: Longest time between two reports so far.

        >>> Anomalies().stall_limit_s(60.0), Anomalies(stall_after="20m").stall_limit_s(600.0)
        (1800.0, 1200.0)
        """
        if self.stall_after is not None:
            return parse_duration(self.stall_after)
        return max(STALL_FLOOR_S, STALL_FACTOR * longest_gap_s)

    def starts_again(self, kind: str) -> bool:
        """Returns whether a trial restarts after this kind of failure.

        >>> Anomalies(lost_worker="stop").starts_again("worker_lost"), Anomalies().starts_again("out_of_memory")
        (False, True)
        """
        policies = {"stalled": self.stalled, "worker_lost": self.lost_worker}
        return policies.get(kind, "retry") == "retry"


class LossWatch:
    """Detects an exploding training loss.

    Args:
        factor: See Anomalies.exploding_loss; None detects nothing.
        seen: First and lowest loss of the attempt that this one resumes.

    >>> watch = LossWatch(4.0)
    >>> [watch.see(loss) is None for loss in (3.0, 0.5, 2.5, 9.0, 0.6, 4.0, 5.0)], watch.seen
    ([True, True, True, True, True, True, False], (3.0, 0.5))
    """

    def __init__(self, factor: float | None, seen: tuple[float, float] | None = None) -> None:
        self._factor = factor
        self._first = seen[0] if seen else None
        self._lowest = seen[1] if seen else float("inf")
        self._above = 0

    @property
    def seen(self) -> tuple[float, float] | None:
        """First and lowest loss so far, for the next attempt; None before the first."""
        return None if self._first is None else (self._first, self._lowest)

    def see(self, loss: float) -> str | None:
        """Takes one reading; returns the problem, or None."""
        if self._factor is None:
            return None
        self._first = loss if self._first is None else self._first
        self._lowest = min(self._lowest, loss)
        bound = max(self._factor * self._lowest, self._first)
        self._above = self._above + 1 if loss > bound else 0
        if self._above < IN_A_ROW:
            return None
        return f"the training loss exploded: {loss:.4g} after a lowest of {self._lowest:.4g}"
