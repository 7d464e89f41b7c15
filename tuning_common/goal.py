"""Compares values of a metric that is maximized or minimized. Pure."""

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

Goal = Literal["maximize", "minimize"]
Item = TypeVar("Item")


def better(value: float, other: float | None, goal: Goal) -> bool:
    """Returns whether a value is better than another; a value that is not finite is never better.

    >>> better(2.0, 1.0, "maximize"), better(2.0, 1.0, "minimize"), better(float("nan"), None, "maximize")
    (True, False, False)
    """
    if not math.isfinite(value):
        return False
    if other is None or not math.isfinite(other):
        return True
    return value > other if goal == "maximize" else value < other


def best_first(items: Iterable[Item], value: Callable[[Item], float | None], goal: Goal) -> list[Item]:
    """Sorts items by value, best first. Equal items keep their order; items without a finite value come last.

    >>> best_first([2.0, None, 3.0, 1.0], lambda item: item, "minimize")
    [1.0, 2.0, 3.0, None]
    """

    def key(item: Item) -> float:
        number = value(item)
        if number is None or not math.isfinite(number):
            return math.inf
        return -number if goal == "maximize" else number

    return sorted(items, key=key)


def best_of(items: Iterable[Item], value: Callable[[Item], float | None], goal: Goal) -> Item | None:
    """Returns the item with the best value, the first of equals; None where no item has a finite value.

    >>> best_of(["ab", "c", "de"], lambda item: len(item), "maximize")
    'ab'
    """
    winner: Item | None = None
    best: float | None = None
    for item in items:
        number = value(item)
        if number is not None and better(number, best, goal):
            winner, best = item, number
    return winner
