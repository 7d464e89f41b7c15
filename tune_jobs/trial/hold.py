"""Holds a trial's process to the share of a card that it was granted."""

import os
from collections.abc import Callable

from cluster.guard import CudaDevice, Guard, HostDevice, Limit, wait_for_card
from cluster.scheduling.shares import UNITS, Share
from tune_jobs.records.trial_spec import TrialOrder
from tune_jobs.trial.recovery import RunShape


def hold(order: TrialOrder, shape: RunShape, tell: Callable[[str], None] = lambda text: None) -> Guard | None:
    """Holds this process to the share that it was granted, before the model is built.

    Args:
        order: The trial.
        shape: How it is run.
        tell: Hears why it waits, where others still hold what belongs to the share.

    Raises:
        WorkError: When they hold it for too long.

    Returns:
        None where there is no card: on a machine without GPUs, and on a simulated card that pretends nothing.
    """
    if order.usable_bytes is None or (order.simulated and order.pretended is None):
        return None
    limit = Limit(cap_bytes=_cap_bytes(order), context_bytes=order.context_bytes)
    if order.pretended is None:
        card = CudaDevice()
        growth_bytes = limit.cap_bytes - card.left_bytes(limit.context_bytes)
        wait_for_card(growth_bytes, os.environ.get("CUDA_VISIBLE_DEVICES", ""), tell)
        return Guard(limit, card)
    held_bytes = order.pretended.fixed_bytes + shape.micro_batch * order.pretended.bytes_per_sample
    return Guard(limit, HostDevice(meter=lambda: held_bytes), interval_s=0.0)


def _cap_bytes(order: TrialOrder) -> int:
    assert order.usable_bytes is not None
    if order.bundle.gpus >= 1:
        return order.usable_bytes
    return Share(units=round(order.bundle.gpus * UNITS)).cap_bytes(order.usable_bytes)
