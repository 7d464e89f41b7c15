"""How busy a trial's machine and process are, for the curves beside its loss. From the kernel and from torch."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)
MEMINFO = Path("/proc/meminfo")


class MachineLoad:
    """Measures since the last call.

    Args:
        clock: Seconds that only grow.
        cpu_s: CPU seconds that this process has used.
        meminfo: The kernel's table; see proc(5).
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.process_time,
        meminfo: Path = MEMINFO,
    ) -> None:
        self._clock, self._cpu_s, self._meminfo = clock, cpu_s, meminfo
        self._last_s, self._last_cpu_s = clock(), cpu_s()

    def __call__(self) -> dict[str, float]:
        """Measures.

        Returns:
            `system/process_cpu_percent` (100 is one core), `system/load_1m`, `system/host_memory_percent`, and on a GPU
            `system/gpu_power_w` and `system/gpu_temperature_c`. What the system does not tell is absent.
        """
        now_s, cpu_s = self._clock(), self._cpu_s()
        load: dict[str, float] = {"system/load_1m": os.getloadavg()[0]}
        if now_s > self._last_s:
            load["system/process_cpu_percent"] = 100.0 * (cpu_s - self._last_cpu_s) / (now_s - self._last_s)
        self._last_s, self._last_cpu_s = now_s, cpu_s
        return load | host_memory(self._meminfo) | gpu_load()


def host_memory(meminfo: Path = MEMINFO) -> dict[str, float]:
    """Returns `system/host_memory_percent`: what programs cannot get of the host's memory."""
    try:
        table = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
        total, available = (float(table[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return {}
    return {"system/host_memory_percent": 100.0 * (total - available) / total}


def gpu_load() -> dict[str, float]:
    """Asks the card's driver through torch; nothing where there is no card or the driver does not say."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    readings = {
        "system/gpu_power_w": lambda: torch.cuda.power_draw() / 1000.0,  # milliwatts
        "system/gpu_temperature_c": torch.cuda.temperature,
    }
    load = {}
    for name, read in readings.items():
        try:
            load[name] = float(read())
        except Exception as error:  # NVML's own classes; a number is no reason to stop
            logger.debug("no %s: %s", name, error)
    return load
