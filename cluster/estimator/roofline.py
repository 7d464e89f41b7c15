"""What a device can do in a second, by GPU model: peaks with their sources and the parts of them that are reached.

rooflines.json has the vendors' dense peaks. Imports nothing heavy.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DATA = Path(__file__).with_name("rooflines.json")


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """What a device reaches in a second.

    Attributes:
        half_flops_s: Floating-point operations of 16-bit numbers in matrix products.
        single_flops_s: The same of 32-bit numbers, as torch computes them (without TF32).
        bytes_s: Bytes that it reads and writes.
        launch_s: Seconds that it spends on starting one operation.
        host_s: Seconds in which the host submits one operation, beside the device's work.
        source: Where this comes from.
    """

    half_flops_s: float
    single_flops_s: float
    bytes_s: float
    launch_s: float
    host_s: float
    source: str


def roofline_of(gpu: str) -> Roofline | None:
    """Returns the roofline of a GPU model; None where its peaks are not known.

    Args:
        gpu: Name of the model, as in gpu_profiles.json.

    >>> roofline_of("NVIDIA L4").bytes_s / 1e9
    240.0
    >>> roofline_of("GPU with 24.0 GiB") is None
    True
    """
    return _shipped().get(gpu)


@cache
def _shipped() -> dict[str, Roofline]:
    data = json.loads(_DATA.read_text(encoding="utf-8"))
    reached, tera, giga = data["reached"], 1e12, 1e9
    return {
        str(name): Roofline(
            half_flops_s=half * tera * reached["compute"],
            single_flops_s=single * tera * reached["compute"],
            bytes_s=bandwidth * giga * reached["bandwidth"],
            launch_s=data["launch_us"] * 1e-6,
            host_s=data["host_us"] * 1e-6,
            source=f"{source}; {data['source']}",
        )
        for name, half, single, bandwidth, source in data["gpus"]
    }
