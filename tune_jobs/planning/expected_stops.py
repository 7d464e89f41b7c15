"""How far trials would come under an early termination if they differed by chance alone. Seeded."""

import heapq
import random
from collections import deque
from collections.abc import Sequence
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
    made = [0] * len(longest)
    waiting = deque(range(len(longest)))
    running: list[tuple[int, int]] = []
    clock = 0
    while running or waiting:
        while waiting and len(running) < max(1, side_by_side):
            heapq.heappush(running, (clock + 1, waiting.popleft()))
        clock, number = heapq.heappop(running)
        made[number] += 1
        score, goes_on = sign * scores[number], made[number] < longest[number]
        if made[number] in recorded:
            others = recorded[made[number]]
            goes_on = goes_on and not (others and score < np.percentile(others, percentile))
            others.append(score)
        if goes_on:
            heapq.heappush(running, (clock + 1, number))
    return made


def _under_scheduler(sweep: Sweep, longest: Sequence[int], scores: Sequence[float], side_by_side: int) -> list[int]:
    from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping  # imports ray.tune
    from tune_jobs.search.tune_schedulers import scheduler_for

    # Copies of weights change how good trials are, which chance knows nothing of.
    plain = replace(sweep, method="random") if sweep.method == "pbt" else sweep
    scheduler = scheduler_for(plain, last=max(longest), side_by_side=side_by_side)
    stopping = EarlyStopping(scheduler, seed=sweep.search.seed)
    made = [0] * len(longest)
    for number in range(len(longest)):
        stopping.add(number, {})
    waiting = deque(stopping.runnable())
    running: list[tuple[int, int]] = []
    clock = 0
    while running or waiting:
        while waiting and len(running) < max(1, side_by_side):
            heapq.heappush(running, (clock + 1, waiting.popleft()))
        clock, number = heapq.heappop(running)
        made[number] += 1
        ruling = stopping.report(
            number, {EVALUATION: made[number], "time_total_s": float(made[number]), sweep.metric.name: scores[number]}
        )
        if made[number] >= longest[number]:
            stopping.complete(number)
        elif ruling.decision == "continue":
            heapq.heappush(running, (clock + 1, number))
        waiting.extend(number for number in stopping.runnable())
    return made


def left_at(rungs: Sequence[int], made: Sequence[int]) -> list[int]:
    """Counts the trials that go on behind each rung.

    >>> left_at((1, 3), [1, 3, 9, 1])
    [2, 1]
    """
    return [sum(1 for evaluations in made if evaluations > rung) for rung in rungs]
