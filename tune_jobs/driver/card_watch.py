"""What ran on the card of each trial between two of its reports. Pure."""

from collections.abc import Mapping

from cluster.scheduling.request import CardUse
from tune_jobs.records.card_sharing import SLOWDOWN_KEY, TENANTS_KEY

_MOSTLY = 0.8  # of the time: then a report counts for that number of trials


class CardWatch:
    """Adds up how long each trial had how many co-tenants.

    Args:
        now_s: Elapsed seconds.

    >>> watch = CardWatch(0.0)
    >>> watch.sample({7: CardUse(tenants=2, slowdown=1.5)}, 9.0)
    >>> watch.sample({7: CardUse(tenants=1, slowdown=1.0)}, 10.0)
    >>> watch.take(7), watch.take(7)
    ({'card/tenants': 2, 'card/slowdown': 1.45}, {})
    """

    def __init__(self, now_s: float) -> None:
        self._sampled_s = now_s
        self._passed_s: dict[int, dict[CardUse, float]] = {}  # by trial

    def sample(self, uses: Mapping[int, CardUse], now_s: float) -> None:
        """Takes in what runs beside each trial now; counts since the last sample."""
        for number, use in uses.items():
            passed_s = self._passed_s.setdefault(number, {})
            passed_s[use] = passed_s.get(use, 0.0) + now_s - self._sampled_s
        self._sampled_s = now_s

    def take(self, number: int) -> dict[str, float]:
        """Returns what a report of a trial says of its card, and begins anew; nothing where co-tenants changed."""
        passed_s = self._passed_s.pop(number, {})
        total_s = sum(passed_s.values())
        by_tenants: dict[int, float] = {}
        for use, some_s in passed_s.items():
            by_tenants[use.tenants] = by_tenants.get(use.tenants, 0.0) + some_s
        tenants = max(by_tenants, key=lambda one: by_tenants[one], default=0)
        if total_s <= 0 or by_tenants[tenants] < _MOSTLY * total_s:
            return {}
        known = [use.slowdown * some_s for use, some_s in passed_s.items() if use.slowdown is not None]
        slowdown = {SLOWDOWN_KEY: sum(known) / total_s} if len(known) == len(passed_s) else {}
        return {TENANTS_KEY: tenants, **slowdown}
