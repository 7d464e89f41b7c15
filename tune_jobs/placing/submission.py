"""In which sequence a sweep's requests are submitted to the broker, and how many of them wait at a time. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.machines.hardware import Inventory
from cluster.scheduling.request import Request
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option, slots

MOST_WAITING_BY_RESULTS = 4  # each configuration that waits was chosen without the results that come meanwhile


def request_name(sweep: str, number: int) -> str:
    """Returns the name of a trial's request.

    >>> request_name("wide", 7)
    'wide/7'
    """
    return f"{sweep}/{number}"


def request_for(sweep: str, number: int, options: Sequence[Option], *, first: bool = False) -> Request:
    """Returns what a trial asks the broker for.

    Args:
        sweep: Its sweep.
        number: Its number there.
        options: Every option to run it; see placer.Placer.options.
        first: Whether it goes before the other requests of its sweep.
    """
    alternatives = tuple(option.alternative for option in options)
    return Request(name=request_name(sweep, number), sweep=sweep, alternatives=alternatives, first=first)


def starts_largest_first(sweep: Sweep) -> bool:
    """Whether the sequence of a sweep's trials is ours to choose.

    Results decide what bayes, bohb and pbt try; and what a time budget cuts off must be a random part of a search, not
    its small trials.

    >>> from tune_jobs.config.space import Space
    >>> [starts_largest_first(Sweep(name="a", source="", method=method, space=Space())) for method in ("grid", "bayes")]
    [True, False]
    """
    return sweep.method in ("grid", "random") and sweep.resources.time_budget_s is None


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionLimits:
    """How many trials of a sweep are under way at a time.

    Attributes:
        running: The most that run; None for as many as there is room for.
        waiting: The most whose requests wait at the broker; None for all that there are.
        together: The most that wait or run; None for no limit.
    """

    running: int | None = None
    waiting: int | None = None
    together: int | None = None

    def has_room(self, *, waiting: int, running: int) -> bool:
        """Returns whether one more trial is submitted while so many wait and run."""
        return (self.waiting is None or waiting < self.waiting) and (
            self.together is None or waiting + running < self.together
        )


def submission_limits(sweep: Sweep, inventory: Inventory) -> SubmissionLimits:
    """Returns how many trials of a sweep are under way at a time.

    All of a list or a population may wait, as results change nothing about what they ask for, so the broker can fill
    every gap. Where results choose the next trial, few wait, and no more than can run at all.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from tune_jobs.config.space import Space
    >>> sweeps = [Sweep(name="a", source="", method=method, space=Space()) for method in ("random", "bohb", "pbt")]
    >>> [submission_limits(sweep, parse_simulated("8x24GiB")).waiting for sweep in sweeps]
    [None, 4, None]
    """
    running = sweep.resources.max_concurrent_trials
    if sweep.method in ("grid", "random", "pbt"):
        return SubmissionLimits(running=running)
    together = min(slots(inventory, sweep.resources), running or math.inf)
    return SubmissionLimits(running=running, waiting=MOST_WAITING_BY_RESULTS, together=int(together))


def largest_first(total: int, options: Mapping[int, Sequence[Option]]) -> tuple[int, ...]:
    """Sorts trials by what they take of a card (best-fit-decreasing; Johnson, Fast Algorithms for Bin Packing, 1974).

    Two thirds of a card that come after two small trials wait; in the reverse sequence all four run at once. Trials
    that need several cards come first of all. Numbers, and so names and the ledger, stay those of the list.

    Args:
        total: Trials in the list, from 1.
        options: Of each trial, by number; those that can run nowhere are absent, and come first: a refusal costs
            nothing and should not come at the end of the night.
    """

    def size(number: int) -> tuple[float, int, int]:
        alternatives = [option.alternative for option in options.get(number, ())]
        if not alternatives:
            return (-math.inf, 0, number)
        return (-min(one.gpus for one in alternatives), -max(one.upper_bytes for one in alternatives), number)

    return tuple(sorted(range(1, total + 1), key=size))
