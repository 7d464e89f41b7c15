"""Reads NVML, NVIDIA's management library; the only module that imports pynvml.

Each function starts NVML, queries it and shuts it down. A machine without NVIDIA hardware is a normal result with a
reason, not an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import ModuleType

from cluster.machines.hardware import Card, label_of


class Unavailable(Enum):
    """Reasons why NVML gives no cards; the values are texts for users, with a remedy."""

    NO_PACKAGE = "the Python package nvidia-ml-py is not installed; pip install -r requirements.txt"
    NO_LIBRARY = "no NVIDIA driver on this machine (libnvidia-ml.so.1 is absent)"
    NO_DRIVER = "the NVIDIA driver is installed but not loaded; try nvidia-smi, or load the kernel module"
    VERSION_MISMATCH = "the NVIDIA library and the loaded driver differ in version; reboot after the driver update"
    NO_PERMISSION = "this user may not ask the NVIDIA driver; check the permissions of /dev/nvidia*"
    BLOCKED = "the operating system blocks the NVIDIA driver; in a container, start it with --gpus all"
    NO_CARDS = "the NVIDIA driver runs but sees no card"
    OTHER = "the NVIDIA driver gives an error that has no name here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process that holds device memory.

    Attributes:
        pid: Process id in the driver's name space, which differs inside a container.
        held_bytes: Device bytes; None where the driver does not report them.
    """

    pid: int
    held_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CardReading:
    """A card and its current use.

    Attributes:
        card: The card; its `used_by_others_bytes` excludes the caller's own processes.
        name: The driver's name of the model.
        used_bytes: Device memory in use by all processes and the driver.
        processes: Compute processes; empty where the driver does not report them.
    """

    card: Card
    name: str
    used_bytes: int
    processes: tuple[Process, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """NVML's information on this machine.

    Attributes:
        cards: Whole cards, and the slices of partitioned cards.
        driver: Version of the driver; empty where there is none.
        cuda: Newest CUDA version that the driver supports, such as "12.8".
        unavailable: Why there are no cards; None where there are some.
        detail: The driver's message for that.
        problems: Cards that do not answer, each with the driver's message.
    """

    cards: tuple[CardReading, ...] = ()
    driver: str = ""
    cuda: str = ""
    unavailable: Unavailable | None = None
    detail: str = ""
    problems: tuple[str, ...] = ()


def read(own_pids: frozenset[int] = frozenset()) -> Reading:
    """Reads every card of this machine.

    Args:
        own_pids: Our processes; their memory does not count as used by others.

    Returns:
        The reading; a missing driver or a broken card is part of it and raises nothing.
    """
    try:
        import pynvml
    except ImportError as error:
        return Reading(unavailable=Unavailable.NO_PACKAGE, detail=str(error))
    try:
        with _session(pynvml):
            return _read_all(pynvml, own_pids)
    except pynvml.NVMLError as error:
        return Reading(unavailable=_reason(pynvml, error), detail=str(error))


def process_bytes(pid: int) -> int | None:
    """Returns the device memory of one process, on all cards together.

    Args:
        pid: Process id in the driver's name space.

    Returns:
        Bytes, with the CUDA context; None where the driver does not report the process.
    """
    held = [process.held_bytes for reading in read().cards for process in reading.processes if process.pid == pid]
    known = [size for size in held if size is not None]
    return sum(known) if known and len(known) == len(held) else None


def free_bytes(device: str) -> int | None:
    """Returns the free memory of one card.

    Args:
        device: An entry of CUDA_VISIBLE_DEVICES: a number, or a UUID or its beginning.

    Returns:
        Bytes; None without such a card or without NVML.
    """
    for reading in read().cards:
        by_number = device == str(reading.card.index) and not reading.card.mig
        if by_number or (not device.isdecimal() and device and reading.card.uuid.startswith(device)):
            return max(0, reading.card.total_bytes - reading.used_bytes)
    return None


def utilisation() -> tuple[tuple[int, int], ...]:
    """Returns the utilization of the cards.

    Returns:
        (index, percent of the last sampling period, a second at most, in which a kernel ran) of each card that
        reports it; partitioned cards do not.
    """
    try:
        import pynvml
    except ImportError:
        return ()
    found = []
    try:
        with _session(pynvml):
            for index in range(int(pynvml.nvmlDeviceGetCount())):
                try:
                    rates = pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index))
                except pynvml.NVMLError:
                    continue
                found.append((index, int(rates.gpu)))
    except pynvml.NVMLError:
        return ()
    return tuple(found)


@contextmanager
def _session(pynvml: ModuleType) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read_all(pynvml: ModuleType, own_pids: frozenset[int]) -> Reading:
    driver = _text(pynvml.nvmlSystemGetDriverVersion())
    cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    cards: list[CardReading] = []
    problems: list[str] = []
    for index in range(int(pynvml.nvmlDeviceGetCount())):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for part, mig in _parts(pynvml, handle):
                cards.append(_read_card(pynvml, part, index, mig, own_pids))
        except pynvml.NVMLError as error:  # continue with the other cards
            problems.append(f"card {index}: {error}")
    return Reading(
        cards=tuple(cards),
        driver=driver,
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        unavailable=None if cards else Unavailable.NO_CARDS,
        problems=tuple(problems),
    )


def _parts(pynvml: ModuleType, handle: object) -> list[tuple[object, bool]]:
    """Returns the card itself, or its slices where it is partitioned: CUDA then cannot use the card as a whole."""
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:
        return [(handle, False)]
    if current != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [(handle, False)]
    slices: list[tuple[object, bool]] = []
    for index in range(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
        try:
            slices.append((pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index), True))
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            continue  # slice numbers may have gaps
    return slices


def _read_card(pynvml: ModuleType, handle: object, index: int, mig: bool, own_pids: frozenset[int]) -> CardReading:
    name = _text(pynvml.nvmlDeviceGetName(handle))
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    processes = _processes(pynvml, handle)
    ours = sum(process.held_bytes or 0 for process in processes if process.pid in own_pids)
    used_bytes = int(memory.used)
    card = Card(
        model=label_of(name),
        total_bytes=int(memory.total),
        used_by_others_bytes=max(0, used_bytes - ours),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        index=index,
        mig=mig,
    )
    return CardReading(card=card, name=name, used_bytes=used_bytes, processes=processes)


def _processes(pynvml: ModuleType, handle: object) -> tuple[Process, ...]:
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
        return ()
    except pynvml.NVMLLibraryMismatchError:  # drivers before 510 have only the older call
        found = pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)
    return tuple(
        Process(pid=int(item.pid), held_bytes=None if item.usedGpuMemory is None else int(item.usedGpuMemory))
        for item in found
    )


def _reason(pynvml: ModuleType, error: Exception) -> Unavailable:
    reasons = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: Unavailable.NO_LIBRARY,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Unavailable.NO_DRIVER,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Unavailable.VERSION_MISMATCH,
        pynvml.NVML_ERROR_NO_PERMISSION: Unavailable.NO_PERMISSION,
        pynvml.NVML_ERROR_OPERATING_SYSTEM: Unavailable.BLOCKED,
    }
    return reasons.get(getattr(error, "value", None), Unavailable.OTHER)


def _text(value: str | bytes) -> str:
    """Returns text; some versions of the binding return bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
