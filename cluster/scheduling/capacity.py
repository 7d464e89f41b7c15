"""What is free on every node and card, and where a request would go. Pure; must not import Ray, NVML or torch.

The broker chooses the node. Inside it Ray chooses the card: the one on which least room is left (a contract test holds
that), so this model does the same.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.machines.hardware import Inventory, Node
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


@dataclass(slots=True)
class _Card:
    node: int
    index: int
    free_units: int = UNITS
    others_units: int = 0
    reserved_for: Hashable | None = None
    reserved_units: int = 0


@dataclass(slots=True)
class _Node:
    name: str
    model: str
    free_cpu_units: int
    free_host_bytes: int
    cards: tuple[int, ...]
    reserved: dict[Hashable, list[tuple[int, int]]] = field(default_factory=dict)  # CPU units and host bytes, by owner


class Capacity:
    """Free room of an inventory, and what is reserved of it.

    A trial gets the card on which least room would be left (best fit), so that large holes stay for large trials.
    Nothing depends on the order of nodes or cards in the inventory.

    Args:
        inventory: The nodes.

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

    def __init__(self, inventory: Inventory) -> None:
        self._cards: list[_Card] = []
        self._nodes: list[_Node] = []
        self._numbers: dict[str, int] = {}
        self._free: dict[str, list[tuple[int, int]]] = {}  # by model: free units and number of each card, sorted
        self._free_units = 0
        self._nodes_of: dict[str, list[int]] = defaultdict(list)
        self._held_units: dict[str, int] = {}
        self._reservations: dict[Hashable, list[tuple[Alternative, Slot]]] = {}
        for node in sorted(inventory.nodes, key=lambda node: (-len(node.cards), node.name)):
            self._add(node)

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

    def find(
        self, alternative: Alternative, *, owner: Hashable | None = None, avoid: Collection[str] = ()
    ) -> Slot | None:
        """Finds where an alternative fits now; takes nothing.

        Args:
            alternative: What would be held.
            owner: Whose reservations may be used.
            avoid: Names of nodes that are left out.
        """
        if alternative.share is None:
            return self._find_cpus(alternative, owner, avoid)
        if alternative.model not in self._free:
            return None
        if alternative.share.cards > 1:
            return self._find_cards(alternative, owner, avoid)
        return next(self.fitting(alternative, owner=owner, avoid=avoid), None)

    def fitting(
        self, alternative: Alternative, *, owner: Hashable | None = None, avoid: Collection[str] = ()
    ) -> Iterator[Slot]:
        """Yields for each node the card that Ray would choose for a share of one card, the fullest card first."""
        assert alternative.share is not None, alternative
        assert alternative.share.cards == 1, alternative
        free = self._free.get(alternative.model, [])
        seen: set[int] = set()
        for _, key in free[bisect_left(free, (alternative.share.units, -1)) :]:
            card = self._cards[key]
            if card.node not in seen:
                seen.add(card.node)
                node = self._nodes[card.node]
                is_open = card.reserved_for in (None, owner) and node.name not in avoid
                if is_open and self._bundles(node, alternative, owner):
                    yield Slot(nodes=(card.node,), cards=(key,))

    def has(self, alternative: Alternative, slot: Slot) -> bool:
        """Whether a slot is free, reserved or not."""
        share, bundles = alternative.share, Counter(slot.nodes)
        return all(self._cards[key].free_units >= (share.units if share else 0) for key in slot.cards) and all(
            self._nodes[number].free_cpu_units >= count * alternative.bundle_cpu_units
            and self._nodes[number].free_host_bytes >= count * alternative.bundle_host_bytes
            for number, count in bundles.items()
        )

    def take(self, alternative: Alternative, slot: Slot) -> None:
        """Holds a slot."""
        self._change(alternative, slot, -1)

    def give_back(self, alternative: Alternative, slot: Slot) -> None:
        """Takes back what was held."""
        self._change(alternative, slot, 1)

    def reserve(self, owner: Hashable, alternative: Alternative, slot: Slot) -> None:
        """Keeps a slot, free or not yet, for requests of one owner."""
        self._reservations.setdefault(owner, []).append((alternative, slot))
        for key in slot.cards:
            card = self._cards[key]
            assert card.reserved_for in (None, owner), f"card {key} is reserved for {card.reserved_for}"
            card.reserved_for = owner
            card.reserved_units += alternative.units // alternative.cards
        for number in slot.nodes:
            kept = self._nodes[number].reserved.setdefault(owner, [])
            kept.append((alternative.bundle_cpu_units, alternative.bundle_host_bytes))

    def reservations(self, owner: Hashable) -> int:
        """Returns how many slots are reserved for an owner."""
        return len(self._reservations.get(owner, ()))

    def release(self, owner: Hashable, slot: Slot | None = None) -> None:
        """Ends one reservation of an owner, that of the slot where it has one; all where no slot is named."""
        kept = self._reservations.get(owner, [])
        if slot is None:
            ended, left = kept, []
        else:
            number = next((n for n, (_, one) in enumerate(kept) if set(one.cards) & set(slot.cards)), 0)
            ended, left = kept[number : number + 1], kept[:number] + kept[number + 1 :]
        for alternative, one in ended:
            for key in one.cards:
                card = self._cards[key]
                card.reserved_units -= alternative.units // alternative.cards
                card.reserved_for = owner if card.reserved_units else None
            for node in one.nodes:
                needs = self._nodes[node].reserved[owner]
                needs.remove((alternative.bundle_cpu_units, alternative.bundle_host_bytes))
                if not needs:
                    del self._nodes[node].reserved[owner]
        if left:
            self._reservations[owner] = left
        else:
            self._reservations.pop(owner, None)

    def soonest(
        self,
        alternative: Alternative,
        *,
        owner: Hashable,
        freed: Mapping[int, int] | None = None,
        movable: Mapping[int, tuple[int, int]] | None = None,
    ) -> tuple[float, Slot] | None:
        """Finds the slot on which least must still come free, among those that are not reserved for others.

        Args:
            alternative: What would be held.
            owner: Whose reservations count as held already.
            freed: Units of cards that will come free anyway.
            movable: Units of cards that can be made free, and a rank by which equal ones are chosen, the smallest
                first; where given, nothing else may need to come free.

        Returns:
            Missing GPUs and the slot; None where there is none.
        """
        if alternative.share is None:
            unreserved = [number for number, node in enumerate(self._nodes) if not node.reserved]
            most = max(unreserved, key=lambda number: (self._nodes[number].free_cpu_units, -number), default=None)
            return None if most is None else (0.0, Slot(nodes=(most,)))
        share, found = alternative.share, []
        nodes = self._nodes_of[alternative.model]
        for numbers in [nodes] if alternative.spread else [[number] for number in nodes]:
            missing = []
            for key in (key for number in numbers for key in self._nodes[number].cards):
                card = self._cards[key]
                units = self.missing_units(alternative, key, freed or {})
                most, rank = (units, 0) if movable is None else movable.get(key, (0, 0))
                if card.reserved_for in (None, owner) and units <= most:
                    missing.append((units, rank, key))
            if len(missing) >= share.cards:
                chosen = sorted(missing)[: share.cards]
                found.append((sum(units for units, *_ in chosen) / UNITS, chosen))
        if not found:
            return None
        least, chosen = min(found)
        keys = [key for *_, key in chosen]
        return least, Slot(nodes=tuple(self._cards[key].node for key in keys), cards=tuple(keys))

    def missing_units(self, alternative: Alternative, card: int, freed: Mapping[int, int]) -> int:
        """Returns what must come free of a card beyond `freed`, beside what is reserved there."""
        assert alternative.share is not None, alternative
        state = self._cards[card]
        return max(0, alternative.share.units + state.reserved_units - state.free_units - freed.get(card, 0))

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

    def allocation(self, name: str, alternative: Alternative, slot: Slot) -> Allocation:
        """Names a slot's nodes and cards."""
        nodes = tuple(self._nodes[number].name for number in slot.nodes)
        return Allocation(
            name=name,
            alternative=alternative,
            nodes=nodes,
            cards=tuple(self._cards[key].index for key in slot.cards),
        )

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

    def owners(self) -> set[Hashable]:
        """Returns for whom something is reserved."""
        return set(self._reservations)

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
        reserved = {key: owner for owner, kept in self._reservations.items() for _, slot in kept for key in slot.cards}
        found = {key: card.reserved_for for key, card in enumerate(self._cards) if card.reserved_for is not None}
        assert found == reserved, (found, reserved)

    def _add(self, node: Node) -> None:
        number = len(self._nodes)
        model = node.cards[0].model if node.cards else ""
        keys = []
        for card in sorted(node.cards, key=lambda card: card.index):
            keys.append(len(self._cards))
            self._cards.append(_Card(node=number, index=card.index))
            insort(self._free.setdefault(model, []), (UNITS, keys[-1]))
            self._free_units += UNITS
        if keys:
            self._held_units.setdefault(model, 0)
            self._nodes_of[model].append(number)
        self._numbers[node.name] = number
        self._nodes.append(
            _Node(
                name=node.name,
                model=model,
                free_cpu_units=round(node.cpus * UNITS),
                free_host_bytes=node.memory_bytes,
                cards=tuple(keys),
            )
        )

    def _find_cpus(self, alternative: Alternative, owner: Hashable | None, avoid: Collection[str]) -> Slot | None:
        """Prefers machines without cards, then the one with most CPUs left."""
        fitting = [
            (len(node.cards), -node.free_cpu_units, number)
            for number, node in enumerate(self._nodes)
            if node.name not in avoid and self._bundles(node, alternative, owner)
        ]
        return Slot(nodes=(min(fitting)[2],)) if fitting else None

    def _find_cards(self, alternative: Alternative, owner: Hashable | None, avoid: Collection[str]) -> Slot | None:
        """Takes whole cards of the node with the fewest empty ones; where spread, of as few nodes as possible."""
        assert alternative.share is not None
        wanted, empty = alternative.share.cards, []
        for number in self._nodes_of[alternative.model]:
            node = self._nodes[number]
            keys = [key for key in node.cards if self._cards[key].free_units == UNITS]
            keys = [key for key in keys if self._cards[key].reserved_for in (None, owner)]
            bundles = self._bundles(node, alternative, owner) if keys and node.name not in avoid else 0
            if min(len(keys), bundles):
                empty.append((number, keys[:bundles]))
        enough = [(len(keys), number, keys) for number, keys in empty if len(keys) >= wanted]
        if enough:
            found = min(enough)[2][:wanted]
        elif alternative.spread:
            found = [key for _, keys in sorted(empty, key=lambda one: (-len(one[1]), one[0])) for key in keys][:wanted]
        else:
            found = []
        if len(found) < wanted:
            return None
        return Slot(nodes=tuple(self._cards[key].node for key in found), cards=tuple(found))

    def _bundles(self, node: _Node, alternative: Alternative, owner: Hashable | None) -> int:
        """Counts the bundles whose CPUs and host memory a node has beside what is reserved for others.

        Without spread all of them must fit, so the answer is then all or none.
        """
        cpu_units, host_bytes = node.free_cpu_units, node.free_host_bytes
        for other, needs in node.reserved.items():
            if other != owner:
                cpu_units -= sum(units for units, _ in needs)
                host_bytes -= sum(size for _, size in needs)
        fitting = alternative.bundles
        if alternative.bundle_cpu_units:
            fitting = min(fitting, cpu_units // alternative.bundle_cpu_units)
        if alternative.bundle_host_bytes:
            fitting = min(fitting, host_bytes // alternative.bundle_host_bytes)
        return fitting if alternative.spread or fitting == alternative.bundles else 0

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

    def _set_free(self, key: int, units: int, others_units: int) -> None:
        card = self._cards[key]
        free = self._free[self._nodes[card.node].model]
        if units != card.free_units:
            del free[bisect_left(free, (card.free_units, key))]
            self._free_units += units - card.free_units
            card.free_units = units
            insort(free, (units, key))
        card.others_units = others_units
