"""What is free on every node and card, and where a request would go. Pure; must not import Ray, NVML or torch.

The broker chooses the node. Inside it Ray chooses the card: the one on which least room is left (a contract test holds
that), so this model does the same.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster.machines.hardware import Inventory, Node
from cluster.scheduling.fragmentation import Demand, FreeNodes, shape_of
from cluster.scheduling.request import Allocation, Alternative
from cluster.scheduling.shares import UNITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Room for one alternative.

    Attributes:
        nodes: Number of the node of each bundle.
        cards: Number of each card; empty for CPUs alone.
    """

    nodes: tuple[int, ...]
    cards: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What is free of a card and of its node.

    Attributes:
        node: Name of the node.
        free_units: Of the card.
        cpu_units: Of the node, in 1/10,000 of a CPU.
        host_bytes: Of the node.
        above_units: A share must be larger than this, or Ray puts it on a fuller card of the node.
        is_first: Whether Ray prefers it to the cards of its node of which as much is free.
        others_units: What is free of the node's other cards.
    """

    node: str
    free_units: int
    cpu_units: int
    host_bytes: int
    above_units: int
    is_first: bool
    others_units: frozenset[int]


@dataclass(slots=True)
class _Card:
    node: int
    index: int
    column: int
    free_units: int = UNITS
    others_units: int = 0


@dataclass(slots=True)
class _Node:
    name: str
    model: str
    row: int
    free_cpu_units: int
    free_host_bytes: int
    cards: tuple[int, ...]


class Capacity:
    """Free room of an inventory.

    A trial gets the node on which least is lost for later ones (see fragmentation), among equals the card on which
    least room would be left (best fit), so that large holes stay for large trials. Nothing depends on the order of
    nodes or cards in the inventory.

    Args:
        inventory: The nodes.
        demand: What was submitted so far; nothing where that does not matter.

    Attributes:
        changed: Cards that may have more room than when somebody last emptied this set.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> cluster = parse_simulated("2x24GiB")
    >>> (half,) = find_alternatives((Need(upper_bytes=11 * 2**30),), cluster)
    >>> capacity, found = Capacity(cluster), []
    >>> while (slot := capacity.find(half)) is not None:
    ...     capacity.take(half, slot)
    ...     found.append(capacity.allocation("t5", half, slot).cards)
    >>> found
    [(0,), (0,), (1,), (1,)]
    """

    def __init__(self, inventory: Inventory, demand: Demand | None = None) -> None:
        self._cards: list[_Card] = []
        self._nodes: list[_Node] = []
        self._numbers: dict[str, int] = {}
        self._free: dict[str, list[tuple[int, int]]] = {}  # by model: free units and number of each card, sorted
        self._free_units = 0
        self.changed: set[int] = set()
        self._nodes_of: dict[str, list[int]] = defaultdict(list)
        self._held_units: dict[str, int] = {}
        for node in sorted(inventory.nodes, key=lambda node: (-len(node.cards), node.name)):
            self._add(node)
        self._free_nodes: dict[str, FreeNodes] = {}
        for model, numbers in self._nodes_of.items():
            cards = [len(self._nodes[number].cards) for number in numbers]
            self._free_nodes[model] = FreeNodes(model, cards, demand or Demand())
            for number in numbers:
                self._note_node(self._nodes[number])

    @property
    def models(self) -> tuple[str, ...]:
        """Labels of the GPU models, in order."""
        return tuple(sorted(self._free))

    @property
    def gpus(self) -> int:
        """Number of cards."""
        return len(self._cards)

    @property
    def free_gpus(self) -> float:
        """GPUs that nobody holds, on all cards together."""
        return self._free_units / UNITS

    @property
    def others_gpus(self) -> float:
        """GPUs that others hold."""
        return sum(card.others_units for card in self._cards) / UNITS

    def cards_of(self, model: str) -> int:
        """Returns the number of cards of a model."""
        return len(self._free.get(model, ()))

    def part(self, alternative: Alternative) -> float:
        """Returns the part of all cards of its model that would be held with it."""
        if alternative.share is None:
            return 0.0
        held_units = self._held_units[alternative.model] + alternative.units
        return held_units / (UNITS * len(self._free[alternative.model]))

    def units(self, card: int) -> int:
        """Returns the units of a card that nobody holds."""
        return self._cards[card].free_units

    def model(self, card: int) -> str:
        """Returns the label of a card's model."""
        return self._nodes[self._cards[card].node].model

    def place(self, card: int) -> tuple[str, int]:
        """Returns the name of a card's node and its index there, which stay when other nodes join or leave."""
        return self._nodes[self._cards[card].node].name, self._cards[card].index

    def cards_with_room(self) -> list[int]:
        """Returns the cards of which something is free."""
        return [key for free in self._free.values() for _, key in free[bisect_left(free, (1, -1)) :]]

    def room(self, card: int) -> Room:
        """Returns what is free of a card and of its node."""
        state = self._cards[card]
        node = self._nodes[state.node]
        others = {key: self._cards[key].free_units for key in node.cards if key != card}
        return Room(
            node=node.name,
            free_units=state.free_units,
            cpu_units=node.free_cpu_units,
            host_bytes=node.free_host_bytes,
            above_units=max((units for units in others.values() if units < state.free_units), default=0),
            is_first=not any(units == state.free_units and key < card for key, units in others.items()),
            others_units=frozenset(others.values()) - {0},
        )

    def find(self, alternative: Alternative) -> Slot | None:
        """Finds where an alternative fits now; takes nothing."""
        found = self.cheapest(alternative)
        return found[1] if found else None

    def cheapest(self, alternative: Alternative, *, avoid: Collection[str] = ()) -> tuple[float, Slot] | None:
        """Finds the slot that costs later requests least (see fragmentation), and what it costs them.

        Args:
            alternative: What would be held.
            avoid: Names of nodes that are left out.
        """
        if alternative.share is None:
            return self._find_cpus(alternative, avoid)
        free = self._free.get(alternative.model)
        if not free or free[-1][0] < alternative.share.units:
            return None
        found = self._best(alternative.model, alternative, avoid)
        if found is None:
            return self._find_spread(alternative, avoid) if alternative.spread else None
        lost, units, number = found
        keys = self._nodes[number].cards
        if alternative.share.cards > 1:
            keys = tuple(key for key in keys if self._cards[key].free_units == UNITS)[: alternative.share.cards]
        else:
            keys = (next(key for key in keys if self._cards[key].free_units == units),)
        return lost, Slot(nodes=(number,) * len(keys), cards=keys)

    def has(self, alternative: Alternative, slot: Slot) -> bool:
        """Whether a slot is free."""
        share, bundles = alternative.share, Counter(slot.nodes)
        return all(self._cards[key].free_units >= (share.units if share else 0) for key in slot.cards) and all(
            self._nodes[number].free_cpu_units >= count * alternative.bundle_cpu_units
            and self._nodes[number].free_host_bytes >= count * alternative.bundle_host_bytes
            for number, count in bundles.items()
        )

    def slot_on(self, card: int) -> Slot:
        """Returns the slot of one bundle on a card."""
        return Slot(nodes=(self._cards[card].node,), cards=(card,))

    def take(self, alternative: Alternative, slot: Slot) -> None:
        """Holds a slot."""
        self._change(alternative, slot, -1)

    def give_back(self, alternative: Alternative, slot: Slot) -> None:
        """Takes back what was held."""
        for number in slot.nodes:
            node = self._nodes[number]
            was_short = node.free_cpu_units < alternative.bundle_cpu_units
            self.changed.update(node.cards if was_short else slot.cards)
        self._change(alternative, slot, 1)

    def soonest(
        self,
        alternative: Alternative,
        *,
        freed: Mapping[int, int] | None = None,
        movable: Mapping[int, tuple[int, int]] | None = None,
    ) -> tuple[float, Slot] | None:
        """Finds the slot on which least must still come free.

        Args:
            alternative: What would be held.
            freed: Units of cards that will come free anyway, less what is promised of them.
            movable: Units of cards that can be made free, and a rank by which equal ones are chosen, the smallest
                first; where given, nothing else may need to come free.

        Returns:
            Missing GPUs and the slot; None where there is none.
        """
        if alternative.share is None:
            most = max(
                range(len(self._nodes)), key=lambda number: (self._nodes[number].free_cpu_units, -number), default=None
            )
            return None if most is None else (0.0, Slot(nodes=(most,)))
        if alternative.share.cards == 1 and not freed and movable is None:
            return self._emptiest(alternative.model, alternative.share.units)
        found, nodes = [], self._nodes_of[alternative.model]
        for numbers in [nodes] if alternative.spread else [[number] for number in nodes]:
            missing = []
            for key in (key for number in numbers for key in self._nodes[number].cards):
                units = self.missing_units(alternative, key, freed or {})
                most_units, rank = (units, 0) if movable is None else movable.get(key, (0, 0))
                if units <= most_units:
                    missing.append((units, rank, key))
            if len(missing) >= alternative.share.cards:
                chosen = sorted(missing)[: alternative.share.cards]
                found.append((sum(units for units, *_ in chosen) / UNITS, chosen))
        if not found:
            return None
        least, chosen = min(found)
        keys = [key for *_, key in chosen]
        return least, Slot(nodes=tuple(self._cards[key].node for key in keys), cards=tuple(keys))

    def _emptiest(self, model: str, units: int) -> tuple[float, Slot] | None:
        """Returns what soonest does for one card: the first of those on which least is missing."""
        free = self._free.get(model)
        if not free:
            return None
        enough = min(units, free[-1][0])
        key = min(key for _, key in free[bisect_left(free, (enough, -1)) :])
        return (units - enough) / UNITS, self.slot_on(key)

    def missing_units(self, alternative: Alternative, card: int, freed: Mapping[int, int]) -> int:
        """Returns what must come free of a card beyond `freed`."""
        assert alternative.share is not None, alternative
        state = self._cards[card]
        return max(0, alternative.share.units - state.free_units - freed.get(card, 0))

    def set_others(self, gpus: Mapping[str, float]) -> None:
        """Takes GPUs that others hold from their nodes: whole cards first, the emptiest ones, as Ray must have."""
        for number, node in enumerate(self._nodes):
            for key in node.cards:
                self._set_free(key, self._cards[key].free_units + self._cards[key].others_units, 0)
            left = round(gpus.get(self._nodes[number].name, 0.0) * UNITS)
            for key in sorted(node.cards, key=lambda key: (-self._cards[key].free_units, key)):
                taken = min(left, self._cards[key].free_units)
                self._set_free(key, self._cards[key].free_units - taken, taken)
                left -= taken
        self.changed.update(range(len(self._cards)))

    def allocation(self, name: str, alternative: Alternative, slot: Slot) -> Allocation:
        """Names a slot's nodes and cards."""
        nodes = tuple(self._nodes[number].name for number in slot.nodes)
        return Allocation(
            name=name,
            alternative=alternative,
            nodes=nodes,
            cards=tuple(self._cards[key].index for key in slot.cards),
        )

    def names(self, slot: Slot) -> frozenset[str]:
        """Returns the names of a slot's nodes."""
        return frozenset(self._nodes[number].name for number in slot.nodes)

    def slot_of(self, allocation: Allocation) -> Slot | None:
        """Finds the slot of an allocation; None where one of its nodes or cards is not there."""
        nodes = [self._numbers.get(name) for name in allocation.nodes]
        found = [number for number in nodes if number is not None]
        if len(found) < len(nodes):
            return None
        keys = [
            key
            for number, index in zip(found, allocation.cards, strict=False)
            for key in self._nodes[number].cards
            if self._cards[key].index == index
        ]
        if len(keys) < len(allocation.cards):
            return None
        return Slot(nodes=tuple(found), cards=tuple(keys))

    def same_use(self, other: "Capacity") -> bool:
        """Whether as much is held of every card and node as in another capacity of the same inventory."""
        cards = [card.free_units + card.others_units for card in self._cards]
        nodes = [(node.free_cpu_units, node.free_host_bytes) for node in self._nodes]
        return cards == [card.free_units for card in other._cards] and nodes == [
            (node.free_cpu_units, node.free_host_bytes) for node in other._nodes
        ]

    def validate(self) -> None:
        """Raises AssertionError where more is held than there is, or an index is wrong."""
        for key, card in enumerate(self._cards):
            assert 0 <= card.free_units <= UNITS, (key, card)
            assert (card.free_units, key) in self._free[self.model(key)], (key, card)
        for node in self._nodes:
            assert min(node.free_cpu_units, node.free_host_bytes) >= 0, node
        assert sum(map(len, self._free.values())) == len(self._cards)

    def _add(self, node: Node) -> None:
        number = len(self._nodes)
        model = node.cards[0].model if node.cards else ""
        keys = []
        for card in sorted(node.cards, key=lambda card: card.index):
            keys.append(len(self._cards))
            self._cards.append(_Card(node=number, index=card.index, column=len(keys) - 1))
            insort(self._free.setdefault(model, []), (UNITS, keys[-1]))
            self._free_units += UNITS
            self.changed.add(keys[-1])
        if keys:
            self._held_units.setdefault(model, 0)
        row = len(self._nodes_of[model])
        self._nodes_of[model].append(number)
        self._numbers[node.name] = number
        self._nodes.append(
            _Node(
                name=node.name,
                model=model,
                row=row,
                free_cpu_units=round(node.cpus * UNITS),
                free_host_bytes=node.memory_bytes,
                cards=tuple(keys),
            )
        )

    def _find_cpus(self, alternative: Alternative, avoid: Collection[str]) -> tuple[float, Slot] | None:
        """Prefers machines without cards, then the one with most CPUs left."""
        options = []
        for model in self._free_nodes:
            found = self._best(model, alternative, avoid)
            if found is not None:
                lost, minus_cpus, number = found
                options.append((lost, len(self._nodes[number].cards), minus_cpus, number))
        return (min(options)[0], Slot(nodes=(min(options)[-1],))) if options else None

    def _best(self, model: str, alternative: Alternative, avoid: Collection[str]) -> tuple[float, int, int] | None:
        """Returns what FreeNodes.best finds for all bundles on one node, with the number of the node."""
        numbers = [self._numbers[name] for name in avoid if name in self._numbers]
        rows = [self._nodes[number].row for number in numbers if self._nodes[number].model == model]
        host_bytes = alternative.bundle_host_bytes * alternative.bundles
        found = self._free_nodes[model].best(shape_of(alternative), host_bytes, rows)
        return None if found is None else (*found[:2], self._nodes_of[model][found[2]])

    def _find_spread(self, alternative: Alternative, avoid: Collection[str]) -> tuple[float, Slot] | None:
        """Takes whole cards of as few nodes as possible."""
        assert alternative.share is not None
        wanted, empty = alternative.share.cards, []
        for number in self._nodes_of[alternative.model]:
            node = self._nodes[number]
            keys = [key for key in node.cards if self._cards[key].free_units == UNITS]
            bundles = self._bundles(node, alternative) if keys and node.name not in avoid else 0
            if min(len(keys), bundles):
                empty.append((number, keys[:bundles]))
        found = [key for _, keys in sorted(empty, key=lambda one: (-len(one[1]), one[0])) for key in keys][:wanted]
        if len(found) < wanted:
            return None
        return 0.0, Slot(nodes=tuple(self._cards[key].node for key in found), cards=tuple(found))

    def _bundles(self, node: _Node, alternative: Alternative) -> int:
        """Counts the bundles whose CPUs and host memory a node has."""
        fitting = alternative.bundles
        if alternative.bundle_cpu_units:
            fitting = min(fitting, node.free_cpu_units // alternative.bundle_cpu_units)
        if alternative.bundle_host_bytes:
            fitting = min(fitting, node.free_host_bytes // alternative.bundle_host_bytes)
        return fitting

    def _change(self, alternative: Alternative, slot: Slot, sign: int) -> None:
        if alternative.share is not None:
            self._held_units[alternative.model] -= sign * alternative.units
            for key in slot.cards:
                card = self._cards[key]
                self._set_free(key, card.free_units + sign * alternative.share.units, card.others_units)
        for number in slot.nodes:
            node = self._nodes[number]
            node.free_cpu_units += sign * alternative.bundle_cpu_units
            node.free_host_bytes += sign * alternative.bundle_host_bytes
            self._note_node(node)

    def _note_node(self, node: _Node) -> None:
        self._free_nodes[node.model].set_node(node.row, cpu_units=node.free_cpu_units, host_bytes=node.free_host_bytes)

    def _set_free(self, key: int, units: int, others_units: int) -> None:
        card, node = self._cards[key], self._nodes[self._cards[key].node]
        free = self._free[node.model]
        if units != card.free_units:
            del free[bisect_left(free, (card.free_units, key))]
            self._free_units += units - card.free_units
            card.free_units = units
            insort(free, (units, key))
            self._free_nodes[node.model].set_card(node.row, card.column, units)
        card.others_units = others_units
