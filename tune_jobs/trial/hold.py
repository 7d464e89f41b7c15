"""Holds a process to the share of a card that its trial was granted, before the model is built."""

import os
from collections.abc import Callable

from cluster.guard import CudaDevice, Device, Guard, Limit, wait_for_card
from cluster.scheduling.shares import UNITS, Share
from tune_jobs.records.trial_spec import RunShape, TrialSpec

CHECK_EVERY_S = 5.0  # NVML takes a millisecond or more
DeviceOf = Callable[[TrialSpec, RunShape], Device | None]


def card_of(spec: TrialSpec, shape: RunShape) -> Device | None:
    """Returns the card that this process trains on; None without one, and on a simulated card."""
    return None if spec.usable_bytes is None or spec.simulated else CudaDevice()


def hold(
    spec: TrialSpec, shape: RunShape, waiting: Callable[[str], None] = lambda text: None, device_of: DeviceOf = card_of
) -> Guard | None:
    """Caps torch's allocator at the share and watches what the process holds.

    Args:
        spec: The trial.
        shape: How it runs.
        waiting: Is called with the reason while others still hold bytes that belong to the share.
        device_of: Finds the device; tests on machines without a card put another one in its place.

    Raises:
        WorkError: When others hold the bytes for too long.

    Returns:
        None where there is no device to watch.
    """
    device = device_of(spec, shape)
    if device is None:
        return None
    limit = Limit(cap_bytes=_cap_bytes(spec), context_bytes=spec.context_bytes)
    if not isinstance(device, CudaDevice):
        return Guard(limit, device, interval_s=0.0)
    growth_bytes = limit.cap_bytes - device.left_bytes(limit.context_bytes)
    wait_for_card(growth_bytes, os.environ.get("CUDA_VISIBLE_DEVICES", ""), waiting)
    return Guard(limit, device, interval_s=CHECK_EVERY_S)


def _cap_bytes(spec: TrialSpec) -> int:
    assert spec.usable_bytes is not None, "a trial on a card knows how much of it can be used"
    if spec.bundle.gpus >= 1:
        return spec.usable_bytes
    return Share(units=round(spec.bundle.gpus * UNITS)).cap_bytes(spec.usable_bytes)
