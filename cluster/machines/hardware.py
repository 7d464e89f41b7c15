"""Cards, nodes and pools of equal cards as plain values; must not import Ray, NVML or torch."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from cluster.estimator.gpu_profile import DRIVER_PART, RESERVE_BYTES, find_gpu
from tuning_common.errors import Problems, RequestError
from tuning_common.units import parse_bytes

GPU_MODEL_LABEL = "gpu-model"  # node labels in Ray: Kubernetes syntax, so letters, digits, '-', '_' and '.'
GPU_MEMORY_LABEL = "gpu-memory-mib"
SIMULATED_CARD_BYTES = 24 * 2**30  # of a GPU that only Ray counts, without a memory label
SIMULATED_CARDS_PER_NODE = 8
SIMULATED_CPUS_PER_CARD = 8
SIMULATED_HOST_BYTES_PER_CARD = 64 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One GPU, or one MIG slice of a GPU.

    Attributes:
        model: Label of the GPU model (see label_of), for example "NVIDIA-H100-80GB-HBM3".
        total_bytes: Device memory as the driver reports it.
        used_by_others_bytes: Device memory in use by other processes at the time of reading.
        uuid: The driver's identifier of the card; empty where it is simulated.
        index: The driver's number of the card on its host.
        mig: Whether this is a slice of a partitioned GPU.
        speed: Speed of training relative to a card of speed 1; used for expected durations only.
    """

    model: str
    total_bytes: int
    used_by_others_bytes: int = 0
    uuid: str = ""
    index: int = 0
    mig: bool = False
    speed: float = 1.0

    @property
    def usable_bytes(self) -> int:
        """Bytes that all our trials on this card may hold together; 0 where others hold everything.

        The driver reserves a part of the total. NVML counts it as used on most but not all cards, so at least that part
        is subtracted.

        >>> round(Card(model="a", total_bytes=24 * 2**30).usable_bytes / 2**30, 2)
        23.27
        """
        taken_bytes = max(self.used_by_others_bytes, int(self.total_bytes * DRIVER_PART))
        return max(0, self.total_bytes - taken_bytes - RESERVE_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One raylet: a machine, or the cards of one model in a machine that has several models.

    Attributes:
        name: Unique in the inventory; Ray's node id where there is one.
        address: Address of the machine, for people.
        cards: Its cards, all of one model.
        cpus: Logical CPUs that trials may use.
        memory_bytes: Host memory that trials may use.
        driver: Version of the NVIDIA driver, where there is one.
        gpus_unavailable: Why no card is found; empty where cards are found or the node is simulated.
    """

    name: str
    address: str = "127.0.0.1"
    cards: tuple[Card, ...] = ()
    cpus: float = 0.0
    memory_bytes: int = 0
    driver: str = ""
    gpus_unavailable: str = ""

    def __post_init__(self) -> None:
        models = sorted({card.model for card in self.cards})
        assert len(models) <= 1, f"node {self.name} mixes {models}; make one node of each model (split_by_model)"

    @property
    def labels(self) -> dict[str, str]:
        """Labels for `ray start --labels`: the GPU model of this node."""
        if not self.cards:
            return {}
        mib = min(card.total_bytes for card in self.cards) // 2**20
        return {GPU_MODEL_LABEL: self.cards[0].model, GPU_MEMORY_LABEL: str(mib)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """All cards of one model. Ray chooses the card inside it, so a share must hold on the fullest one.

    Attributes:
        model: Label of the GPU model.
        node_cards: Number of cards on each node, largest first.
        total_bytes: Memory of the smallest card.
        usable_bytes: Usable memory of the fullest card.
        speed: Relative speed of the model.
    """

    model: str
    node_cards: tuple[int, ...]
    total_bytes: int
    usable_bytes: int
    speed: float = 1.0

    @property
    def cards(self) -> int:
        """Number of cards."""
        return sum(self.node_cards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """All nodes that trials may use.

    Attributes:
        nodes: In any order; no result depends on it.
        simulated: Whether the cards are simulated; every output based on them states it.
        pools: One pool for each GPU model, in the order of their names.
    """

    nodes: tuple[Node, ...]
    simulated: bool = False
    pools: tuple[Pool, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_model: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.cards:
                by_model.setdefault(node.cards[0].model, []).append(node)
        pools = tuple(_pool(model, nodes) for model, nodes in sorted(by_model.items()))
        object.__setattr__(self, "pools", pools)

    @property
    def cards(self) -> int:
        """Number of cards of all models."""
        return sum(len(node.cards) for node in self.nodes)

    def describe(self) -> str:
        """Returns the cards as one line, for messages.

        >>> parse_simulated("2x24GiB,1x80GiB").describe()
        '2 x simulated-24GiB, 1 x simulated-80GiB (simulated)'
        """
        counts = Counter(card.model for node in self.nodes for card in node.cards)
        text = ", ".join(f"{count} x {model}" for model, count in sorted(counts.items())) or "no GPU"
        return f"{text} (simulated)" if self.simulated else text


def total_bytes_for(upper_bytes: int) -> int:
    """Returns the size of the smallest card that holds a trial when nobody else uses it.

    >>> card = Card(model="a", total_bytes=total_bytes_for(30 * 2**30))
    >>> 0 <= card.usable_bytes - 30 * 2**30 <= 1
    True
    """
    return -int(-(upper_bytes + RESERVE_BYTES) // (1 - DRIVER_PART))


def label_of(name: str) -> str:
    """Converts a GPU's name to a valid label value of Ray.

    >>> label_of("NVIDIA A100-SXM4-80GB MIG 3g.40gb")
    'NVIDIA-A100-SXM4-80GB-MIG-3g.40gb'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-_.")[:63].rstrip("-_.") or "unknown"


def split_by_model(node: Node, cards: tuple[Card, ...]) -> tuple[Node, ...]:
    """Splits a machine into one node per GPU model, as a raylet has the label of only one model.

    Divides CPUs and host memory by the number of cards.

    Args:
        node: The machine, without cards.
        cards: All its cards.

    Returns:
        One node per model; the machine itself where it has one model or none.
    """
    models = sorted({card.model for card in cards})
    if len(models) <= 1:
        return (replace(node, cards=cards),)
    nodes = []
    for model in models:
        part = tuple(card for card in cards if card.model == model)
        fraction = len(part) / len(cards)
        memory_bytes = int(node.memory_bytes * fraction)
        name = f"{node.name}/{model}"
        nodes.append(replace(node, name=name, cards=part, cpus=node.cpus * fraction, memory_bytes=memory_bytes))
    return tuple(nodes)


def parse_simulated(text: str, *, cards_per_node: int = SIMULATED_CARDS_PER_NODE) -> Inventory:
    """Parses a cluster description: `COUNTxSIZE`, `COUNTxMODEL` or `COUNTxNAME:SIZE[@SPEED]`, separated by commas.

    Args:
        text: For example "2x24GiB,1x80GiB", "2x3090,1xL4" or "64xT4:16GiB@0.5,16xA100:80GiB@2".
        cards_per_node: Maximum number of cards per node.

    Returns:
        A simulated inventory, one pool for each part.

    Raises:
        RequestError: With every invalid part.

    >>> [(pool.cards, pool.total_bytes >> 30) for pool in parse_simulated("2x24GiB,1x80GiB").pools]
    [(2, 24), (1, 80)]
    """
    problems = Problems()
    nodes: list[Node] = []
    seen: set[str] = set()
    for part in (piece.strip() for piece in text.split(",")):
        parsed = _parse_part(part, problems)
        if parsed is None:
            continue
        count, card = parsed
        if card.model in seen:
            problems.add(f"{part!r}: {card.model} is there twice; add the counts or give them names")
        seen.add(card.model)
        nodes += _simulated_nodes(card, count, cards_per_node)
    problems.raise_if_any(f"cluster {text!r}")
    return Inventory(nodes=tuple(nodes), simulated=True)


_PART = re.compile(r"(\d+)\s*x\s*(?:([A-Za-z0-9][A-Za-z0-9_.-]*):)?([^@]+?)(?:@(\d+(?:\.\d+)?))?")


def _parse_part(part: str, problems: Problems) -> tuple[int, Card] | None:
    match = _PART.fullmatch(part)
    if match is None:
        problems.add(
            f"{part!r} is no group of cards; write COUNTxSIZE, COUNTxMODEL or COUNTxNAME:SIZE[@SPEED], as 2x24GiB"
        )
        return None
    count, name, size, speed = match.groups()
    found = _size_or_model(size, named=name is not None)
    if isinstance(found, str):
        problems.add(f"{part!r}: {found}")
        return None
    total_bytes, known = found
    if int(count) < 1 or total_bytes <= RESERVE_BYTES or float(speed or 1) <= 0:
        problems.add(f"{part!r}: needs at least one card of more than {RESERVE_BYTES >> 20} MiB and a speed above 0")
        return None
    model = label_of(name or known) if name or known else f"simulated-{label_of(size)}"
    return int(count), Card(model=model, total_bytes=total_bytes, speed=float(speed or 1))


def _size_or_model(text: str, *, named: bool) -> tuple[int, str] | str:
    """Returns the bytes of a card and its name where it is a known GPU model; the problem where it is neither."""
    try:
        return parse_bytes(text), ""
    except ValueError as error:
        if named:
            return str(error)
    try:
        gpu = find_gpu(text)
    except RequestError as error:
        return f"neither a size such as 24GiB nor a GPU model: {error.message}"
    return gpu.total_bytes, gpu.name


def _simulated_nodes(card: Card, count: int, cards_per_node: int) -> list[Node]:
    nodes = []
    for start in range(0, count, cards_per_node):
        size = min(cards_per_node, count - start)
        cards = tuple(replace(card, index=index) for index in range(size))
        nodes.append(
            Node(
                name=f"{card.model}-node{start // cards_per_node}",
                cards=cards,
                cpus=float(SIMULATED_CPUS_PER_CARD * size),
                memory_bytes=SIMULATED_HOST_BYTES_PER_CARD * size,
            )
        )
    return nodes


def _pool(model: str, nodes: list[Node]) -> Pool:
    cards = [card for node in nodes for card in node.cards]
    return Pool(
        model=model,
        node_cards=tuple(sorted((len(node.cards) for node in nodes), reverse=True)),
        total_bytes=min(card.total_bytes for card in cards),
        usable_bytes=min(card.usable_bytes for card in cards),
        speed=min(card.speed for card in cards),
    )
