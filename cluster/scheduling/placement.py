"""Which cards a trial may run on and what it holds there. Pure; must not import Ray, NVML, torch or read a clock."""

from dataclasses import dataclass

from cluster.machines.hardware import GPU_MODEL_LABEL, Inventory, Pool, total_bytes_for
from cluster.scheduling.shares import MAX_TENANTS, UNITS, Share, share_for
from common.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One way to run a trial: what it takes on each of `cards` cards of a model.

    Attributes:
        upper_bytes: Upper estimate of device bytes on each card.
        model: Label of the GPU model for which this was estimated; any model when None.
        cards: Whole cards that the trial trains on together.
        spread: Whether these may lie in several machines.
        expected_s: Expected duration on a card of speed 1.
        busy: Part of a card's compute that the trial keeps busy when alone; 0 where that is not known.
    """

    upper_bytes: int
    model: str | None = None
    cards: int = 1
    spread: bool = False
    expected_s: float = 1.0
    busy: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """A trial that wants a place.

    Attributes:
        name: The trial.
        needs: The ways to run it; the first that fits a model is taken for it, so the fewest cards stand first.
        relief: What would make it smaller, in words, such as "gradient checkpointing (9.1 GiB)"; shown in a refusal.
    """

    name: str
    needs: tuple[Need, ...]
    relief: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A model on which a trial can run, and what it holds there.

    Attributes:
        model: Label of the GPU model.
        share: What Ray is asked for.
        upper_bytes: What the trial is expected to need at most, on each card.
        cap_bytes: What it may hold on each card before it is stopped; at least upper_bytes.
        expected_s: Expected duration on this model.
        fair_part: Part of the cluster that it costs: cards held, over all cards of the model.
        spread: Whether its cards may lie in several machines.
    """

    model: str
    share: Share
    upper_bytes: int
    cap_bytes: int
    expected_s: float
    fair_part: float
    spread: bool = False

    @property
    def label_selector(self) -> dict[str, str]:
        """For each bundle of the trial's placement group: only nodes of the model that the share was computed for."""
        return {GPU_MODEL_LABEL: self.model}


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a trial can never run on an inventory, in words for the person who asked.

    Attributes:
        name: The trial.
        asked: What it needs.
        found: What there is.
        remedies: What would make it fit.
    """

    name: str
    asked: str
    found: str
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: needs {self.asked}, found {self.found}; would fit with " + ", or ".join(self.remedies)


def choose(demand: Demand, inventory: Inventory, *, max_tenants: int = MAX_TENANTS) -> tuple[Choice, ...]:
    """Lists the models on which a trial can run, the smallest fair part of the cluster first.

    The fair part is in cards of the model over all its cards, so a trial that fits anywhere leaves a scarce large model
    to those that need it. Ties go to the shorter duration, then to the name.

    Args:
        demand: The trial.
        inventory: Where it may run.
        max_tenants: Most trials on one card.

    Returns:
        Nothing where it can never run (see refuse).

    >>> from cluster.machines.hardware import parse_simulated
    >>> trial = Demand(name="t5", needs=(Need(upper_bytes=10 * 2**30),))
    >>> [(c.model, c.share.gpus) for c in choose(trial, parse_simulated("2x24GiB,1x80GiB"))]
    [('simulated-80GiB', 0.1666), ('simulated-24GiB', 0.4375)]
    """
    found = [_choice(demand, pool, max_tenants) for pool in inventory.pools]
    return tuple(sorted((choice for choice in found if choice), key=lambda c: (c.fair_part, c.expected_s, c.model)))


def refuse(demand: Demand, inventory: Inventory) -> Refusal | None:
    """Says why a trial can never run, or None where it can.

    >>> from cluster.machines.hardware import parse_simulated
    >>> print(refuse(Demand(name="t5", needs=(Need(upper_bytes=30 * 2**30),)), parse_simulated("2x24GiB")))
    t5: needs 30.0 GiB on one card, found 2 x simulated-24GiB (simulated), of which at most 23.3 GiB of one card \
can be used; would fit with a card of at least 30.9 GiB, or a smaller batch or length
    """
    if choose(demand, inventory):
        return None
    pools = inventory.pools
    asked = " or ".join(
        f"{format_bytes(need.upper_bytes)} on {'one card' if need.cards == 1 else f'each of {need.cards} cards'}"
        + (f" of {need.model}" if need.model else "")
        for need in demand.needs
    )
    largest = max((pool.usable_bytes for pool in pools), default=0)
    found = inventory.describe()
    if pools:
        found += f", of which at most {format_bytes(largest)} of one card can be used"
    smallest = min(demand.needs, key=lambda need: (need.upper_bytes, need.cards))
    card = f"a card of at least {format_bytes(total_bytes_for(smallest.upper_bytes))}"
    if smallest.cards > 1:
        card = (
            f"{smallest.cards} cards of at least {format_bytes(total_bytes_for(smallest.upper_bytes))}"
            f"{'' if smallest.spread else ' in one machine'}"
        )
    return Refusal(
        name=demand.name,
        asked=asked,
        found=found,
        remedies=(card, *(demand.relief or ("a smaller batch or length",))),
    )


def largest_first(demands: tuple[Demand, ...], inventory: Inventory) -> tuple[Demand, ...]:
    """Orders trials so that large ones are placed before small ones fill the gaps (best-fit-decreasing).

    Where one card is too small the trial needs several, and comes first of all. Equal ones go by name, so that the
    order does not depend on the order of the input.
    """

    def size(demand: Demand) -> tuple[float, float, str]:
        choices = choose(demand, inventory)
        if not choices:
            return (0.0, 0.0, demand.name)
        cost = min(choice.share.gpus for choice in choices)
        return (-cost, -max(choice.upper_bytes for choice in choices), demand.name)

    return tuple(sorted(demands, key=size))


def _choice(demand: Demand, pool: Pool, max_tenants: int) -> Choice | None:
    for need in demand.needs:
        if need.model not in (None, pool.model):
            continue
        share = _share_of_pool(need, pool, max_tenants)
        if share is not None:
            return Choice(
                model=pool.model,
                share=share,
                upper_bytes=need.upper_bytes,
                cap_bytes=share.cap_bytes(pool.usable_bytes),
                expected_s=need.expected_s / pool.speed,
                fair_part=share.gpus / pool.cards,
                spread=need.spread,
            )
    return None


def _share_of_pool(need: Need, pool: Pool, max_tenants: int) -> Share | None:
    if need.cards == 1:
        return share_for(need.upper_bytes, pool, busy=need.busy, max_tenants=max_tenants)
    if need.upper_bytes <= pool.usable_bytes and need.cards <= (pool.cards if need.spread else max(pool.node_cards)):
        return Share(units=UNITS, cards=need.cards)
    return None
