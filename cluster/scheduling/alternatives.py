"""On which GPU models a trial can run and what it holds there; or why it can run nowhere. Pure; no Ray."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.machines.hardware import Inventory, Pool, total_bytes_for
from cluster.scheduling.request import Alternative
from cluster.scheduling.shares import MAX_TENANTS, UNITS, Share, share_for
from tuning_common.units import counted, format_bytes

_WITHOUT_LIMIT = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a trial takes on each of `cards` cards of a GPU model, and beside them.

    Attributes:
        upper_bytes: Upper estimate of device bytes on each card.
        model: Label of the GPU model for which this was estimated; any model when None.
        cards: Whole cards that the trial trains on together.
        spread: Whether these may lie in several machines.
        cpus: Logical CPUs of all its processes together.
        host_bytes: Host memory of all its processes together.
        expected_s: Expected duration on a card of speed 1; None where nobody knows.
        busy: Part of a card's compute that the trial keeps busy when alone; None where nobody knows.
    """

    upper_bytes: int
    model: str | None = None
    cards: int = 1
    spread: bool = False
    cpus: float = 0.0
    host_bytes: int = 0
    expected_s: float | None = None
    busy: float | None = None


def find_alternatives(
    needs: Sequence[Need], inventory: Inventory, *, max_tenants: int = MAX_TENANTS
) -> tuple[Alternative, ...]:
    """Lists the GPU models on which a trial can run, the one where it costs the smallest part of all cards first.

    Args:
        needs: For each model the first that fits is taken, so the fewest cards stand first.
        inventory: Where it may run.
        max_tenants: Most trials on one card.

    Returns:
        Nothing where it can never run (see explain_refusal).

    >>> from cluster.machines.hardware import parse_simulated
    >>> found = find_alternatives((Need(upper_bytes=10 * 2**30),), parse_simulated("2x24GiB,1x80GiB"))
    >>> [(one.model, one.gpus) for one in found]
    [('simulated-80GiB', 0.1666), ('simulated-24GiB', 0.4375)]
    """
    found = [(pool, _on_pool(needs, pool, max_tenants)) for pool in inventory.pools]
    costs = [(one.gpus / pool.cards, one.expected_s or 0.0, pool.model, one) for pool, one in found if one is not None]
    return tuple(one for *_, one in sorted(costs, key=lambda cost: cost[:3]))


def explain_refusal(name: str, needs: Sequence[Need], inventory: Inventory, relief: Sequence[str] = ()) -> str:
    """Says why a trial can never run on GPUs.

    Args:
        name: The trial.
        needs: As find_alternatives got them.
        inventory: As find_alternatives got it.
        relief: What would make the trial smaller, such as "gradient checkpointing (9.1 GiB)".

    >>> from cluster.machines.hardware import parse_simulated
    >>> print(explain_refusal("t5", (Need(upper_bytes=30 * 2**30),), parse_simulated("2x24GiB")))
    t5: needs 30.0 GiB on one card, found 2 x simulated-24GiB (simulated), of which at most 23.3 GiB of one card \
can be used; would fit with a card of at least 30.9 GiB, or a smaller batch or length
    """
    asked = " or ".join(
        f"{format_bytes(need.upper_bytes)} on {'one card' if need.cards == 1 else f'each of {need.cards} cards'}"
        + (f" of {need.model}" if need.model else "")
        for need in needs
    )
    found = inventory.describe()
    if inventory.pools:
        largest_bytes = max(pool.usable_bytes for pool in inventory.pools)
        found += f", of which at most {format_bytes(largest_bytes)} of one card can be used"
    smallest = min(needs, key=lambda need: (need.upper_bytes, need.cards))
    card = f"a card of at least {format_bytes(total_bytes_for(smallest.upper_bytes))}"
    if smallest.cards > 1:
        card = card.replace("a card", f"{smallest.cards} cards") + ("" if smallest.spread else " in one machine")
    remedies = (card, *(relief or ("a smaller batch or length",)))
    return f"{name}: needs {asked}, found {found}; would fit with " + ", or ".join(remedies)


def find_cpu_alternatives(*, cpus: float, host_bytes: int, inventory: Inventory) -> tuple[Alternative, ...]:
    """Returns the one alternative of a trial without a GPU; nothing where no machine holds it.

    Args:
        cpus: CPUs that its threads keep busy.
        host_bytes: Upper estimate of its host memory.
        inventory: Where it may run.
    """
    alternative = Alternative(model="", share=None, cpus=cpus, host_bytes=host_bytes)
    return (alternative,) if cpu_slots(alternative, inventory) else ()


def explain_cpu_refusal(name: str, *, cpus: float, host_bytes: int, inventory: Inventory) -> str:
    """Says why a trial without a GPU can never run."""
    most_cpus = max((node.cpus for node in inventory.nodes), default=0.0)
    most_bytes = max((node.memory_bytes for node in inventory.nodes), default=0)
    return (
        f"{name}: needs {counted(cpus, 'CPU')} and {format_bytes(host_bytes)} of host memory on one machine,"
        f" found at most {counted(most_cpus, 'CPU')} and {format_bytes(most_bytes)}; would fit with fewer cpu_threads,"
        " or a smaller batch, length or model"
    )


def cpu_slots(alternative: Alternative, inventory: Inventory) -> int:
    """Counts how many such trials all machines hold at once, by CPUs and by host memory.

    >>> from cluster.machines.hardware import Node
    >>> machines = Inventory(nodes=(Node(name="n", cpus=4, memory_bytes=5 * 2**30),))
    >>> cpu_slots(Alternative(model="", share=None, cpus=1, host_bytes=2 * 2**30), machines)
    2
    """
    cpus, host_bytes = alternative.cpus, alternative.host_bytes
    return sum(
        min(
            int(node.cpus / cpus) if cpus > 0 else _WITHOUT_LIMIT,
            node.memory_bytes // host_bytes if host_bytes > 0 else _WITHOUT_LIMIT,
        )
        for node in inventory.nodes
    )


def _on_pool(needs: Sequence[Need], pool: Pool, max_tenants: int) -> Alternative | None:
    for need in needs:
        share = _share_of(need, pool, max_tenants) if need.model in (None, pool.model) else None
        if share is not None:
            return Alternative(
                model=pool.model,
                share=share,
                cpus=need.cpus,
                host_bytes=need.host_bytes,
                upper_bytes=need.upper_bytes,
                cap_bytes=share.cap_bytes(pool.usable_bytes),
                expected_s=None if need.expected_s is None else need.expected_s / pool.speed,
                busy=need.busy,
                spread=need.spread,
            )
    return None


def _share_of(need: Need, pool: Pool, max_tenants: int) -> Share | None:
    if need.cards == 1:
        return share_for(need.upper_bytes, pool, max_tenants=max_tenants)
    if need.upper_bytes <= pool.usable_bytes and need.cards <= (pool.cards if need.spread else max(pool.node_cards)):
        return Share(units=UNITS, cards=need.cards)
    return None
