"""A sweep without processes: it reports made-up scores to an EarlyStopping and obeys its rulings."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tune_jobs.config.space import Value
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping, Ruling

METRIC = "m"
Kind = Literal["add", "report", "complete", "fail", "remove"]


@dataclass(frozen=True)
class Event:
    """What happened, and what was ruled."""

    kind: Kind
    number: int
    evaluation: int = 0
    value: float = 0.0
    ruling: Ruling = field(default_factory=Ruling, compare=False)


def apply(
    stopping: EarlyStopping, event: Event, sampled: Callable[[int], dict[str, Value]], metric: str = METRIC
) -> Ruling:
    """Repeats an event on another object."""
    if event.kind == "add":
        stopping.add(event.number, sampled(event.number))
        return Ruling()
    if event.kind == "report":
        result = {metric: event.value, EVALUATION: event.evaluation, "time_total_s": float(event.evaluation)}
        return stopping.report(event.number, result)
    return {"complete": stopping.complete, "fail": stopping.fail, "remove": stopping.remove}[event.kind](event.number)


class StandInDriver:
    """Drives one sweep to its end.

    Args:
        stopping: Decides.
        score: (trial, evaluation) -> value.
        sampled: Values of a trial.
        last: Evaluations of a trial that is never stopped.
        side_by_side: Trials at a time.
        rng: Chooses who reports next, and who fails; None takes turns, and nobody fails.
        failures: Chance of a failure in place of a report.
        metric: Name of the score.
    """

    def __init__(
        self,
        stopping: EarlyStopping,
        score: Callable[[int, int], float],
        *,
        sampled: Callable[[int], dict[str, Value]] = lambda number: {},
        last: int = 9,
        side_by_side: int = 100,
        rng: random.Random | None = None,
        failures: float = 0.0,
        metric: str = METRIC,
    ) -> None:
        self.stopping, self._score, self._sampled, self._metric = stopping, score, sampled, metric
        self._last, self._side_by_side, self._rng, self._failures = last, side_by_side, rng, failures
        self.events: list[Event] = []
        self.made: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self._queue: list[int] = []
        self._running: list[int] = []

    def run(self, numbers: Sequence[int], *, known: int | None = None) -> "StandInDriver":
        """Reports until all trials have ended.

        Args:
            numbers: The trials.
            known: So many are added at first, the others as room is left; all where None.
        """
        later = list(numbers)
        while later or len(self.ended) < len(self.made):
            while later and (known is None or len(self.made) < known or len(self._running) < self._side_by_side):
                self.made[later[0]] = 0
                self._do("add", later.pop(0))
                self._start()
            assert self._running, f"no trial runs, and these have not ended: {set(self.made) - set(self.ended)}"
            number = self._rng.choice(self._running) if self._rng else self._running[0]
            self._running.remove(number)
            if self._rng and self._rng.random() < self._failures:
                self._end("fail", number)
            else:
                self._report(number)
            self._start()
        return self

    def stops(self) -> dict[int, int]:
        """Evaluation at which each trial was stopped early."""
        return {number: self.made[number] for number, how in self.ended.items() if how == "stopped"}

    def _report(self, number: int) -> None:
        self.made[number] += 1
        ruling = self._do("report", number, self.made[number], self._score(number, self.made[number]))
        if self.made[number] >= self._last:
            self._end("complete", number)
        elif ruling.decision == "stop":
            self.ended[number] = "stopped"
        elif ruling.decision == "continue":
            self._running.append(number)

    def _end(self, kind: Kind, number: int) -> None:
        self.ended[number] = kind
        self._do(kind, number)

    def _do(self, kind: Kind, number: int, evaluation: int = 0, value: float = 0.0) -> Ruling:
        event = Event(kind, number, evaluation, value)
        ruling = apply(self.stopping, event, self._sampled, self._metric)
        self.events.append(Event(kind, number, evaluation, value, ruling))
        for stopped in ruling.stopped:
            self.ended.setdefault(stopped, "stopped")
        for exploit in ruling.exploits:
            if exploit.number not in self.ended:
                self.made[exploit.number] = self.made[exploit.donor]
        return ruling

    def _start(self) -> None:
        self._queue += self.stopping.runnable()
        self._queue = [number for number in self._queue if number not in self.ended]
        room = self._side_by_side - len(self._running)
        self._running += self._queue[:room]
        del self._queue[:room]
