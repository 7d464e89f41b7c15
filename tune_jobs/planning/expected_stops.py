"""How far trials would come under an early termination if they differed by chance alone. Seeded."""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tune_jobs.config.sweep import Sweep

_MOST_SIMULATED = 200  # the median rule reads every earlier trial at each report


def expected_evaluations(sweep: Sweep, longest: Sequence[int], *, side_by_side: int) -> list[int]:
    """Lets the sweep's own scheduler decide on made-up trials: each keeps one random score to its end.

    Real trials are stopped somewhat earlier or later; their number at each rung is what this is about. Asynchronous
    schedulers let more than one in eta pass while few have come, and that is counted. Of very many trials the first
    200 are simulated, and the others taken to come as far as these.

    Args:
        sweep: Its early termination, method, metric and seed.
        longest: Evaluations of each trial that is never stopped, in the order of their starts.
        side_by_side: Trials at a time.

    Returns:
        Evaluations of each trial until it is stopped or ends.
    """
    if sweep.early_terminate.type == "none" or not longest:
        return list(longest)
    made = _simulate(sweep, longest[:_MOST_SIMULATED], side_by_side)
    for number in range(len(made), len(longest)):
        like = number % _MOST_SIMULATED
        made.append(longest[number] if made[like] == longest[like] else min(made[like], longest[number]))
    return made


def _simulate(sweep: Sweep, longest: Sequence[int], side_by_side: int) -> list[int]:
    rng = random.Random(sweep.search.seed)
    scores = [rng.random() for _ in longest]
    if sweep.early_terminate.type == "asha" and sweep.early_terminate.brackets == 1 and sweep.method != "pbt":
        return _under_asha(sweep, longest, scores, side_by_side)
    return _under_scheduler(sweep, longest, scores, side_by_side)


def _under_asha(sweep: Sweep, longest: Sequence[int], scores: Sequence[float], side_by_side: int) -> list[int]:
    """Does what Ray's ASHAScheduler with one bracket decides; importing Ray takes longer than all else of a plan."""
    recorded: dict[int, list[float]] = {rung: [] for rung in sweep.early_terminate.rungs(max(longest))}
    percentile = (1 - 1 / sweep.early_terminate.eta) * 100
    sign = 1 if sweep.metric.goal == "maximize" else -1

    def report(number: int, evaluation: int) -> tuple[bool, Sequence[int]]:
        score, goes_on = sign * scores[number], evaluation < longest[number]
        if evaluation in recorded:
            others = recorded[evaluation]
            goes_on = goes_on and not (others and score < np.percentile(others, percentile))
            others.append(score)
        return goes_on, ()

    return _play(range(len(longest)), len(longest), side_by_side, report)


def _under_scheduler(sweep: Sweep, longest: Sequence[int], scores: Sequence[float], side_by_side: int) -> list[int]:
    from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping  # imports ray.tune
    from tune_jobs.search.tune_schedulers import scheduler_for

    # Copies of weights change how good trials are, which chance knows nothing of.
    plain = replace(sweep, method="random") if sweep.method == "pbt" else sweep
    scheduler = scheduler_for(plain, last=max(longest), side_by_side=side_by_side)
    stopping = EarlyStopping(scheduler, seed=sweep.search.seed)
    for number in range(len(longest)):
        stopping.add(number, {})

    def report(number: int, evaluation: int) -> tuple[bool, Sequence[int]]:
        result = {EVALUATION: evaluation, "time_total_s": float(evaluation), sweep.metric.name: scores[number]}
        ruling = stopping.report(number, result)
        is_done = evaluation >= longest[number]
        if is_done:
            stopping.complete(number)
        return not is_done and ruling.decision == "continue", stopping.runnable()

    return _play(stopping.runnable(), len(longest), side_by_side, report)


def _play(
    first: Sequence[int], count: int, side_by_side: int, report: Callable[[int, int], tuple[bool, Sequence[int]]]
) -> list[int]:
    """Lets trials make one evaluation after the other, so many at a time.

    Args:
        first: Trials that may run at the beginning.
        count: Of all trials.
        side_by_side: Trials at a time.
        report: Takes in a trial and its evaluation; returns whether it goes on, and which others may run now.

    Returns:
        Evaluations of each trial.
    """
    made, waiting, clock = [0] * count, deque(first), 0
    running: list[tuple[int, int]] = []
    while running or waiting:
        while waiting and len(running) < max(1, side_by_side):
            heapq.heappush(running, (clock + 1, waiting.popleft()))
        clock, number = heapq.heappop(running)
        made[number] += 1
        goes_on, runnable = report(number, made[number])
        if goes_on:
            heapq.heappush(running, (clock + 1, number))
        waiting.extend(runnable)
    return made


def left_at(rungs: Sequence[int], made: Sequence[int]) -> list[int]:
    """Counts the trials that go on behind each rung.

    >>> left_at((1, 3), [1, 3, 9, 1])
    [2, 1]
    """
    return [sum(1 for evaluations in made if evaluations > rung) for rung in rungs]
