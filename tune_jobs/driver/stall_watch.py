"""Trials that say nothing for too long: their processes hang and are ended. Pure."""

from collections.abc import Callable

from common.units import format_duration


class StallWatch:
    """Remembers when each running trial was last heard.

    Args:
        limit_s: From the longest gap between two reports so far to the silence that is too long.

    >>> watch = StallWatch(lambda longest_gap_s: 10 * longest_gap_s)
    >>> watch.started(1, 0.0); watch.reported(1, 6.0)
    >>> watch.hanging(66.0), watch.hanging(67.0), watch.hanging(68.0)
    ({}, {1: 'no report for 1 min 00 s: its process hung and was ended'}, {})
    >>> watch.left(1)
    'no report for 1 min 00 s: its process hung and was ended'
    """

    def __init__(self, limit_s: Callable[[float], float]) -> None:
        self._limit_s = limit_s
        self._heard_s: dict[int, float] = {}
        self._longest_gap_s = 0.0
        self._reasons: dict[int, str] = {}

    def started(self, number: int, now_s: float) -> None:
        """Hears that a trial runs, or that it waits with its place for something that is no fault of its process."""
        self._heard_s[number] = now_s

    def reported(self, number: int, now_s: float) -> None:
        """Hears an evaluation; the gap before it counts for what is too long."""
        self._longest_gap_s = max(self._longest_gap_s, now_s - self._heard_s.get(number, now_s))
        self._heard_s[number] = now_s

    def hanging(self, now_s: float) -> dict[int, str]:
        """Returns the trials that hang with what is said of them, each once per start."""
        limit_s = self._limit_s(self._longest_gap_s)
        silent = [number for number, heard_s in self._heard_s.items() if now_s - heard_s > limit_s]
        reason = f"no report for {format_duration(limit_s)}: its process hung and was ended"
        for number in silent:
            del self._heard_s[number]
            self._reasons[number] = reason
        return dict.fromkeys(silent, reason)

    def left(self, number: int) -> str | None:
        """Hears that a trial's process is gone; returns why we ended it, if we did."""
        self._heard_s.pop(number, None)
        return self._reasons.pop(number, None)
