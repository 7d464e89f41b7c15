"""Which waiting trials are shown with a reason, and when. Pure."""

from collections.abc import Iterable, Mapping


class WaitNotices:
    """Remembers since when trials wait for a share.

    A short wait is no news: a trial is due after `after_s`, and again whenever it has waited twice as long.

    >>> notices = WaitNotices(after_s=10)
    >>> notices.update([4], now_s=100); [notices.due(now_s) for now_s in (105, 110, 115, 120)]
    [{}, {4: 10}, {}, {4: 20}]
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since_s: dict[int, float] = {}
        self._next_s: dict[int, float] = {}

    def update(self, waiting: Iterable[int], now_s: float) -> None:
        """Takes in the trials that wait now; those that wait already keep their time."""
        numbers = set(waiting)
        for number in set(self._since_s) - numbers:
            del self._since_s[number], self._next_s[number]
        for number in numbers - set(self._since_s):
            self._since_s[number], self._next_s[number] = now_s, now_s + self._after_s

    def due(self, now_s: float) -> Mapping[int, float]:
        """Returns the trials to show, with the seconds that each has waited."""
        due = {number: now_s - self._since_s[number] for number, at_s in self._next_s.items() if now_s >= at_s}
        for number, waited_s in due.items():
            self._next_s[number] = self._since_s[number] + 2 * waited_s
        return due
