"""What a second of progress of each type of request is worth on each GPU model, and when all could be over. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.scheduling.mixes import Floats, Ints, Kinds, Mixes
from cluster.scheduling.queue import Kind, Type
from cluster.scheduling.shares import UNITS

_REPRICED = 10  # times that prices are found anew, each time after as much work was started
_REPRICED_ABOVE = 1.3  # times the work for which prices were found
_MEMORY_STEPS, _BUSY_STEPS = 120, 40  # of a card; half of them costs 7 % on four GPU models
_BUSY_ROUNDED_TO = (100, 20, 10, 5)  # steps of a card's compute, of which the first is taken that suffices
_MANY_TYPES = 150
_LEAST_WORTH = 1e-3  # of its fair part of a card: no request's progress is worth nothing
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How packing treats what waits. The values below were found by trying.

    Attributes:
        step_units: Shares are rounded up to a multiple of so much of a card; 0 where they stay as they are.
        greed: How much more a card's progress counts than the length of the request that starts.
        horizon: Times the end that prices foresee: crowding that would end later waits. Less leaves slow cards idle,
            more lets long requests be slowed down at the end.
    """

    step_units: int = 0
    greed: float = 2.0
    horizon: float = 1.06

    def units(self, asked_units: int) -> int:
        """Returns what a request gets of a card that asks for so much.

        >>> [Rule(step_units=3333).units(asked) for asked in (1250, 3333, 3750, 7500)]
        [3333, 3333, 6666, 10000]
        """
        if not self.step_units:
            return asked_units
        steps = -(-asked_units // self.step_units)
        return steps * self.step_units if steps < UNITS // self.step_units else UNITS


@dataclass(frozen=True, slots=True)
class Running:
    """A trial that runs on a card.

    Attributes:
        type: What it takes and how it runs.
        model: Label of the card's GPU model.
        card: Name of the node and index of the card.
        busy: Part of the card's compute that it keeps busy alone.
    """

    type: Type
    model: str
    card: tuple[str, int]
    busy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Kinds of requests on GPU models; arrays [kinds, models].

    Attributes:
        models: Labels of the GPU models.
        units: What each holds of a card; more than a card where it cannot run.
        cpu_units: CPUs that each takes, in 1/10,000.
        host_bytes: Host memory that each takes.
        busy: Part of a card's compute that each keeps busy alone.
        speed: Relative to its quickest model; 0 where it cannot run.
    """

    models: tuple[str, ...]
    units: Ints
    cpu_units: Ints
    host_bytes: Ints
    busy: Floats
    speed: Floats

    @classmethod
    def of(cls, types: Sequence[Type], models: Sequence[str], rule: Rule) -> "Table":
        """Lays out types of requests under a rule."""
        shape = (len(types), len(models))
        units, cpu_units, host_bytes = np.full(shape, 2 * UNITS), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        busy, speed = np.zeros(shape), np.zeros(shape)
        numbers = {model: number for number, model in enumerate(models)}
        for row, (footprints, profile) in enumerate(types):
            for footprint, (part, relative) in zip(footprints, profile, strict=True):
                column = numbers.get(footprint[0])
                if column is not None:
                    units[row, column], cpu_units[row, column] = rule.units(footprint[1]), footprint[3]
                    host_bytes[row, column] = footprint[4]
                    busy[row, column], speed[row, column] = part, relative
        return cls(
            models=tuple(models), units=units, cpu_units=cpu_units, host_bytes=host_bytes, busy=busy, speed=speed
        )


class PackingPrices:
    """Finds prices anew after a part of the work was started, or much was added; see mixes.

    Args:
        rule: What requests get of a card.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._priced_at_s = self._least_s = 0.0
        self._pools: tuple[tuple[str, int], ...] = ()
        self._numbers: dict[Type, int] = {}
        self._mixes: Mixes | None = None
        self._kinds = Kinds(parts=np.zeros((0, 0)), busy=np.zeros(0), rates=np.zeros((0, 0)))
        self._worth: Floats = np.zeros((0, 0))
        self._from_s = self._to_s = self._step_s = 0.0  # prices hold while so much work waits

    def ends_by_s(self, horizon: float) -> float:
        """Returns the elapsed seconds at which all could be over, see Rule."""
        return self._priced_at_s + horizon * self._least_s

    def worth(self, types: Sequence[Type]) -> Floats:
        """Returns what a second alone on a card of each GPU model is worth [types, models]; 0 where it has no price."""
        found = np.zeros((len(types), len(self._pools)))
        for row, one in enumerate(types):
            number = self._numbers.get(one)
            if number is not None:
                found[row] = self._worth[number]
        return found

    def update(
        self,
        waiting: Sequence[Kind],
        running: Callable[[], Sequence[tuple[Running, float]]],
        pools: tuple[tuple[str, int], ...],
        now_s: float,
    ) -> bool:
        """Finds prices anew where that is due; returns whether it did.

        Args:
            waiting: Kinds of requests that wait.
            running: Returns what runs, and the work left of each in seconds alone on its card.
            pools: GPU models and their numbers of cards.
            now_s: Elapsed seconds.
        """
        types = [kind.key.type for kind in waiting]
        is_new = pools != self._pools or any(one not in self._numbers for one in types)
        if is_new:
            self._set_types(dict.fromkeys([*types, *(one.type for one, _ in running())]), pools)
        to_start_s = sum(kind.work_s for kind in waiting)
        if not is_new and self._from_s <= to_start_s <= self._to_s:
            return False
        self._step_s = max(self._step_s, to_start_s / _REPRICED)
        self._from_s, self._to_s = to_start_s - self._step_s, to_start_s * _REPRICED_ABOVE
        work_s = np.zeros(len(self._kinds.busy))
        for one, kind in zip(types, waiting, strict=True):
            work_s[self._numbers[one]] += kind.work_s
        self._find(work_s, running(), now_s)
        return True

    def _find(self, to_start_s: Floats, running: Sequence[tuple[Running, float]], now_s: float) -> None:
        assert self._mixes is not None
        prices, kinds = self._mixes.prices(to_start_s + _TINY), self._kinds
        held = np.where(kinds.rates > 0, np.maximum(kinds.parts, kinds.busy[:, None]), np.inf).min(axis=1)
        cards = sum(count for _, count in self._pools)
        progress = np.maximum(prices.progress, _LEAST_WORTH * held / cards)
        self._worth = progress[:, None] * kinds.rates
        left_s, columns = to_start_s.copy(), {model: number for number, (model, _) in enumerate(self._pools)}
        for one, its_left_s in running:
            number = self._numbers.get(one.type)
            if number is not None and one.model in columns:
                left_s[number] += its_left_s * kinds.rates[number, columns[one.model]]
        self._priced_at_s, self._least_s = now_s, float(progress @ left_s)

    def _set_types(self, types: Iterable[Type], pools: tuple[tuple[str, int], ...]) -> None:
        """Prices similar types together, by coarser steps of busy parts where they are too many."""
        self._pools, known = pools, list(types)
        table = Table.of(known, [model for model, _ in pools], self._rule)
        parts = np.maximum(table.units / UNITS, 1 / _MEMORY_STEPS)
        runs = (table.speed > 0).any(axis=1)
        busy = np.where(table.speed >= table.speed.max(axis=1, keepdims=True, initial=_TINY), table.busy, 0).max(axis=1)
        for steps in _BUSY_ROUNDED_TO:
            rounded = np.ceil(busy * steps - _TINY)[:, None] / steps
            rows, number_of = np.unique(np.hstack([rounded, parts, table.speed])[runs], axis=0, return_inverse=True)
            if len(rows) <= _MANY_TYPES:
                break
        count = len(pools)
        self._kinds = Kinds(busy=rows[:, 0], parts=rows[:, 1 : 1 + count], rates=rows[:, 1 + count :])
        self._numbers = {
            known[row]: int(number) for row, number in zip(np.flatnonzero(runs), number_of.ravel(), strict=True)
        }
        counts = np.array([cards for _, cards in pools], dtype=np.int64)
        self._mixes = Mixes(self._kinds, counts, memory_steps=_MEMORY_STEPS, busy_steps=_BUSY_STEPS)
        self._step_s = 0.0
