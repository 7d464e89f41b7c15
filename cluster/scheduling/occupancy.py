"""What is free on every card, and which card a trial gets: the books of placement. Pure; no Ray, NVML or torch."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cluster.machines.hardware import Inventory, Node
from cluster.scheduling.placement import Choice
from cluster.scheduling.shares import UNITS, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """The cards that a trial got.

    Attributes:
        model: Label of the GPU model.
        node: Name of the node; names with + between where a trial is spread.
        cards: Indices of the cards on it; one, or several whole ones.
        keys: Numbers of the cards in the books.
    """

    model: str
    node: str
    cards: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(slots=True)
class _Card:
    node: int
    index: int
    free_units: int = UNITS


@dataclass(slots=True)
class _Node:
    name: str
    model: str
    free_cpus: float
    keys: tuple[int, ...]


class Occupancy:
    """Free room on every card of an inventory.

    A trial gets the card on which least room would be left (best fit), as Ray's raylet does within a node, so that
    large holes stay for large trials. Nothing depends on the order of nodes or cards in the inventory.

    Args:
        inventory: The cards.
        cpus_per_trial: Logical CPUs that every trial takes on its node; 0 does not count them.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Demand, Need, choose
    >>> cluster = parse_simulated("2x24GiB")
    >>> (half,) = choose(Demand(name="t5", needs=(Need(upper_bytes=11 * 2**30),)), cluster)
    >>> books = Occupancy(cluster)
    >>> [books.take(half).cards for _ in range(3)], books.room("simulated-24GiB")
    ([(0,), (0,), (1,)], 5000)
    """

    def __init__(self, inventory: Inventory, *, cpus_per_trial: float = 0.0) -> None:
        self._cpus = cpus_per_trial
        self._cards: list[_Card] = []
        self._nodes: list[_Node] = []
        self._free: dict[str, list[tuple[int, int]]] = {}
        self._held: dict[str, int] = {}
        self._nodes_of: dict[str, list[int]] = {}
        for node in sorted(inventory.nodes, key=lambda node: (-len(node.cards), node.name)):
            if node.cards:
                self._add(node)

    @property
    def models(self) -> tuple[str, ...]:
        """Labels of the GPU models, in order."""
        return tuple(sorted(self._free))

    def room(self, model: str) -> int:
        """Returns the units that are free on the emptiest card of a model; 0 where no node has CPUs left."""
        return next((self._cards[key].free_units for key in self._with_cpus(reversed(self._free.get(model, [])))), 0)

    def held_units(self, model: str) -> int:
        """Returns the units that trials hold of all cards of a model."""
        return self._held[model]

    def part(self, model: str, units: int) -> float:
        """Returns what units are of all cards of a model; equal parts of equal models are equal to the last digit."""
        return units / (UNITS * len(self._free[model]))

    def fits(self, choice: Choice) -> bool:
        """Whether a trial can start now."""
        if choice.share.cards == 1:
            return self.room(choice.model) >= choice.share.units
        return bool(self._best(choice))

    def with_room(self, model: str) -> list[int]:
        """Returns the cards of a model of which something is free."""
        free = self._free.get(model, [])
        return [key for _, key in free[bisect_left(free, (1, -1)) :]]

    def free_units(self, key: int) -> int:
        """Returns what is free of a card; 0 where its node has no CPUs left."""
        return next((self._cards[key].free_units for _ in self._with_cpus([(0, key)])), 0)

    def model(self, key: int) -> str:
        """Returns the label of a card's model."""
        return self._nodes[self._cards[key].node].model

    def beside(self, key: int) -> tuple[int, ...]:
        """Returns the cards on which a trial may fit when one on this card is over: all of the node, by its CPUs."""
        return self._nodes[self._cards[key].node].keys if self._cpus else (key,)

    def take(self, choice: Choice, key: int | None = None) -> Spot:
        """Gives a trial its cards; it must fit.

        Args:
            choice: What it holds.
            key: The card; the books choose where None.
        """
        keys = self._best(choice) if key is None else (key,)
        assert keys, f"{choice.share} of {choice.model} is not free"
        for key in keys:
            self._change(choice.model, key, -choice.share.units)
            self._nodes[self._cards[key].node].free_cpus -= self._cpus / len(keys)
        names = dict.fromkeys(self._nodes[self._cards[key].node].name for key in keys)
        cards = tuple(self._cards[key].index for key in keys)
        return Spot(model=choice.model, node="+".join(names), cards=cards, keys=tuple(keys))

    def give_back(self, spot: Spot, share: Share) -> None:
        """Takes back what a trial held."""
        for key in spot.keys:
            self._change(spot.model, key, share.units)
            self._nodes[self._cards[key].node].free_cpus += self._cpus / len(spot.keys)

    def _add(self, node: Node) -> None:
        keys = []
        model = node.cards[0].model
        for card in sorted(node.cards, key=lambda card: card.index):
            keys.append(len(self._cards))
            self._cards.append(_Card(node=len(self._nodes), index=card.index))
            insort(self._free.setdefault(model, []), (UNITS, keys[-1]))
            self._held.setdefault(model, 0)
        self._nodes_of.setdefault(model, []).append(len(self._nodes))
        self._nodes.append(_Node(name=node.name, model=model, free_cpus=node.cpus, keys=tuple(keys)))

    def _best(self, choice: Choice) -> Sequence[int]:
        model, share = choice.model, choice.share
        if share.cards > 1:
            node = self._node_with(model, share.cards)
            if node is not None:
                return self._empty(node)[: share.cards]
            return self._over_nodes(model, share.cards) if choice.spread else ()
        free = self._free.get(model, [])
        first = bisect_left(free, (share.units, -1))
        return next(((key,) for key in self._with_cpus(free[i] for i in range(first, len(free)))), ())

    def _with_cpus(self, entries: Iterable[tuple[int, int]]) -> Iterator[int]:
        return (key for _, key in entries if self._nodes[self._cards[key].node].free_cpus >= self._cpus - 1e-9)

    def _node_with(self, model: str, cards: int) -> int | None:
        """Finds the node with the fewest empty cards that has enough of them."""
        enough = [
            (len(self._empty(number)), number)
            for number in self._nodes_of.get(model, [])
            if self._nodes[number].free_cpus >= self._cpus - 1e-9 and len(self._empty(number)) >= cards
        ]
        return min(enough)[1] if enough else None

    def _over_nodes(self, model: str, cards: int) -> Sequence[int]:
        """Takes whole cards from as few nodes as it can, each with its part of the trial's CPUs."""
        found: list[int] = []
        for number in sorted(self._nodes_of.get(model, []), key=lambda number: (-len(self._empty(number)), number)):
            by_cpus = int((self._nodes[number].free_cpus + 1e-9) * cards / self._cpus) if self._cpus else cards
            found += self._empty(number)[: min(cards - len(found), by_cpus)]
        return found if len(found) == cards else ()

    def _empty(self, node: int) -> tuple[int, ...]:
        return tuple(key for key in self._nodes[node].keys if self._cards[key].free_units == UNITS)

    def _change(self, model: str, key: int, units: int) -> None:
        free, card = self._free[model], self._cards[key]
        del free[bisect_left(free, (card.free_units, key))]
        card.free_units += units
        self._held[model] -= units
        insort(free, (card.free_units, key))
