"""GPU models: memory of a card, and the bytes of a process beside its tensors.

Must not import torch at the top: `estimate` works without it. gpu_profiles.json has the sizes with their sources; a
source "not measured" means an assumption.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, read_jsonl
from tuning_common.strict import nearest
from tuning_common.units import format_bytes, parse_bytes

MIB = 2**20
GENERIC_SM = (8, 0)  # for a card known only by its size: Ampere, the oldest with full bf16 speed
BLAS_HANDLES = 2  # the forward thread and autograd's own thread each hold a cuBLAS handle with a workspace
LARGE_WORKSPACE_BYTES = 32 * MIB
SMALL_WORKSPACE_BYTES = 8_519_680
RESERVE_BYTES = 256 * MIB  # kept free on every card: display, driver, small processes of others
DRIVER_PART = 0.02  # fraction of the NVML total that the driver reserves; see driver_bytes
NOT_MEASURED = "not measured"
SIZE_TOLERANCE = 0.1  # between a card's size by its name and by its driver: 16 GiB are 15 on a T4
PROFILES_FILE = Path("outputs/gpu_profiles.jsonl")  # measured profiles of this team's machines
_DATA = Path(__file__).with_name("gpu_profiles.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuProfile:
    """A GPU model.

    Attributes:
        name: As NVML prints it, or "GPU with 24.0 GiB" for a card known only by its size.
        total_bytes: NVML's total.
        sm: Compute capability, for example (9, 0).
        context_bytes: Bytes of a process outside torch's allocator: CUDA context, cuBLAS and cuDNN modules.
        workspace_bytes: cuBLAS workspaces inside torch's allocator.
        total_source: Source of total_bytes.
        context_source: Source of context_bytes; begins with "not measured" where it is an assumption.
        workspace_source: Source of workspace_bytes, likewise.
    """

    name: str
    total_bytes: int
    sm: tuple[int, int]
    context_bytes: int
    workspace_bytes: int
    total_source: str
    context_source: str
    workspace_source: str

    @property
    def driver_bytes(self) -> int:
        """Bytes that NVML counts in the total but no process can use.

        torch reports less than NVML: published out-of-memory messages give 79.1 of 79.6 GiB for an H100 80 GB, 23.7 of
        24.0 GiB for an RTX 3090, 14.7 of 15.0 GiB for a T4, so at most 2 % of the total.
        """
        return int(self.total_bytes * DRIVER_PART)

    @property
    def usable_bytes(self) -> int:
        """Bytes that trials may share on an otherwise empty card."""
        return self.total_bytes - self.driver_bytes - RESERVE_BYTES

    @property
    def measured(self) -> bool:
        """Whether context and workspace were measured on this model rather than assumed."""
        return not self.context_source.startswith(NOT_MEASURED)


def known_gpus() -> tuple[GpuProfile, ...]:
    """Returns the shipped models, largest first within a generation.

    >>> next(gpu.total_bytes // MIB for gpu in known_gpus() if gpu.name == "NVIDIA L4")
    23034
    """
    return tuple(_shipped().values())


def find_gpu(name: str, *, near_bytes: int | None = None) -> GpuProfile:
    """Finds a GPU model by its NVML name or a unique part of it.

    Args:
        name: "NVIDIA GeForce RTX 3090", "rtx 3090" or "3090"; case and punctuation do not matter.
        near_bytes: About its memory, where that is known: of several models only those of about this size count.

    Returns:
        The shipped profile.

    Raises:
        RequestError: When no model or several match; the message lists the candidates.

    >>> find_gpu("a100 sxm4 40gb").name, find_gpu("3090").name
    ('NVIDIA A100-SXM4-40GB', 'NVIDIA GeForce RTX 3090')
    >>> find_gpu("a100", near_bytes=80 * 2**30).name
    'NVIDIA A100-SXM4-80GB'
    """
    shipped = {
        full: gpu
        for full, gpu in _shipped().items()
        if near_bytes is None or abs(gpu.total_bytes - near_bytes) <= SIZE_TOLERANCE * gpu.total_bytes
    }
    asked = _words(name)
    if not asked:
        raise RequestError("GPU name is empty", [_remedy(list(shipped))])
    same = [gpu for gpu in shipped.values() if _words(gpu.name) == asked]
    near = same or [gpu for gpu in shipped.values() if set(asked) <= set(_words(gpu.name))]
    # "rtx 3090" fits "RTX 3090" and "RTX 3090 Ti": the name with only a brand besides the given words wins.
    exact = [gpu for gpu in near if set(_words(gpu.name)) - set(asked) <= _BRANDS]
    chosen = exact if len(exact) == 1 else near
    if len(chosen) == 1:
        return chosen[0]
    if chosen and len({(gpu.total_bytes, gpu.sm) for gpu in chosen}) == 1:
        return chosen[0]  # for example H200 and H200 NVL: same size, same kernels
    if chosen:
        raise RequestError(
            f"GPU {name!r} could be any of {len(chosen)} models", [", ".join(gpu.name for gpu in chosen)]
        )
    raise RequestError(f"GPU {name!r} is unknown{_did_you_mean(name, list(shipped))}", [_remedy(list(shipped))])


def gpu_of_size(size: str | int) -> GpuProfile:
    """Returns a profile of a card that is known only by its memory, for example a MIG slice.

    Args:
        size: Text such as "24GiB", or bytes.

    Raises:
        RequestError: When the text is not a size, or the card is too small for a CUDA context.

    >>> gpu_of_size("24GiB").name
    'GPU with 24.0 GiB'
    """
    try:
        total_bytes = parse_bytes(size) if isinstance(size, str) else size
    except ValueError as error:
        raise RequestError(f"GPU memory: {error}") from None
    data = _data()
    context_bytes = max(data.context_mib.values()) * MIB
    if total_bytes <= context_bytes + RESERVE_BYTES:
        raise RequestError(
            f"GPU memory must be more than {format_bytes(context_bytes + RESERVE_BYTES)} (CUDA context and reserve),"
            f" but is {format_bytes(total_bytes)}"
        )
    return GpuProfile(
        name=f"GPU with {format_bytes(total_bytes)}",
        total_bytes=total_bytes,
        sm=GENERIC_SM,
        context_bytes=context_bytes,
        workspace_bytes=BLAS_HANDLES * LARGE_WORKSPACE_BYTES,
        total_source="given by the caller",
        context_source=f"{data.context_source}; the largest of all grades, as the model is not named",
        workspace_source=f"{data.workspace_source}; the larger of the two, as the model is not named",
    )


def blas_workspace_bytes(sm: tuple[int, int]) -> int:
    """Returns the bytes of one cuBLAS workspace, which torch allocates from its own pool.

    Source: torch's aten/src/ATen/cuda/CublasHandlePool.cpp (":4096:2:16:8" before Hopper, 32 MiB from Hopper on).

    >>> blas_workspace_bytes((8, 6)), blas_workspace_bytes((9, 0))
    (8519680, 33554432)
    """
    return LARGE_WORKSPACE_BYTES if sm[0] >= 9 else SMALL_WORKSPACE_BYTES


def record_measured(path: Path, profile: GpuProfile, *, torch_version: str) -> None:
    """Appends a measured profile to a node's or a team's ledger of profiles.

    Args:
        path: A JSON-lines file; later lines replace earlier ones.
        profile: A profile whose sources have place and date of the measurement.
        torch_version: Version of torch, as the context differs between builds.
    """
    append_jsonl(path, {**dataclasses.asdict(profile), "sm": list(profile.sm), "torch": torch_version})


def with_measured(profile: GpuProfile, path: Path, *, torch_version: str) -> GpuProfile:
    """Returns the last measured profile of the same GPU model and torch build, or the given one.

    Skips torn or incomplete lines.
    """
    records, _ = read_jsonl(path)
    for record in reversed(records):
        if (record.get("name"), record.get("torch")) == (profile.name, torch_version):
            context, workspace = record.get("context_bytes"), record.get("workspace_bytes")
            if isinstance(context, int) and isinstance(workspace, int) and context > 0 and workspace > 0:
                return dataclasses.replace(
                    profile,
                    context_bytes=context,
                    workspace_bytes=workspace,
                    context_source=str(record.get("context_source", path)),
                    workspace_source=str(record.get("workspace_source", path)),
                )
    return profile


def measure(shipped: GpuProfile, used_bytes: Callable[[], int], *, where: str) -> GpuProfile:
    """Measures context and workspace of this process's first GPU. Call it in a fresh process, before any CUDA call.

    Args:
        shipped: The model's shipped profile.
        used_bytes: Returns the bytes in use on the device (from NVML); no other process may start or stop meanwhile.
        where: Host and date, stored as the source.

    Returns:
        The profile with the measured context and workspace.

    Raises:
        RequestError: When there is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise RequestError("no CUDA device here: context and workspace can be measured on a GPU only")
    before_bytes = used_bytes()
    ones = torch.ones(64, 64, device="cuda", requires_grad=True)
    torch.nn.functional.linear(ones @ ones, ones, ones[0]).sum().backward()  # type: ignore[no-untyped-call]
    half = ones.detach().bfloat16()
    torch.nn.functional.linear(half @ half, half, half[0])
    torch.nn.functional.scaled_dot_product_attention(half[None, None], half[None, None], half[None, None])
    torch.cuda.synchronize()
    held_bytes = used_bytes() - before_bytes
    del ones, half
    return dataclasses.replace(
        shipped,
        context_bytes=held_bytes - torch.cuda.memory_reserved(),
        workspace_bytes=torch.cuda.memory_allocated(),
        context_source=f"measured {where}",
        workspace_source=f"measured {where}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Data:
    gpus: tuple[tuple[str, int, str, str, str], ...]
    context_mib: dict[str, int]
    context_source: str
    workspace_source: str


@cache
def _data() -> _Data:
    raw = json.loads(_DATA.read_text(encoding="utf-8"))
    return _Data(
        gpus=tuple((str(g[0]), int(g[1]), str(g[2]), str(g[3]), str(g[4])) for g in raw["gpus"]),
        context_mib={str(grade): int(mib) for grade, mib in raw["context_mib"].items()},
        context_source=str(raw["context_source"]),
        workspace_source=str(raw["workspace_source"]),
    )


@cache
def _shipped() -> dict[str, GpuProfile]:
    data = _data()
    profiles: dict[str, GpuProfile] = {}
    for name, total_mib, sm_text, grade, total_source in data.gpus:
        major, minor = sm_text.split(".")
        sm = (int(major), int(minor))
        profiles[name] = GpuProfile(
            name=name,
            total_bytes=total_mib * MIB,
            sm=sm,
            context_bytes=data.context_mib[grade] * MIB,
            workspace_bytes=BLAS_HANDLES * blas_workspace_bytes(sm),
            total_source=total_source,
            context_source=data.context_source,
            workspace_source=data.workspace_source,
        )
    return profiles


_BRANDS = {"nvidia", "geforce", "tesla", "rtx", "gtx", "generation", "titan"}


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    short = {" ".join(word for word in _words(full) if word not in _BRANDS): full for full in names}
    hint = nearest(" ".join(word for word in _words(name) if word not in _BRANDS), list(short))
    for text, full in short.items():
        hint = hint.replace(repr(text), repr(full))
    return hint


def _remedy(names: Sequence[str]) -> str:
    return f"known: {', '.join(names)}; any other card: give its memory, for example --gpu-memory 24GiB"
