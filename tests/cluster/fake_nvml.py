"""A made-up NVML at its own protocol: C functions that fill C structures and return codes.

The real pynvml runs on top of it. A function that it does not know is refused, so a new call in the product needs a new
answer here; a call outside of init and shutdown fails, as it does on a machine.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

SUCCESS, NOT_SUPPORTED, NOT_FOUND, INSUFFICIENT_SIZE, GPU_IS_LOST = 0, 3, 6, 7, 15
UNINITIALIZED = 1
NOT_TOLD = 2**64 - 1  # what the driver answers for the bytes of a process that it does not tell


@dataclass(kw_only=True)
class FakeCard:
    """What one card or slice answers."""

    name: str = "NVIDIA GeForce RTX 3090"
    uuid: str = "GPU-0"
    total: int = 24 * 2**30
    used: int = 0
    processes: list[tuple[int, int]] | None = field(default_factory=list)  # None: not supported
    mig: dict[int, "FakeCard"] | None = None  # slices by number, with gaps; {} is partitioned without slices
    mig_known: bool = True
    lost: bool = False
    busy: int = 0  # percent


class FakeLibrary:
    """Stands for libnvidia-ml.so.1.

    Args:
        cards: By their index.
        init_code: What nvmlInit returns.
        old_driver: Whether the third version of the process call is absent, as before driver 510.
    """

    def __init__(self, cards: list[FakeCard], *, init_code: int = SUCCESS, old_driver: bool = False) -> None:
        self.cards = cards
        self.init_code = init_code
        self.old_driver = old_driver
        self.sessions = 0
        self.handles: dict[int, FakeCard] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        functions: dict[str, Callable[..., int]] = {
            "nvmlSystemGetDriverVersion": lambda text, size: self._put(text, "570.86.15"),
            "nvmlSystemGetCudaDriverVersion_v2": lambda ref: self._set(ref, 12080),
            "nvmlDeviceGetCount_v2": lambda ref: self._set(ref, len(self.cards)),
            "nvmlDeviceGetHandleByIndex_v2": self._handle,
            "nvmlDeviceGetName": lambda handle, text, size: self._put(text, self._card(handle).name),
            "nvmlDeviceGetUUID": lambda handle, text, size: self._put(text, self._card(handle).uuid),
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetUtilizationRates": self._utilisation,
            "nvmlDeviceGetMigMode": self._mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle, ref: self._set(ref, 7),
            "nvmlDeviceGetMigDeviceHandleByIndex": self._slice,
            "nvmlDeviceGetComputeRunningProcesses_v2": self._processes,
            "nvmlDeviceGetComputeRunningProcesses_v3": self._processes,
        }
        if name in ("nvmlInitWithFlags", "nvmlShutdown"):
            return self._init if name == "nvmlInitWithFlags" else self._shutdown
        if self.old_driver and name == "nvmlDeviceGetComputeRunningProcesses_v3":
            raise AttributeError(name)  # as ctypes does for a symbol that the library lacks
        if name not in functions:
            raise AssertionError(f"the product calls {name}, which the fake NVML does not know")
        return lambda *arguments: functions[name](*arguments) if self.sessions else UNINITIALIZED

    def _init(self, _flags: int) -> int:
        if self.init_code == SUCCESS:
            self.sessions += 1
        return self.init_code

    def _shutdown(self) -> int:
        assert self.sessions > 0, "shutdown without init"
        self.sessions -= 1
        return SUCCESS

    def _put(self, buffer: ctypes.Array[ctypes.c_char], text: str) -> int:
        buffer.value = text.encode()
        return SUCCESS

    def _set(self, reference: object, value: int) -> int:
        reference._obj.value = value  # type: ignore[attr-defined]  # what ctypes.byref was given
        return SUCCESS

    def _give(self, reference: object, card: FakeCard) -> int:
        if card.lost:
            return GPU_IS_LOST
        number = len(self.handles) + 1
        self.handles[number] = card
        handle = reference._obj  # type: ignore[attr-defined]
        ctypes.cast(ctypes.byref(handle), ctypes.POINTER(ctypes.c_void_p))[0] = number
        return SUCCESS

    def _card(self, handle: object) -> FakeCard:
        return self.handles[ctypes.cast(handle, ctypes.c_void_p).value or 0]  # type: ignore[arg-type]

    def _handle(self, index: ctypes.c_uint, reference: object) -> int:
        return self._give(reference, self.cards[index.value])

    def _slice(self, handle: object, index: ctypes.c_uint, reference: object) -> int:
        slices = self._card(handle).mig or {}
        return self._give(reference, slices[index.value]) if index.value in slices else NOT_FOUND

    def _memory(self, handle: object, reference: object) -> int:
        card = self._card(handle)
        memory = reference._obj  # type: ignore[attr-defined]
        memory.total, memory.used, memory.free = card.total, card.used, card.total - card.used
        return SUCCESS

    def _utilisation(self, handle: object, reference: object) -> int:
        rates = reference._obj  # type: ignore[attr-defined]
        rates.gpu, rates.memory = self._card(handle).busy, 0
        return SUCCESS

    def _mig_mode(self, handle: object, current: object, pending: object) -> int:
        card = self._card(handle)
        if not card.mig_known:
            return NOT_SUPPORTED
        self._set(pending, int(card.mig is not None))
        return self._set(current, int(card.mig is not None))

    def _processes(self, handle: object, count: object, array: object) -> int:
        processes = self._card(handle).processes
        if processes is None:
            return NOT_SUPPORTED
        room = count._obj.value  # type: ignore[attr-defined]
        self._set(count, len(processes))
        if len(processes) > room:
            return INSUFFICIENT_SIZE
        for index, (pid, size) in enumerate(processes):
            array[index].pid, array[index].usedGpuMemory = pid, size  # type: ignore[index]
        return SUCCESS
