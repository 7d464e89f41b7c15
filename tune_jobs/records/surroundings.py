"""The software and hardware of a training: Python, packages, CUDA, driver, cards, CPU. Read in the trial's process."""

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

# Only these variables are stored: they change numbers or speed. Others may hold secrets.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTHONHASHSEED",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The parts of a machine and its Python that may change a training.

    Attributes:
        python: Version and implementation.
        platform: Operating system, its version and the machine's architecture.
        cpu: Model of the processor.
        cpu_capability: Vector instructions that torch uses; they change the last digits of numbers.
        packages: Versions of all installed packages by name.
        torch: Version with its build, for example "2.13.0+cu128".
        cuda: Version that torch was built for; None for a CPU build.
        cudnn: Version of cuDNN, or None.
        driver: Version of the NVIDIA driver, or None.
        cards: Names of the cards in this machine.
        variables: Environment variables from a short list of harmless ones.
    """

    python: str = ""
    platform: str = ""
    cpu: str = ""
    cpu_capability: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    torch: str = ""
    cuda: str | None = None
    cudnn: int | None = None
    driver: str | None = None
    cards: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def read_surroundings() -> Surroundings:
    """Reads the surroundings of this process."""
    import torch

    from cluster.machines.nvml import read

    nvml = read()
    return Surroundings(
        python=f"{platform.python_version()} {platform.python_implementation()}",
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_model(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        packages=dict(installed_packages()),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        cudnn=_cudnn_version(),
        driver=nvml.driver or None,
        cards=[reading.name for reading in nvml.cards],
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


@functools.cache  # reads hundreds of files; a process that serves many trials has imported its packages long ago
def installed_packages() -> Mapping[str, str]:
    """Returns versions by name, without the packages' URLs, which may hold passwords."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=sys.path):
        metadata = distribution.metadata
        if metadata["Name"]:
            found.setdefault(metadata["Name"].lower().replace("_", "-"), metadata["Version"])
    return MappingProxyType(dict(sorted(found.items())))


def _cudnn_version() -> int | None:
    import torch

    version: Callable[[], int | None] = torch.backends.cudnn.version
    return version() if torch.version.cuda else None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
