"""Which requests start on which card where durations and busy parts are known. Pure; numpy only.

Memory decides what can stand side by side, compute how quickly it gets on. So a card gets the requests that make most
of it together, each kind's progress at the price that packing_prices finds for what is still to be done; and long
requests start early, so that none is left for the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.scheduling.capacity import Room
from cluster.scheduling.compute_sharing import Contention, SharedCards
from cluster.scheduling.mixes import Floats, Ints
from cluster.scheduling.packing_prices import PackingPrices, Rule, Running, Table
from cluster.scheduling.queue import Kind, type_of
from cluster.scheduling.request import Allocation, Alternative, Request
from cluster.scheduling.shares import UNITS, Share
from cluster.scheduling.work import Pass

_TINY = 1e-9
_NOTHING = np.zeros(1)
_USUAL = Rule()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenants:
    """The trials on a card.

    Attributes:
        left_s: Work left of each, in seconds alone on this card, the least first.
        busy: Part of the card's compute that each keeps busy alone.
        worth: Of all their progress in a second, were none slowed down.
    """

    left_s: Floats
    busy: Floats
    worth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """What waits, as one card sees it: the longest request of each kind.

    Attributes:
        units: What each would hold of the card.
        busy: Part of the card's compute that each keeps busy alone.
        worth: Of the progress of each in a second alone on this card.
        lasts_s: How long each takes alone on this card; infinite where it cannot start.
        quickest_s: How long each takes alone on its quickest card.
    """

    units: Ints
    busy: Floats
    worth: Floats
    lasts_s: Floats
    quickest_s: Floats


def next_start(
    tenants: Tenants,
    waiting: Candidates,
    *,
    free_units: int,
    time_left_s: float,
    contention: Contention,
    greed: float = _USUAL.greed,
) -> int | None:
    """Chooses what starts on a card beside those that run there.

    Of what fits, whatever makes the card's progress worth more may start. That of the best two together counts, so that
    large ones are not preferred to what fills the card; among near equals the longest starts. A request that would be
    slowed down, or slow others down, beyond the end of everything waits; so does one on a slow card that a quicker
    one could end in time. Where nobody is slowed down and no card is quicker, whatever fits may start.

    Args:
        tenants: Who runs on the card.
        waiting: Who may start.
        free_units: Of the card's memory, as shares.
        time_left_s: Until all requests should be over.
        contention: How co-tenants slow each other down.
        greed: See Rule.

    Returns:
        Position in `waiting`; None where nothing should start now.

    >>> nobody = Tenants(left_s=np.array([]), busy=np.array([]), worth=0.0)
    >>> lasts_s = np.array([30.0, 20.0])
    >>> waiting = Candidates(units=np.array([9000, 4000]), busy=np.array([0.9, 0.4]), worth=np.array([0.9, 0.5]),
    ...     lasts_s=lasts_s, quickest_s=lasts_s)
    >>> free = {"free_units": 10000, "time_left_s": 100.0, "contention": Contention()}
    >>> next_start(nobody, waiting, **free)  # two of the second make more of the card, but the first is longer
    0
    >>> one = Tenants(left_s=np.array([50.0]), busy=np.array([0.6]), worth=0.5)
    >>> next_start(one, waiting, **free | {"free_units": 5000})
    1
    """
    fits = np.isfinite(waiting.lasts_s) & (waiting.units <= free_units)
    if not fits.any():
        return None
    positions = np.flatnonzero(fits)
    units, busy, worth = waiting.units[positions], waiting.busy[positions], waiting.worth[positions]
    count, used = len(tenants.busy), float(tenants.busy.sum())
    together = used + busy
    slowdown = contention.slowdowns(together, count + 1)
    now_worth = tenants.worth / contention.slowdown(tuple(tenants.busy))
    then_worth = (tenants.worth + worth) / slowdown
    pair_slowdown = contention.slowdowns(together[:, None] + busy, count + 2)
    pair_worth = (tenants.worth + worth[:, None] + worth) / pair_slowdown
    pair_worth[units[:, None] + units > free_units] = 0.0
    best_worth = np.maximum(then_worth, pair_worth.max(axis=1))
    lasts_s = waiting.lasts_s[positions]
    late = last_end_s(tenants, lasts_s, busy, contention) > time_left_s * (1 + _TINY)
    slower = lasts_s > waiting.quickest_s[positions] * (1 + _TINY)
    waits = late & (slower | (slowdown > 1 + _TINY))
    useful = ~waits & (then_worth > now_worth * (1 + _TINY))
    if not useful.any():
        return None
    ranks = waiting.quickest_s[positions] * (best_worth / best_worth[useful].max()) ** greed
    return int(positions[np.where(useful, ranks, -1.0).argmax()])


def last_end_s(tenants: Tenants, lasts_s: Floats, busy: Floats, contention: Contention) -> Floats:
    """When a card would be empty again if each of these alone joined its tenants, and nobody after it."""
    if not len(tenants.left_s):
        return lasts_s
    from_s = np.concatenate([[0.0], tenants.left_s[:-1]])
    lengths_s = tenants.left_s - from_s
    used, count = tenants.busy[::-1].cumsum()[::-1], np.arange(len(tenants.busy), 0, -1)
    shared_s = np.clip(lasts_s[:, None] - from_s, 0.0, lengths_s)
    with_it = contention.slowdowns(used + busy[:, None], count + 1)
    without_it = contention.slowdowns(used, count)
    alone_s = np.maximum(0.0, lasts_s - tenants.left_s[-1])
    ends_s: Floats = (shared_s * with_it + (lengths_s - shared_s) * without_it).sum(axis=1) + alone_s
    return ends_s


class Packing:
    """Starts requests of one card whose durations and busy parts are known; see next_start and packing_prices.

    The broker chooses the node and Ray the card: the fullest one that has room. So a request gets a share that is a
    little larger where a fuller card of the node would else take it. Sweeps that hold least choose first.

    Args:
        contention: How co-tenants slow each other down.
    """

    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._running: dict[str, Running] = {}
        self._cards = SharedCards(contention)
        self._card_ends_s: dict[tuple[str, int], float] = {}
        self._latest_s = 0.0
        self._was_limited = False
        self._rule = _USUAL
        self._begin()

    @property
    def rule(self) -> Rule:
        """How what waits is treated."""
        return self._rule

    def follow(self, rule: Rule) -> None:
        """Treats what waits by this rule from now on."""
        is_priced = rule.step_units == self._rule.step_units
        self._rule = rule
        if not is_priced:
            self._begin()

    def _begin(self) -> None:
        self._prices, self._table = PackingPrices(self._rule), Table.of((), (), self._rule)
        self._kinds: list[Kind] = []
        self._heads_s: Floats = np.zeros(0)

    def next_end(self) -> tuple[float, str] | None:
        """Returns when the next running trial ends, and which, as far as durations are known."""
        return self._cards.next_end()

    def started(self, request: Request, allocation: Allocation, now_s: float) -> None:
        """Follows the progress of a trial on its card, where its duration is known."""
        one = allocation.alternative
        is_known = one.cards == 1 and one.expected_s is not None and one.busy is not None
        if request.name in self._running or not is_known:
            return
        assert one.expected_s is not None
        assert one.busy is not None
        card, busy = (allocation.nodes[0], allocation.cards[0]), min(1.0, one.busy)
        self._running[request.name] = Running(type_of(request), one.model, card, busy)
        self._cards.start(request.name, card=card, work_s=one.expected_s, busy=one.busy, now_s=now_s)

    def ended(self, name: str, now_s: float) -> None:
        """Forgets a trial."""
        if self._running.pop(name, None) is not None:
            self._cards.stop(name, now_s)

    def run(self, work: Pass, kinds: Sequence[Kind], now_s: float) -> None:
        """Grants what requests of these kinds get now.

        Args:
            work: The pass.
            kinds: Those whose requests take one card in every alternative, all with a profile.
            now_s: Elapsed seconds.
        """
        if not kinds:
            return
        models = work.capacity.models
        is_new = self._refresh(kinds, models)
        pools = tuple((model, work.capacity.cards_of(model)) for model in models)
        is_new |= self._prices.update(kinds, lambda: self._left(now_s), pools, now_s)
        worth = self._prices.worth([kind.key.type for kind in kinds])
        cards = work.capacity.cards_with_room() if is_new or self._was_limited else sorted(work.capacity.changed)
        work.capacity.changed.clear()
        self._was_limited = work.use is not None
        self._latest_s = max(self._prices.ends_by_s(self._rule.horizon), *self._card_ends_s.values(), 0.0)
        numbers = {model: number for number, model in enumerate(models)}
        speeds = self._table.speed.mean(axis=0)
        order = sorted((-speeds[numbers[work.capacity.model(key)]], key) for key in cards)
        for borrows in (False, True) if work.use is not None else (False,):
            for _, key in order:
                pool = numbers[work.capacity.model(key)]
                self._fill(work, key, pool, worth[:, pool], borrows=borrows, now_s=now_s)
            if not borrows:
                self._note_unserved(work)

    def _refresh(self, kinds: Sequence[Kind], models: Sequence[str]) -> bool:
        """Reads what waits; returns whether a kind is new or has a longer request than before."""
        before = {id(kind): head_s for kind, head_s in zip(self._kinds, self._heads_s, strict=True)}
        heads_s = [-kind.keys[0][1] for kind in kinds]
        is_new = any(head_s > before.get(id(kind), -1.0) for kind, head_s in zip(kinds, heads_s, strict=True))
        if self._kinds != list(kinds) or self._table.models != tuple(models):
            types = [kind.key.type for kind in kinds]
            self._kinds, self._table = list(kinds), Table.of(types, models, self._rule)
        self._heads_s = np.array(heads_s)
        return is_new

    def _left(self, now_s: float) -> list[tuple[Running, float]]:
        return [(one, self._cards.left_s(name, now_s)) for name, one in self._running.items()]

    def _fill(self, work: Pass, key: int, pool: int, worth: Floats, *, borrows: bool, now_s: float) -> None:
        """Starts on a card what makes most of it, until nothing does."""
        table, place, model = self._table, work.capacity.place(key), work.capacity.model(key)
        while True:
            room = work.capacity.room(key)
            if not room.free_units or not room.is_first or room.node in work.closed:
                return
            tenants = self._tenants(place, pool, now_s)
            self._card_ends_s[place] = now_s + float(last_end_s(tenants, _NOTHING, _NOTHING, self._contention)[0])
            self._latest_s = max(self._latest_s, self._card_ends_s[place])
            fits = (self._heads_s >= 0) & (table.speed[:, pool] > 0) & (table.cpu_units[:, pool] <= room.cpu_units)
            fits &= table.host_bytes[:, pool] <= room.host_bytes
            waiting = Candidates(
                units=np.maximum(table.units[:, pool], room.above_units + 1),
                busy=table.busy[:, pool],
                worth=worth,
                lasts_s=np.divide(self._heads_s, table.speed[:, pool], out=np.full(len(fits), np.inf), where=fits),
                quickest_s=self._heads_s,
            )
            number = self._choose(work, tenants, waiting, room.free_units, pool, borrows=borrows, now_s=now_s)
            if number is None:
                return
            kind = self._kinds[number]
            one = next(one for one in work.queue.head(kind).alternatives if one.model == model)
            held = _with_units(one, _distinct(int(waiting.units[number]), room))
            granted = work.grant(kind, held, work.capacity.slot_on(key))
            for other in self._kinds:
                other.passed_over += other is not kind and model in other.models
            self._heads_s[number] = -kind.keys[0][1] if kind.keys else -1.0
            self.started(granted.request, work.capacity.allocation(granted.request.name, held, granted.slot), now_s)

    def _choose(
        self,
        work: Pass,
        tenants: Tenants,
        waiting: Candidates,
        free_units: int,
        pool: int,
        *,
        borrows: bool,
        now_s: float,
    ) -> int | None:
        """Lets the sweeps choose, the one that holds least first."""
        names = {kind.key.sweep for kind in self._kinds}
        for name in sorted(names, key=lambda one: (work.sweeps[one].gpus, work.sweeps[one].count, one)):
            sweep, lasts_s = work.sweeps[name], waiting.lasts_s
            if sweep.is_full:
                self._was_limited = True
                continue
            if len(names) > 1 or work.use is not None:
                mine = [
                    kind.key.sweep == name and work.allows(sweep.member, units / UNITS, borrows=borrows)
                    for kind, units in zip(self._kinds, waiting.units, strict=True)
                ]
                lasts_s = np.where(mine, lasts_s, np.inf)
            number = next_start(
                tenants,
                replace(waiting, lasts_s=lasts_s),
                free_units=free_units,
                time_left_s=self._latest_s - now_s,
                contention=self._contention,
                greed=self._rule.greed,
            )
            if number is not None:
                return number
        return None

    def _tenants(self, place: tuple[str, int], pool: int, now_s: float) -> Tenants:
        found = self._cards.tenants(place, now_s)
        running = [self._running[name] for name, _ in found]
        return Tenants(
            left_s=np.array([left_s for _, left_s in found]),
            busy=np.array([one.busy for one in running]),
            worth=float(self._prices.worth([one.type for one in running])[:, pool].sum()),
        )

    def _note_unserved(self, work: Pass) -> None:
        for kind in self._kinds:
            if kind.keys:
                sweep = work.sweeps[kind.key.sweep]
                is_own = work.allows(sweep.member, kind.least_gpus, borrows=False)
                kind.waits_for = "concurrency" if sweep.is_full else "room" if is_own else "quota"
                if is_own:
                    work.unserved.append(kind)


def _distinct(units: int, room: Room) -> int:
    """Returns units, or a few more, so that no other card of the node has just as much free afterwards.

    Of cards with equal room Ray takes the first one, whoever runs there.
    """
    while room.free_units - units in room.others_units:
        units += 1
    return units


def _with_units(one: Alternative, units: int) -> Alternative:
    assert one.share is not None
    if units == one.share.units:
        return one
    return replace(one, share=Share(units=units), cap_bytes=one.cap_bytes * units // one.share.units)
