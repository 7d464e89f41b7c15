"""Limits a trial's process to its share: a cap in torch's allocator, checks by NVML, a wait for free memory before.

`environment` must reach the process before torch uses CUDA; the Guard comes before the model. A trial that exceeds its
share then fails alone, without harm to other trials on the card.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.machines import nvml
from tuning_common.errors import RequestError, WorkError
from tuning_common.units import format_bytes, format_duration

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's new and old name
EXPANDABLE = "expandable_segments:True"  # pages instead of fixed segments: little fragmentation
ROOM_S = 3600.0  # wait for other users' processes before trials fail
ROOM_NOTICE_AFTER_S = 5.0  # a stopped trial has released its memory by then
_CHECK_S = 1.0  # between two looks at the card's memory
OUTSIDE_TOLERANCE_BYTES = 64 * 2**20  # NVML counts in pages of 2 MiB, and a context grows a little with new kernels


class OutOfMemoryError(WorkError):
    """A process holds more than its share. Named as torch's own, so that recovery treats both alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The memory limit of one process on one card.

    Attributes:
        cap_bytes: Total device bytes; the sum over all trials on a card is at most its usable bytes.
        context_bytes: The part outside torch's allocator: CUDA context, kernels, libraries.

    Raises:
        RequestError: When nothing is left for the allocator.

    >>> Limit(cap_bytes=8 * 2**30, context_bytes=2**29).allocator_bytes / 2**30
    7.5
    """

    cap_bytes: int
    context_bytes: int

    def __post_init__(self) -> None:
        if self.context_bytes < 0 or self.allocator_bytes <= 0:
            raise RequestError(
                f"a share of {format_bytes(self.cap_bytes)} leaves nothing beside the CUDA context of "
                f"{format_bytes(self.context_bytes)}; give the trial a larger share"
            )

    @property
    def allocator_bytes(self) -> int:
        """Bytes that torch may reserve."""
        return self.cap_bytes - self.context_bytes


class Device(Protocol):
    """The device operations of a guard."""

    def cap(self, allocator_bytes: int) -> None:
        """Limits this process's allocator to a number of bytes."""

    def held_bytes(self) -> int | None:
        """Returns the device bytes of this process by NVML; None where they are unknown."""


class CudaDevice:
    """The current CUDA device of this process."""

    def cap(self, allocator_bytes: int) -> None:
        """Sets torch's limit; first releases the cache of an earlier trial in this process."""
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        total_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allocator_bytes / total_bytes))

    def held_bytes(self) -> int | None:
        """Reads NVML; None in a container with its own process ids."""
        return nvml.process_bytes(os.getpid())

    def left_bytes(self, context_bytes: int) -> int:
        """Returns the bytes that a reused process still holds from the earlier trial; by torch's count without NVML.

        Args:
            context_bytes: Assumed bytes outside torch's allocator, without NVML.
        """
        import torch

        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0
        torch.cuda.empty_cache()
        told_bytes = self.held_bytes()
        return told_bytes if told_bytes is not None else torch.cuda.memory_reserved() + context_bytes


class Guard:
    """Limits this process.

    Args:
        limit: The limit.
        device: The device.
        interval_s: Shortest time between two NVML queries, each of which takes a millisecond or more.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self, limit: Limit, device: Device, *, interval_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.peak_bytes: int | None = None
        self._device = device
        self._interval_s = interval_s
        self._clock = clock
        self._next_s = clock()
        device.cap(limit.allocator_bytes)

    def check(self) -> None:
        """Compares the process's device bytes with the limit; cheap to call often.

        Raises:
            OutOfMemoryError: When they exceed the share plus the tolerance: the context is larger than expected.
        """
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._interval_s
        held_bytes = self._device.held_bytes()
        if held_bytes is None:
            return
        self.peak_bytes = max(self.peak_bytes or 0, held_bytes)
        if held_bytes > self.limit.cap_bytes + OUTSIDE_TOLERANCE_BYTES:
            raise OutOfMemoryError(
                f"the process holds {format_bytes(held_bytes)}, its share is {format_bytes(self.limit.cap_bytes)}"
            )


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables to set before torch starts CUDA.

    Keeps the user's settings; `max_split_size_mb` is refused beside expandable segments, as both together leak reserved
    memory (facts of torch 2.13, pull request 193400).

    Args:
        current: The current environment.

    Returns:
        Only the added or changed variables.

    Raises:
        RequestError: When the user's allocator settings contradict.

    >>> environment({})
    {'PYTORCH_ALLOC_CONF': 'expandable_segments:True'}
    >>> environment({"PYTORCH_CUDA_ALLOC_CONF": "garbage_collection_threshold:0.8"})
    {'PYTORCH_CUDA_ALLOC_CONF': 'garbage_collection_threshold:0.8,expandable_segments:True'}
    """
    variable = next((name for name in ALLOCATOR_VARIABLES if current.get(name)), ALLOCATOR_VARIABLES[0])
    settings = current.get(variable, "")
    if "max_split_size_mb" in settings or "expandable_segments:False" in settings.replace(" ", ""):
        raise RequestError(
            f"{variable}={settings} cannot go with expandable segments, by which trials share a card; unset it"
        )
    if "expandable_segments" in settings:
        return {}
    return {variable: f"{settings},{EXPANDABLE}" if settings else EXPANDABLE}


def wait_for_card(
    need_bytes: int,
    visible: str,
    notify: Callable[[str], None] = lambda text: None,
    *,
    timeout_s: float = ROOM_S,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Waits until this process's card has free memory; see wait_for_room.

    Args:
        need_bytes: Bytes that its share still needs.
        visible: CUDA_VISIBLE_DEVICES of the process, which uses the first card.
        notify: Called with the reason of the wait.
        timeout_s: Longest wait.
        sleep: Sleeps for a number of seconds.

    Returns:
        Seconds waited; 0 where the free memory is unknown.

    Raises:
        WorkError: When the memory is not free in time.
    """
    device = visible.split(",")[0].strip()
    return wait_for_room(
        need_bytes,
        lambda: nvml.free_bytes(device),
        notify,
        timeout_s=timeout_s,
        sleep=sleep,
    )


def wait_for_room(
    need_bytes: int,
    free_bytes: Callable[[], int | None],
    notify: Callable[[str], None] = lambda text: None,
    *,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Waits until the card has free memory for the share: a stopped trial releases its memory with a delay.

    It checks bytes, not utilisation, so it also succeeds on a busy card (Ray's tune.utils.wait_for_gpu waits for an
    idle card and would never end on a shared one).

    Args:
        need_bytes: Required free bytes.
        free_bytes: Returns the card's free bytes; None (unknown) ends the wait.
        notify: Called with the reason after ROOM_NOTICE_AFTER_S and then every minute.
        timeout_s: Longest wait.
        sleep: Sleeps for a number of seconds.

    Returns:
        Seconds waited.

    Raises:
        WorkError: When the memory is not free in time: a process outside of Ray uses the card.
    """
    waited_s, next_said_s = 0.0, ROOM_NOTICE_AFTER_S
    while True:
        free = free_bytes()
        if free is None or free >= need_bytes:
            return waited_s
        why = (
            f"the card has {format_bytes(free)} free, the share needs {format_bytes(need_bytes)}; a process outside of"
            " Ray holds the rest (nvidia-smi shows it)"
        )
        if waited_s >= timeout_s:
            raise WorkError(f"after {format_duration(waited_s)} {why}")
        if waited_s >= next_said_s:
            notify(why)
            next_said_s = waited_s + 60.0
        sleep(_CHECK_S)
        waited_s += _CHECK_S
