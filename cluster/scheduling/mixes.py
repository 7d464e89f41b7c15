"""Which trials belong side by side: what time on each card is worth, and how soon all could be over. Pure; numpy only.

A *mix* is a set of trials on one card side by side. If trials could be cut into slices at will, a sweep would end
soonest by running the right mixes for the right times. That is a linear program with one column for each mix; columns
are found as they are needed (Gilmore and Gomory, "A linear programming approach to the cutting-stock problem",
Operations Research 9 (1961)). Nothing that runs whole trials ends sooner, and the program's prices tell what progress
of each trial, and time on each card, is worth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.scheduling.linear_program import least_time

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_TINY = 1e-9
_GAP = 3e-3  # from the best prices, as a part of the time, is near enough
_ROUNDS = 300  # in which mixes are looked for on each pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """Trials by kind; arrays [kinds, pools] unless said otherwise.

    Attributes:
        parts: Part of a card's memory that one holds; above 1 where it does not fit.
        busy: Part of a card's compute that one keeps busy alone, 0 to 1 [kinds].
        rates: Progress in a second alone on a card, in seconds on its quickest pool; 0 where it does not fit.
    """

    parts: Floats
    busy: Floats
    rates: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What a linear program says of some work.

    Attributes:
        progress: Worth of a second's progress of each kind [kinds].
        cards: Worth of a second of a card of each pool [pools]; all cards together are worth 1.
        least_s: No mixes get all work done sooner.
    """

    progress: Floats
    cards: Floats
    least_s: float


class Mixes:
    """The mixes found so far, for some kinds of trials on some pools.

    Args:
        kinds: The trials.
        cards: Number of cards of each pool [pools].
        memory_steps: Parts of a card's memory are rounded down to so many steps.
        busy_steps: Busy parts are rounded down to so many steps.

    >>> alone = Kinds(parts=np.array([[0.4], [0.6]]), busy=np.array([0.0, 0.0]), rates=np.array([[1.0], [1.0]]))
    >>> prices = Mixes(alone, np.array([1])).prices(np.array([100.0, 60.0]))
    >>> prices.least_s  # 60 s of one beside the other, then 40 s of the first, two at a time
    80.0
    """

    def __init__(self, kinds: Kinds, cards: Ints, *, memory_steps: int = 120, busy_steps: int = 20) -> None:
        assert np.all(kinds.parts * memory_steps >= 1 - _TINY), "more co-tenants than steps of memory"
        self._kinds, self._cards = kinds, cards
        self._memory_steps, self._busy_steps = memory_steps, busy_steps
        self._memory = np.floor(kinds.parts * memory_steps + _TINY).astype(np.int64)
        self._busy = np.floor(kinds.busy * busy_steps + _TINY).astype(np.int64)
        self._columns: list[Floats] = []
        self._pools: list[int] = []
        for pool in range(len(cards)):
            for kind in np.flatnonzero(kinds.rates[:, pool] > 0):
                self._add(pool, np.eye(len(kinds.busy))[kind] * kinds.rates[kind, pool])

    def prices(self, work_s: Floats) -> Prices:
        """Finds what progress is worth.

        Args:
            work_s: What there is to do of each kind, in seconds alone on its quickest pool [kinds].
        """
        work_s = np.maximum(work_s, _TINY * work_s.sum())
        unit_s = float(work_s.sum())  # so that the solver sees numbers near 1
        best: Prices | None = None
        for _ in range(_ROUNDS):
            attainable, worth, asked = least_time(np.array(self._columns), self._pools, self._cards, work_s / unit_s)
            found = [self._best_mix(worth, pool) for pool in range(len(self._cards))]
            needed = np.array([value for value, _ in found])
            scale = float(needed @ self._cards)
            least = float(worth @ work_s) / scale
            if best is None or least > best.least_s:
                best = Prices(progress=worth / scale, cards=needed / scale, least_s=least)
            new = [pool for pool, (value, _) in enumerate(found) if value > asked[pool] * (1 + 1e-7) + 1e-12]
            if not new or attainable * unit_s <= best.least_s * (1 + _GAP):
                break
            for pool in new:
                self._add(pool, found[pool][1])
        assert best is not None
        return best

    def _add(self, pool: int, progress: Floats) -> None:
        self._columns.append(progress)
        self._pools.append(pool)

    def _best_mix(self, worth: Floats, pool: int) -> tuple[float, Floats]:
        """Finds the mix that makes most of a second on a card, and its progress [kinds].

        A knapsack over memory and compute. Trials that keep more than a whole card busy slow each other down; of more
        than two cards' worth one can always be left out at no loss, so busy parts are counted up to 2.
        """
        rates = self._kinds.rates[:, pool]
        fits = np.flatnonzero((rates > 0) & (worth > 0) & (self._memory[:, pool] <= self._memory_steps))
        progress = np.zeros(len(rates))
        if not len(fits):
            return 0.0, progress
        memory, busy = np.maximum(self._memory[fits, pool], 1), self._busy[fits]
        value, last = _knapsack(memory, busy, worth[fits] * rates[fits], self._memory_steps, 2 * self._busy_steps)
        slowdown = np.maximum(1.0, np.arange(value.shape[1]) / self._busy_steps)
        best = np.unravel_index(int(np.argmax(value / slowdown)), value.shape)
        room, compute = int(best[0]), int(best[1])
        reached, slowed = float(value[room, compute]), float(slowdown[compute])
        while last[room, compute] >= 0:
            item = int(last[room, compute])
            progress[fits[item]] += rates[fits[item]] / slowed
            room, compute = room - int(memory[item]), compute - int(busy[item])
        return reached / slowed, progress


def _knapsack(memory: Ints, busy: Ints, values: Floats, room: int, compute: int) -> tuple[Floats, Ints]:
    """Most value of any number of items that take exactly so much memory and compute; and the item put in last.

    Returns:
        Two arrays [room + 1, compute + 1]; value minus infinity and item -1 where nothing takes just that, or no item.
    """
    above, beside = int(memory.max()), int(busy.max())  # margins, so that looking back never leaves the table
    table = np.full((above + room + 1, beside + compute + 1), -np.inf)
    table[above, beside] = 0.0
    last = np.full((room + 1, compute + 1), -1, dtype=np.int64)
    flat, width, every = table.ravel(), table.shape[1], np.arange(compute + 1)
    back = every[None, :] - (memory * width + busy)[:, None]
    for taken in range(int(memory.min()), room + 1):
        with_item = flat[back + ((above + taken) * width + beside)] + values[:, None]
        item = with_item.argmax(axis=0)
        reached, row = with_item[item, every], table[above + taken, beside:]
        better = reached > row
        row[better] = reached[better]
        last[taken][better] = item[better]
    return table[above:, beside:], last
