"""Trials without a report for too long: their processes hang and are ended. Pure."""

from collections.abc import Callable

from tuning_common.units import format_duration


class StallWatch:
    """Remembers the last sign of life of each running trial.

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
        self._last_s: dict[int, float] = {}
        self._longest_gap_s = 0.0
        self._reasons: dict[int, str] = {}

    def started(self, number: int, now_s: float) -> None:
        """Takes in that a trial runs, or waits with its share through no fault of its process."""
        self._last_s[number] = now_s

    def reported(self, number: int, now_s: float) -> None:
        """Takes in an evaluation; the gap before it counts for what is too long."""
        self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_s.get(number, now_s))
        self._last_s[number] = now_s

    def hanging(self, now_s: float) -> dict[int, str]:
        """Returns the trials that hang, each once per attempt, with the reason."""
        limit_s = self._limit_s(self._longest_gap_s)
        silent = [number for number, last_s in self._last_s.items() if now_s - last_s > limit_s]
        reason = f"no report for {format_duration(limit_s)}: its process hung and was ended"
        for number in silent:
            del self._last_s[number]
            self._reasons[number] = reason
        return dict.fromkeys(silent, reason)

    def left(self, number: int) -> str | None:
        """Takes in that an attempt has ended; returns why its process was ended for hanging, if it was."""
        self._last_s.pop(number, None)
        return self._reasons.pop(number, None)
