"""A sweep's side of the team's books: asks before a trial starts, tells what it holds, hears what to give back."""

import time
from collections.abc import Callable
from typing import Protocol

from common.errors import ProductError
from tune_jobs.team.quotas import Decision
from tune_jobs.team.team_books import Answer, Entry, Telling

TELL_S = 1.0  # so often the books hear from a driver that has nothing new
SILENT_S = 5.0  # and so long it leaves them alone after they did not answer, as Tune's thread waits for each answer


class Admission(Protocol):
    """Decides whether a sweep's trials may run; called by Tune's thread only."""

    def open(self) -> None:
        """Makes the sweep known, before its first trial asks; may be called again.

        Raises:
            RequestError: When the sweep is refused.
            WorkError: When nobody can be asked.
        """
        ...

    def ask(self, trial: str, gpus: float, further: int = 0) -> Decision:
        """Asks whether a trial may start now; asked again until it may.

        Args:
            trial: Its name.
            gpus: What it would hold.
            further: How many more like it would follow at once.
        """
        ...

    def started(self, trial: str, gpus: float) -> None:
        """Hears that a trial has its place."""
        ...

    def over(self, trial: str) -> None:
        """Hears that a trial holds nothing any more."""
        ...

    def must_pause(self, trial: str) -> str | None:
        """Returns why a trial should pause at this report, None where it may go on."""
        ...

    def tick(self) -> None:
        """Is called several times a second."""
        ...

    def close(self) -> None:
        """The sweep is over."""
        ...


class OpenAdmission:
    """Lets everybody in: a sweep without a team."""

    def open(self) -> None:
        """Nothing to tell."""

    def ask(self, trial: str, gpus: float, further: int = 0) -> Decision:
        """Says yes."""
        return Decision(verdict="own", reason="")

    def started(self, trial: str, gpus: float) -> None:
        """Nothing to tell."""

    def over(self, trial: str) -> None:
        """Nothing to tell."""

    def must_pause(self, trial: str) -> str | None:
        """Never."""
        return None

    def tick(self) -> None:
        """Nothing to tell."""

    def close(self) -> None:
        """Nothing to tell."""


class TeamAdmission:
    """Asks the team's books.

    Args:
        exchange: Tells the books and returns their answer; None where they did not answer in time.
        enter: Enters the books, at first and again where they do not know this sweep any more.
        elapsed_s: Seconds that only grow.
        now: Unix seconds.
    """

    def __init__(
        self,
        exchange: Callable[[Telling], Answer | None],
        enter: Callable[[], None],
        leave: Callable[[], None],
        *,
        elapsed_s: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._exchange, self._enter, self._leave = exchange, enter, leave
        self._elapsed_s, self._now = elapsed_s, now
        self._held: dict[str, Entry] = {}
        self._asks: dict[str, Entry] = {}
        self._granted: dict[str, Decision] = {}
        self._further = 0
        self._answer = Answer()
        self._trouble = ""
        self._next_s = elapsed_s()
        self._is_open = False

    def open(self) -> None:
        """Enters the books."""
        if not self._is_open:
            self._enter()
            self._is_open = True

    def ask(self, trial: str, gpus: float, further: int = 0) -> Decision:
        """Asks at once for a new trial, and now and then for one that waits."""
        fresh = trial not in self._asks and trial not in self._granted
        if fresh:
            self._asks[trial] = Entry(trial=trial, gpus=gpus, since_s=self._now())
        self._further = further
        self._tell(at_once=fresh)
        if trial in self._granted:  # perhaps by an exchange that was made for another reason
            return self._granted.pop(trial)
        known = self._answer.decisions.get(trial)
        reason = self._trouble or (known.reason if known else "waits for the team's books")
        return Decision(verdict="waits", reason=reason)

    def started(self, trial: str, gpus: float) -> None:
        """Tells with the next exchange; after a failure a trial may hold more than it asked for."""
        known = self._held.get(trial)
        since_s = known.since_s if known else self._now()
        self._held[trial] = Entry(trial=trial, gpus=gpus, since_s=since_s, running=True)

    def over(self, trial: str) -> None:
        """Tells with the next exchange."""
        if self._held.pop(trial, None) is not None:
            self._next_s = min(self._next_s, self._elapsed_s())

    def must_pause(self, trial: str) -> str | None:
        """Asks anew, so that what is given back is never more than is missing."""
        self._tell()
        return self._answer.give_back.get(trial) if trial in self._held and not self._trouble else None

    def tick(self) -> None:
        """Tells now and then: a silent driver's trials would count for nothing."""
        self._tell()

    def close(self) -> None:
        """Leaves the books."""
        if self._is_open:
            self._held.clear()
            self._leave()
            self._is_open = False

    def _tell(self, *, at_once: bool = False) -> None:
        now_s = self._elapsed_s()
        if now_s < self._next_s and (self._trouble or not at_once):
            return
        answer = self._answered()
        self._next_s = self._elapsed_s() + (SILENT_S if answer is None else TELL_S)
        if answer is None:
            return
        self._trouble = ""
        self._answer = answer
        for trial, decision in answer.decisions.items():
            if decision.verdict != "waits" and trial in self._asks:
                asked = self._asks.pop(trial)
                self._granted[trial] = decision
                self._held[trial] = Entry(trial=trial, gpus=asked.gpus, since_s=self._now())

    def _answered(self) -> Answer | None:
        answer = self._exchange(self._telling())
        if answer is not None and not answer.known:
            try:
                self._enter()
            except ProductError as error:
                self._trouble = str(error)
                return None
            answer = self._exchange(self._telling())
        if answer is None or not answer.known:
            self._trouble = "the team's books do not answer; is the cluster's head reachable?"
            return None
        return answer

    def _telling(self) -> Telling:
        return Telling(held=tuple(self._held.values()), asks=tuple(self._asks.values()), further=self._further)
