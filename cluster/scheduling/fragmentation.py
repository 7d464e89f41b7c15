"""What a start costs those that come later: the requests that its node could else still hold. Pure; numpy only.

A request takes room, and may spoil more than it takes: a rest of a card that is too small for anybody, or cards whose
node has no CPU left. So free room counts as the number of requests that it still holds, of every kind that was
submitted and as often as it was, and a request goes where least is lost. (Weng et al., "Beware of Fragmentation",
USENIX ATC 2023, weigh the GPUs that are spoilt instead; the difference is measured in benchmarks/openb.md.)
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.scheduling.request import Alternative, Request
from cluster.scheduling.shares import UNITS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shape = tuple[int, int, int]  # units of each card, cards, CPUs in 1/10,000
_SHAPES = 32  # of each GPU model that are counted, the most frequent ones
_REMEMBERED = 10_000  # requests; older ones count half
_TOGETHER = (
    1.5  # a request of n cards counts as n to this power: room for it is the first that is gone. Found by trying
)
_TINY = 1e-9
_NO_CARD = np.iinfo(np.int64).max


def shape_of(alternative: Alternative) -> Shape:
    """Returns what an alternative takes of a node."""
    share = alternative.share
    units, cards = (share.units, share.cards) if share else (0, 0)
    return units, cards, alternative.bundle_cpu_units * alternative.bundles


class Demand:
    """How often each shape was submitted, by GPU model.

    Attributes:
        version: Grows each time that the counts have about doubled: what was derived from them is made again.
    """

    def __init__(self) -> None:
        self.version = 0
        self._counts: dict[str, Counter[Shape]] = {}
        self._total = self._new = 0

    def add(self, request: Request) -> None:
        """Counts a request once on every GPU model on which it can run."""
        for one in request.alternatives:
            if one.share is not None:
                self._counts.setdefault(one.model, Counter())[shape_of(one)] += 1
        self._new += 1
        if self._new > self._total:
            self._total, self._new, self.version = self._total + self._new, 0, self.version + 1
            if self._total > _REMEMBERED:
                self._total //= 2
                for model, counts in self._counts.items():
                    self._counts[model] = Counter({shape: count // 2 for shape, count in counts.items() if count > 1})

    def shapes(self, model: str) -> list[tuple[Shape, float]]:
        """Returns the most frequent shapes on a GPU model, each with its part of all requests."""
        found = self._counts.get(model, Counter[Shape]()).most_common(_SHAPES)
        return [(shape, count / self._total) for shape, count in found]


class FreeNodes:
    """What is free on the nodes of one GPU model, and what each start would cost there.

    Args:
        model: Label of the GPU model; empty where the nodes have no card.
        cards: Number of cards of each node.
        demand: What later requests probably take.

    >>> nodes = FreeNodes("A40", [1, 1], Demand())
    >>> nodes.set_node(0, cpu_units=UNITS, host_bytes=0), nodes.set_node(1, cpu_units=UNITS, host_bytes=0)
    (None, None)
    >>> nodes.set_card(1, 0, 5000)
    >>> nodes.best((4000, 1, 0), 0, [])  # nothing was submitted yet, so nothing is lost: the fullest card
    (0.0, 5000, 1)
    """

    def __init__(self, model: str, cards: Sequence[int], demand: Demand) -> None:
        self._model, self._demand, self._counted = model, demand, -1
        self._free = np.array([[UNITS if key < count else -1 for key in range(max(cards))] for count in cards])
        self._free = self._free.reshape(len(cards), max(cards))
        self._cpu_units, self._host_bytes = np.zeros(len(cards), np.int64), np.zeros(len(cards), np.int64)
        self._versions = np.zeros(len(cards), np.int64)
        self._known: dict[Shape | None, tuple[Ints, Floats, Ints]] = {}
        self._units = self._cards = self._cpus = self._weights = np.zeros(0)

    def set_card(self, row: int, column: int, units: int) -> None:
        """Notes what is free of a card."""
        self._free[row, column] = units
        self._versions[row] += 1

    def set_node(self, row: int, *, cpu_units: int, host_bytes: int) -> None:
        """Notes what is free of a node."""
        self._cpu_units[row], self._host_bytes[row] = cpu_units, host_bytes
        self._versions[row] += 1

    def best(self, shape: Shape, host_bytes: int, avoid: Sequence[int]) -> tuple[float, int, int] | None:
        """Finds the node on which a start costs least; among equals, the one with the fullest card.

        Args:
            shape: What would be held.
            host_bytes: Host memory that would be held.
            avoid: Rows of nodes that are left out.

        Returns:
            What it costs, free units of its card (whole cards: number of empty ones; CPUs alone: minus those that are
            free), and the row; None where it fits nowhere.
        """
        lost, rank = self._lost(shape)
        fits = (self._cpu_units >= shape[2]) & (self._host_bytes >= host_bytes) & np.isfinite(lost)
        fits[avoid] = False
        rows = np.flatnonzero(fits)
        if not len(rows):
            return None
        lost = lost[rows]
        least = lost.min()
        rows = rows[lost <= least + _TINY]
        row = int(rows[rank[rows].argmin()])
        return round(float(least), 9), int(rank[row]), row

    def _lost(self, shape: Shape) -> tuple[Floats, Ints]:
        """Returns for each node what a start would cost, infinite where no card has room, and its rank among equals."""
        if self._counted != self._demand.version:
            self._count()
        rows, lost, rank = self._stale(shape)
        if len(rows):
            before = self._values(rows)
            cpu_units = self._cpu_units[rows]
            after, rank[rows] = self._taken(shape, rows)
            lost[rows] = before - self._worth(after, np.maximum(cpu_units - shape[2], 0))
            lost[rows[rank[rows] == _NO_CARD]] = np.inf
        return lost, rank

    def _values(self, rows: Ints) -> Floats:
        stale, values, _ = self._stale(None)
        if len(stale):
            values[stale] = self._worth(self._free[stale], self._cpu_units[stale])
        return values[rows]

    def _stale(self, shape: Shape | None) -> tuple[Ints, Floats, Ints]:
        """Returns the nodes that changed since this was last asked for a shape, and what was known of all."""
        count = len(self._versions)
        if shape not in self._known:
            self._known[shape] = (np.full(count, -1), np.zeros(count), np.zeros(count, np.int64))
        seen, known, rank = self._known[shape]
        rows = np.flatnonzero(seen != self._versions)
        seen[rows] = self._versions[rows]
        return rows, known, rank

    def _taken(self, shape: Shape, rows: Ints) -> tuple[Ints, Ints]:
        """Returns what is free of cards after a start, on the card that Ray chooses, and the rank among equals."""
        units, cards, _ = shape
        after = self._free[rows]
        if not cards:
            return after, -self._cpu_units[rows]
        if cards > 1:
            empty = after == UNITS
            after[empty & (empty.cumsum(axis=1) <= cards)] = 0
            count = empty.sum(axis=1)
            return after, np.where(count >= cards, count, _NO_CARD)
        free = np.where(after >= units, after, _NO_CARD)
        column = free.argmin(axis=1)
        every = np.arange(len(rows))
        after[every, column] -= units
        return after, free[every, column]

    def _worth(self, free: Ints, cpu_units: Ints) -> Floats:
        """Returns how many requests such nodes hold, each kind as often as it comes [nodes]."""
        fits = free[:, :, None] >= self._units
        held = (np.maximum(free, 0)[:, :, None] * fits).sum(axis=1) / (self._units * self._cards)
        held *= fits.sum(axis=1) >= self._cards
        most = np.divide(cpu_units[:, None], self._cpus, out=np.full(held.shape, np.inf), where=self._cpus > 0)
        worth: Floats = np.minimum(held, most) @ self._weights
        return worth

    def _count(self) -> None:
        """Reads the demand anew."""
        shapes = self._demand.shapes(self._model)
        units, cards, cpus = np.array([shape for shape, _ in shapes], dtype=np.float64).reshape(-1, 3).T
        self._units, self._cards, self._cpus = units, cards, cpus
        self._weights = np.array([part for _, part in shapes]) * cards**_TOGETHER
        self._counted = self._demand.version
        self._known.clear()
