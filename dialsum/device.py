"""Abilities and memory of the device of this process."""

import gc
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from dialsum.config import Precision
from tuning_common.errors import RequestError

NumberFormat = Literal["fp32", "fp16", "bf16", "bf16_pure"]

logger = logging.getLogger(__name__)
OVERFLOWS_IN_FP16 = ("t5", "mt5")  # trained in bf16: activations of their feed-forward layers exceed 65,504


def precision_of(wanted: Precision, architecture: str) -> NumberFormat:
    """Returns the number format of a run.

    Args:
        wanted: "auto" takes bf16 where the GPU has it (compute capability 8.0 and above); on an older GPU fp16, but
            fp32 for T5 and mT5, whose loss becomes NaN in fp16; and fp32 on a CPU.
        architecture: bart, gpt2, t5, mt5 or another model type.

    Raises:
        RequestError: When the device cannot train in the requested precision.
    """
    if wanted == "auto":
        if not torch.cuda.is_available():
            return "fp32"
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp32" if architecture in OVERFLOWS_IN_FP16 else "fp16"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise RequestError("precision fp16 needs a CUDA device; on a CPU take fp32, bf16 or auto")
    half = wanted in ("bf16", "bf16_pure")
    if half and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RequestError(f"precision {wanted}: {torch.cuda.get_device_name()} has no bf16; take fp16, fp32 or auto")
    return wanted


def weights_dtype(precision: Precision, *, frozen: bool = False) -> torch.dtype:
    """Returns the format of weights: that of the computation in bf16_pure and where frozen; else fp32.

    Trained weights in fp32 keep small updates.

    >>> weights_dtype("bf16"), weights_dtype("bf16_pure"), weights_dtype("bf16", frozen=True)
    (torch.float32, torch.bfloat16, torch.bfloat16)
    """
    if precision == "bf16_pure" or (frozen and precision == "bf16"):
        return torch.bfloat16
    return torch.float16 if frozen and precision == "fp16" else torch.float32


def autocast(precision: NumberFormat) -> AbstractContextManager[object]:
    """Returns a context in which a model computes in a number format, as in training and its evaluations."""
    if precision in ("fp32", "bf16_pure"):  # computed in the format of the weights
        return nullcontext()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def forget_earlier_runs() -> None:
    """Frees GPU memory of an earlier run of this process and resets the measured peaks."""
    gc.collect()  # trainer and model refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def allowed_bytes() -> int | None:
    """Returns the bytes that this process may reserve on its GPU (the card, or the guard's limit); None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[1] * torch.cuda.get_per_process_memory_fraction())


def gpu_utilization() -> float | None:
    """Returns the GPU utilization in percent; None where the driver does not report it (MIG)."""
    try:
        return float(torch.cuda.utilization())
    except Exception as error:  # NVML's own classes, which this package does not import
        logger.debug("no GPU utilization: %s", error)
        return None
