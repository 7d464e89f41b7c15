"""Holds a trial's process to its share: an allocator cap from inside, NVML from outside, a check of room before.

`environment` must reach the process before torch touches CUDA; `hold` comes before the model is built. A trial that
outgrows its share then fails alone, and its neighbours on the card never notice. Without CUDA the same path runs over
host memory, or over a meter that a test brings.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.machines import nvml
from common.errors import RequestError, WorkError
from common.units import format_bytes, format_duration

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the new name of torch, and the old one
EXPANDABLE = "expandable_segments:True"  # pages instead of fixed segments: little is lost between tensors
ROOM_S = 3600.0  # a stranger's process on a card is a reason to wait, not to lose a sweep's trials one by one
ROOM_SAID_AFTER_S = 5.0  # a stopped neighbour has given everything back by then
OUTSIDE_TOLERANCE_BYTES = 64 * 2**20  # NVML counts in pages of 2 MiB, and a context grows a little with new kernels


class OutOfMemoryError(WorkError):
    """A process holds more than its share. Named as torch's own, so that recovery treats both alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What one process may hold on one card.

    Attributes:
        cap_bytes: Device bytes in all; those of all co-tenants add up to at most the usable bytes of the card.
        context_bytes: The part of it that lies outside torch's allocator: CUDA context, kernels, libraries.

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
        """What torch may reserve."""
        return self.cap_bytes - self.context_bytes


class Device(Protocol):
    """What a guard can do to a device, and ask it."""

    def cap(self, allocator_bytes: int) -> None:
        """Makes any allocation beyond so many bytes of this process fail."""

    def held_bytes(self) -> int | None:
        """Device bytes of this process as an outsider sees them; None where nobody tells."""


class CudaDevice:
    """The current CUDA device of this process."""

    def cap(self, allocator_bytes: int) -> None:
        """Sets torch's limit. In a process that is used again, the cache of the trial before is given back first."""
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        total_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allocator_bytes / total_bytes))

    def held_bytes(self) -> int | None:
        """Asks NVML; None in a container whose process numbers the driver does not share."""
        return nvml.process_bytes(os.getpid())

    def left_bytes(self, context_bytes: int) -> int:
        """What a process that is used again still holds of the trial before; by torch's own books where NVML is silent.

        Args:
            context_bytes: What it then counts for the part outside torch's allocator.
        """
        import torch

        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0
        torch.cuda.empty_cache()
        told_bytes = self.held_bytes()
        return told_bytes if told_bytes is not None else torch.cuda.memory_reserved() + context_bytes


class Guard:
    """Holds this process to a limit.

    Args:
        limit: What it may hold.
        device: Where.
        interval_s: NVML is asked at most once in this time, as asking takes a millisecond or more.
        clock: Seconds, rising.
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
        """Looks from outside at what the process holds; call it as often as you like.

        Raises:
            OutOfMemoryError: When it is more than the share and the tolerance: the context was larger than expected.
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
    """Returns the variables that torch must find before it starts CUDA.

    What a person set stays; `max_split_size_mb` is refused beside expandable segments, as both together leak reserved
    memory (facts of torch 2.13, pull request 193400).

    Args:
        current: The environment as it is.

    Returns:
        Only what is to be added or changed.

    Raises:
        RequestError: When the allocator is already set in a way that contradicts.

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
    tell: Callable[[str], None] = lambda text: None,
    *,
    timeout_s: float = ROOM_S,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Waits until the card of this process has room; see wait_for_room.

    Args:
        need_bytes: What its share may still grow by.
        visible: CUDA_VISIBLE_DEVICES of the process; the first card is its own.
        tell: Hears why it waits.
        timeout_s: Longest wait.
        sleep: Waits so many seconds.

    Returns:
        Seconds waited; 0 where nobody tells what is free.

    Raises:
        WorkError: When there is no room in time.
    """
    device = visible.split(",")[0].strip()
    return wait_for_room(
        need_bytes,
        lambda: nvml.free_bytes(device),
        tell,
        timeout_s=timeout_s,
        sleep=sleep,
    )


def wait_for_room(
    need_bytes: int,
    free_bytes: Callable[[], int | None],
    tell: Callable[[str], None] = lambda text: None,
    *,
    timeout_s: float,
    pause_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Waits until the card has room for the whole share: a trial that was just stopped gives memory back late.

    It looks at bytes and not at utilisation, so it also passes on a card that neighbours keep busy (Ray's own
    tune.utils.wait_for_gpu waits for an idle card, and never ends on a shared one).

    Args:
        need_bytes: What is still to be had.
        free_bytes: Asks the card; None where nobody tells, which ends the wait.
        tell: Hears why, when it has waited for ROOM_SAID_AFTER_S, and then every minute.
        timeout_s: Longest wait.
        pause_s: Between two questions.
        sleep: Waits so many seconds.

    Returns:
        Seconds waited.

    Raises:
        WorkError: When there is no room in time; somebody outside of Ray uses the card.
    """
    waited_s, next_said_s = 0.0, ROOM_SAID_AFTER_S
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
            tell(why)
            next_said_s = waited_s + 60.0
        sleep(pause_s)
        waited_s += pause_s
