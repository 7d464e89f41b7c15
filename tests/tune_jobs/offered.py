"""Offers for orders that a test makes by hand: what a real placer would find for a trial of so many bytes."""

from cluster.machines.hardware import Inventory
from cluster.scheduling.placement import Demand, Need, choose, refuse
from common.errors import RequestError
from tune_jobs.driver.card_line import Offer
from tune_jobs.records.trial_spec import Bundle, Placed, TrialOrder

GIB = 2**30


def offers_of(
    order: TrialOrder, inventory: Inventory, upper_bytes: int, least_bytes: int = 0, cards: int = 1
) -> tuple[Offer, ...]:
    """Offers every model of the cards that holds the trial, the smallest fair part first.

    Args:
        order: The trial; its shape and CPUs stay.
        inventory: The cards.
        upper_bytes: Its estimate.
        least_bytes: What an out-of-memory has shown that it needs.
        cards: Whole cards that it trains on together.
    """
    demand = Demand(name=order.name, needs=(Need(upper_bytes=max(upper_bytes, least_bytes), cards=cards),))
    usable = {pool.model: pool.usable_bytes for pool in inventory.pools}
    offers = tuple(
        Offer(
            choice=choice,
            placed=Placed(
                bundle=Bundle(cpus=order.bundle.cpus, gpus=choice.share.gpus, labels=choice.label_selector),
                shape=order.shape,
                usable_bytes=usable[choice.model],
                context_bytes=order.context_bytes,
                estimate={
                    "device_bytes": upper_bytes,
                    "upper_bytes": upper_bytes,
                    "context_bytes": GIB // 2,
                    "cap_bytes": choice.cap_bytes,
                    "family": "bart",
                    "gpu": choice.model,
                    "precision": "bf16",
                    "layout": "one card",
                },
            ),
        )
        for choice in choose(demand, inventory)
    )
    if not offers:
        raise RequestError(str(refuse(demand, inventory)))
    return offers


def placed_order(order: TrialOrder, inventory: Inventory, upper_bytes: int) -> TrialOrder:
    """Returns the order at the place that it would get if all cards were free."""
    return order.at(offers_of(order, inventory, upper_bytes)[0].placed)
