"""How far trials would come under an early termination if nothing but chance told them apart. Pure and seeded."""

import heapq
import itertools
import random
from collections.abc import Sequence

from tune_jobs.search.stopping import StoppingRule


def expected_evaluations(rule: StoppingRule, longest: Sequence[int], *, side_by_side: int, seed: int = 0) -> list[int]:
    """Lets a sweep's own rule decide on made-up trials: each keeps one random score all the way.

    Real trials are stopped somewhat earlier or later; their number at each rung is what this is about. Asynchronous
    rules let more than one in eta pass while few have come, and that is counted.

    Args:
        rule: Fresh; see sections.EarlyTerminate.rule.
        longest: Evaluations of each trial that is never stopped, in the order of their starts.
        side_by_side: Trials at a time.
        seed: Of the scores.

    Returns:
        Evaluations of each trial until it is stopped or ends.

    >>> from tune_jobs.search.stopping import RungRule
    >>> sum(expected_evaluations(RungRule(rungs=(1, 3), eta=3, goal="maximize"), [9] * 27, side_by_side=4))
    69
    """
    rng = random.Random(seed)
    scores = [rng.random() for _ in longest]
    made = [0] * len(longest)
    waiting = iter(range(len(longest)))
    running = [(1, number) for number in itertools.islice(waiting, max(1, side_by_side))]
    while running:
        clock, number = heapq.heappop(running)
        made[number] += 1
        stopped = rule.report(str(number), made[number], scores[number]).stop
        follower = next(waiting, None) if stopped or made[number] >= longest[number] else number
        if follower is not None:
            heapq.heappush(running, (clock + 1, follower))
    return made


def left_at(rungs: Sequence[int], made: Sequence[int]) -> list[int]:
    """Counts the trials that go on behind each rung.

    >>> left_at((1, 3), [1, 3, 9, 1])
    [2, 1]
    """
    return [sum(1 for evaluations in made if evaluations > rung) for rung in rungs]
