"""What the device at hand can do."""

from typing import Literal

import torch

from common.errors import RequestError
from dialsum.config import Precision


def precision_of(wanted: Precision) -> Literal["fp32", "fp16", "bf16"]:
    """Chooses the number format of a run.

    Args:
        wanted: "auto" takes bf16 where the GPU has it (compute capability 8.0 and above), fp16 on an older GPU and
            fp32 on a CPU.

    Raises:
        RequestError: When a half precision is asked for where it cannot be trained.
    """
    if wanted == "auto":
        if not torch.cuda.is_available():
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise RequestError("precision fp16 needs a CUDA device; on a CPU take fp32, bf16 or auto")
    if wanted == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RequestError(f"precision bf16: {torch.cuda.get_device_name()} has no bf16; take fp16, fp32 or auto")
    return wanted
