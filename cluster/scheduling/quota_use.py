"""Quotas against what members hold: who may start, who borrows, whose allocations go back. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from cluster.scheduling.capacity import Capacity, Slot
from cluster.scheduling.held import Held, SweepUse
from cluster.scheduling.queue import Kind
from cluster.scheduling.quotas import Team, describe_next_change, quota_gpus
from cluster.scheduling.request import Alternative

_TINY = 1e-9


class QuotaUse:
    """What every member may hold and holds at an instant; follows what is allocated in one pass.

    Args:
        team: Quotas in force.
        instant: Now, with a time zone.
        held_gpus: What each member holds.

    >>> from datetime import UTC
    >>> from cluster.scheduling.quotas import Member
    >>> use = QuotaUse(Team(members={"jun": Member(quota_gpus=2)}), datetime(2026, 11, 25, tzinfo=UTC), {"jun": 1.5})
    >>> use.is_own("jun", 0.5), use.is_own("jun", 1.0), use.is_own("", 0.5), use.describe("jun")
    (True, False, False, 'jun holds 1.5 of 2 GPUs')
    """

    def __init__(self, team: Team, instant: datetime, held_gpus: Mapping[str, float]) -> None:
        self.team, self.instant = team, instant
        self._held = dict(held_gpus)
        self._quotas = {member: quota_gpus(team, member, instant) for member in team.members}

    def quota_gpus(self, member: str) -> float:
        """Returns a member's quota; 0 for one that is unknown."""
        return self._quotas.get(member, 0.0)

    def left_gpus(self, member: str) -> float:
        """Returns what a member may still take of the quota; below 0 where it borrows."""
        return self.quota_gpus(member) - self._held.get(member, 0.0)

    def is_own(self, member: str, gpus: float) -> bool:
        """Whether so many more GPUs lie inside a member's quota."""
        return gpus <= max(0.0, self.left_gpus(member)) + _TINY

    def take(self, member: str, gpus: float) -> None:
        """Counts what was allocated."""
        self._held[member] = self._held.get(member, 0.0) + gpus

    def entitled(self, kinds: Iterable[Kind], sweeps: Mapping[str, SweepUse]) -> Iterator[tuple[Kind, int]]:
        """Yields the kinds of which requests lie inside their member's quota, and how many of each do."""
        left_gpus: dict[str, float] = {}
        for kind in kinds:
            sweep = sweeps[kind.key.sweep]
            left = left_gpus.setdefault(sweep.member, self.left_gpus(sweep.member))
            if not kind.least_gpus or left < kind.least_gpus - _TINY:
                continue
            count = min(len(kind.keys), int((left + _TINY) / kind.least_gpus))
            if sweep.max_concurrent is not None:
                count = min(count, sweep.max_concurrent - sweep.count)
            left_gpus[sweep.member] -= count * kind.least_gpus
            yield kind, count

    def lendable_gpus(
        self, member: str, free_gpus: float, unserved: Iterable[Kind], sweeps: Mapping[str, SweepUse]
    ) -> float:
        """Returns what a member may borrow: free GPUs that no request of others inside its quota waits for."""
        if not self.team.lend_idle:
            return 0.0
        others = [kind for kind in unserved if sweeps[kind.key.sweep].member != member]
        owed = sum(count * kind.least_gpus for kind, count in self.entitled(others, sweeps))
        return free_gpus - owed + _TINY

    def borrowed(self, held: Iterable[Held]) -> list[Held]:
        """Returns the allocations beyond their member's quota, youngest first."""
        used: dict[str, float] = {}
        beyond = []
        for one in sorted(held, key=lambda one: one.number):
            used[one.member] = used.get(one.member, 0.0) + one.gpus
            if one.gpus and used[one.member] > self._quotas.get(one.member, 0.0) + _TINY:
                beyond.append(one)
        return beyond[::-1]

    def describe(self, member: str) -> str:
        """Says what a member holds."""
        held, quota = round(self._held.get(member, 0.0), 4), self._quotas.get(member, 0.0)
        return f"{member or 'a sweep without a member'} holds {held:g} of {quota:g} GPUs"

    def until(self) -> str:
        """Says when quotas change; empty where they do not."""
        return describe_next_change(self.team, self.instant)


def choose_returns(
    alternatives: Sequence[Alternative], capacity: Capacity, borrowed: Sequence[Held], freed: Counter[int]
) -> tuple[Slot, list[Held]] | None:
    """Chooses borrowed allocations that make room in one piece for a request inside its quota.

    Args:
        alternatives: Of the request.
        capacity: What is free.
        borrowed: Allocations that may be paused, the youngest first.
        freed: Units of cards that come free anyway, less what is promised of them; updated by this choice.

    Returns:
        Where the request can then start, and what to pause for it: as little as possible, the youngest first. None
        where no pauses make room.
    """
    movable: dict[int, tuple[int, int]] = {}
    for rank, one in enumerate(borrowed):
        for key in one.slot.cards if one.slot else ():
            units, youngest = movable.get(key, (0, rank))
            movable[key] = (units + one.card_units, youngest)
    found = []
    for number, alternative in enumerate(alternatives):
        soonest = capacity.soonest(alternative, freed=freed, movable=movable)
        if soonest is not None:
            found.append((soonest[0], number, soonest[1]))
    if not found:
        return None
    _, number, slot = min(found, key=lambda option: option[:2])
    share, chosen = alternatives[number].share, list[Held]()
    for key in slot.cards:
        there = [one for one in borrowed if one.slot and key in one.slot.cards]
        missing = capacity.missing_units(alternatives[number], key, freed)
        missing -= sum(one.card_units for one in there if one in chosen)
        chosen += _fewest([one for one in there if one not in chosen], missing)
    for one in chosen:
        freed.update(dict.fromkeys(one.slot.cards if one.slot else (), one.card_units))
    freed.subtract(dict.fromkeys(slot.cards, share.units if share else 0))
    return slot, chosen


def _fewest(there: Sequence[Held], missing_units: int) -> list[Held]:
    """Takes the youngest until enough comes free, then leaves out what is not needed beside the others."""
    taken: list[Held] = []
    for one in there:
        if missing_units > 0:
            taken.append(one)
            missing_units -= one.card_units
    for one in reversed(tuple(taken)):
        if missing_units + one.card_units <= 0:
            taken.remove(one)
            missing_units += one.card_units
    return taken
