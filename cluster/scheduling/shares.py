"""Shares of a card: the classes, and the smallest that holds a trial. Pure; must not import Ray, NVML or torch.

Shares are counted in units of 1/10,000 of a card, which is Ray's own granularity (a finer share is rounded down by Ray,
and a share under one unit kills a whole Tune run). They come from a small set of classes, as an allocator's blocks do:
equal shares tile a card, complements fill it, and few distinct shares let actors be reused.
"""

from dataclasses import dataclass
from math import gcd

from cluster.machines.hardware import Card, Pool
from tuning_common.units import counted

UNITS = 10_000  # shares of one card add up to at most so many
DENOMINATORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
CLASSES = tuple(
    sorted(p * (UNITS // q) for q in DENOMINATORS for p in range(1, q + 1) if gcd(p, q) == 1)
)  # 1/3 is 3333 units, rounded down, so that three of them fit on a card; 2/3 is two of those
MAX_TENANTS = 8  # trials on one card; beyond it they only wait for each other's kernels


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a trial holds: a part of one card, or whole cards.

    Attributes:
        units: Part of each card in 1/10,000; 10,000 where cards are whole.
        cards: Number of cards; above 1 only with whole cards.
    """

    units: int
    cards: int = 1

    def __post_init__(self) -> None:
        assert 1 <= self.units <= UNITS, f"a share is 1 to {UNITS} units, not {self.units}"
        assert self.cards == 1 or (self.cards > 1 and self.units == UNITS), "several cards are held whole"

    @property
    def gpus(self) -> float:
        """The number that Ray is asked for: four decimals up to one card, a whole number above."""
        return float(self.cards) if self.units == UNITS else self.units / UNITS

    def cap_bytes(self, usable_bytes: int) -> int:
        """Bytes that the trial may hold on each of its cards; those of all co-tenants add up to at most usable_bytes.

        Args:
            usable_bytes: Of the card.

        >>> Share(units=3333).cap_bytes(30_000)
        9999
        """
        return usable_bytes * self.units // UNITS

    def __str__(self) -> str:
        if self.units == UNITS:
            return counted(self.cards, "card")
        return f"{self.gpus:.4f}".rstrip("0") + " of a card"


def share_for(upper_bytes: int, card: Card | Pool, *, max_tenants: int = MAX_TENANTS) -> Share | None:
    """Finds the smallest share class that holds a trial on one card.

    Args:
        upper_bytes: Upper estimate of its device bytes.
        card: The card, or a pool of equal cards, of which the fullest counts.
        max_tenants: Most trials on one card.

    Returns:
        The share; None where even the whole card is too small.

    >>> card = Card(model="a", total_bytes=24 * 2**30)
    >>> [share_for(gib * 2**30, card).gpus for gib in (1, 7, 11, 13, 23)]
    [0.125, 0.3125, 0.5, 0.5625, 1.0]
    >>> share_for(24 * 2**30, card) is None  # the driver and a reserve take a part of each card
    True
    """
    assert upper_bytes >= 0, upper_bytes
    assert max_tenants >= 1, max_tenants
    if upper_bytes > card.usable_bytes or card.usable_bytes <= 0:
        return None
    for units in CLASSES:
        crowded = units * (max_tenants + 1) <= UNITS
        if not crowded and Share(units=units).cap_bytes(card.usable_bytes) >= upper_bytes:
            return Share(units=units)
    return Share(units=UNITS)
