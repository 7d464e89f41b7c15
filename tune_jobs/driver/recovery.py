"""How much memory a trial asks for after it ran out of it. Pure."""

from cluster.scheduling.shares import UNITS, Share


def larger_share(gpus: float, classes: tuple[float, ...]) -> float | None:
    """Returns the share for the next attempt after an out-of-memory: at least half as much again, at most a card.

    Args:
        gpus: The share that was too small.
        classes: Allowed shares in rising order, the last one a whole card.

    Returns:
        None where the trial held a whole card already: no share would help.

    >>> larger_share(0.25, (0.25, 0.3333, 0.5, 1.0)), larger_share(0.5, (0.25, 0.5, 1.0)), larger_share(1.0, (0.5, 1.0))
    (0.5, 1.0, None)
    """
    if gpus >= 1:
        return None
    return next((share for share in classes if share >= 1.5 * gpus), classes[-1])


def next_bytes(gpus: float, usable_bytes: int, classes: tuple[float, ...]) -> int:
    """Returns what its cards must give together to the next attempt after an out-of-memory.

    That is a larger share of the same model, at last a whole card; after whole cards, more than they have: only a card
    of another model, or more cards, have it.

    Args:
        gpus: The share that was too small, or the whole cards that were.
        usable_bytes: Of one card of the model that it was a share of.
        classes: Allowed shares in rising order, the last one a whole card.

    >>> [next_bytes(gpus, 24_000, (0.25, 0.3333, 0.5, 1.0)) for gpus in (0.25, 0.5, 1.0, 2.0)]
    [12000, 24000, 24001, 48001]
    """
    share = larger_share(gpus, classes)
    return (
        max(1, int(gpus)) * usable_bytes + 1
        if share is None
        else Share(units=round(share * UNITS)).cap_bytes(usable_bytes)
    )
