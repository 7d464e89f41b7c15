"""Rules by which packing can treat what waits, and when it is worth to compare them. Pure.

No single rule is the best on every sweep: where few cards are unequal and few trials are left, what makes most of each
second may leave a long trial for the end. So while few trials are known, the broker runs a copy of itself to the end
under each rule, with the durations that it was told, and goes on by the best one. Halves and whole cards are among the
rules, so where the durations are right no sweep ends later than under these.
"""

from cluster.scheduling.packing_prices import Rule
from cluster.scheduling.shares import UNITS

RULES = (
    Rule(),
    Rule(greed=4.0),
    Rule(step_units=UNITS // 3),
    Rule(step_units=UNITS // 2),
    Rule(step_units=UNITS),
)
_MOST_TRIALS = 100  # that wait or run: a comparison takes about ten milliseconds for each of them
_FEW = 8  # once so few wait, no comparison follows
_FEWER, _MORE = 0.5, 1.3  # parts of those that waited before, at which the rules are compared again


class Lookahead:
    """Decides when the rules are compared.

    >>> lookahead = Lookahead()
    >>> [lookahead.is_due(waiting, running=8) for waiting in (120, 90, 60, 44, 40, 60, 7, 10)]
    [False, True, False, True, False, True, False, True]
    """

    def __init__(self) -> None:
        self._from = self._to = 0.0

    def is_due(self, waiting: int, running: int) -> bool:
        """Whether much was submitted or started since the last comparison, and few enough trials are known.

        Args:
            waiting: Number of requests that wait.
            running: Number of trials that run.
        """
        is_like_before = waiting <= self._to and (waiting >= self._from or waiting < _FEW)
        if is_like_before or not waiting or waiting + running > _MOST_TRIALS:
            return False
        self._from, self._to = _FEWER * waiting, _MORE * waiting
        return True
