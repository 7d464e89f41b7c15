"""Ten experiments for questions that no GPU has confirmed yet: question, runs, and the assumption until then.

Pure; the runs are those of gpu_peak_grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu_peak_grid import Case


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One open question.

    Attributes:
        name: Short.
        decides: The question.
        until_then: The conservative bound of the estimator, with public sources for it.
        quantity: The compared quantity, one of compare_gpu_peaks.QUANTITIES; empty where the grid cannot decide it.
        belongs: Returns whether a run of the grid takes part.
        otherwise: Another test, where the grid cannot decide it.
    """

    name: str
    decides: str
    until_then: str
    quantity: str
    belongs: Callable[[Case], bool]
    otherwise: str = ""


def _never(case: Case) -> bool:
    return False


def _plain(case: Case, model: str, **changes: object) -> bool:
    return case.model == model and all(case.changes.get(name) == value for name, value in changes.items())


EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="expandable segments",
        decides="whether max_memory_reserved follows the allocator on paper, with and without a cap",
        until_then="pages of 20 MiB are never given back before a failure; publicly 16.4 GiB fell to 10.8 GiB with them"
        " (torchtune issue 1185, QLoRA of an 8B model), which a replay of our own steps cannot repeat",
        quantity="train_reserved_bytes",
        belongs=lambda case: case.allocator == "expandable",
    ),
    Experiment(
        name="context of each GPU model",
        decides="what is outside torch's allocator: 450 MiB on consumer cards, 550 on workstation ones, 650 on others",
        until_then="the top of what is reported; a bare context alone is 256 MiB on an RTX 3090 (torch 2.7, InvokeAI"
        " issue 9413) and 426 MiB on an RTX 6000 Ada (torch 2.10, unsloth-zoo pull 1053), without cuBLAS and cuDNN",
        quantity="device_bytes",
        belongs=lambda case: True,
        otherwise="python -m cluster profile",
    ),
    Experiment(
        name="T5 with a learned bias",
        decides="which kernel SDPA takes for a mask that needs a gradient, and what its backward pass holds",
        until_then="the memory-efficient kernel, with the mask and its gradient at full size",
        quantity="train_allocated_bytes",
        belongs=lambda case: case.model in ("t5-base", "mt5") and case.changes.get("attention") != "eager",
    ),
    Experiment(
        name="bf16 autocast with fused AdamW",
        decides="the cast copies of weights, the fp32 copy of the logits and the fused optimizer's temporaries",
        until_then="casts as in autocast_mode.h, no temporaries; an old fp16 trainer is within 4 %, bf16 weights with"
        " fused AdamW are within 0.2 % (external_peaks.md)",
        quantity="train_allocated_bytes",
        belongs=lambda case: _plain(case, "kobart", precision="bf16", attention=None),
    ),
    Experiment(
        name="cuDNN attention by wheel",
        decides="whether sm90 takes cuDNN's kernel (cuDNN above 9.15 in the wheel), and its workspace",
        until_then="cuDNN from 9.0 on where dropout allows it, its workspace not counted; for BART a trace differs by"
        " 0.1 % from the memory-efficient kernel",
        quantity="train_allocated_bytes",
        belongs=lambda case: _plain(case, "kobart", dropout=0.0),
        otherwise="both wheels (cu126 and cu130) on one Hopper card",
    ),
    Experiment(
        name="generation with beams",
        decides="reordered caches, fp32 scores and top-k of a beam search",
        until_then="traced as transformers runs it on meta tensors; greedy generation of Pythia-410m was 2 % over",
        quantity="generate_allocated_bytes",
        belongs=lambda case: case.changes.get("num_beams") == 4,
    ),
    Experiment(
        name="DDP and NCCL",
        decides="the buckets of DDP and what NCCL holds",
        until_then="one more copy of all gradients and 512 MiB",
        quantity="",
        belongs=_never,
        otherwise="two GPUs: a run of KoBART with --nproc-per-node 2",
    ),
    Experiment(
        name="FSDP",
        decides="the parts and what is gathered at once",
        until_then="bounded: parts of all states, three layers gathered, 512 MiB for NCCL",
        quantity="",
        belongs=_never,
        otherwise="two GPUs: sharded_peaks.md on them",
    ),
    Experiment(
        name="torch.compile",
        decides="whether a compiled step ever holds more than the eager one",
        until_then="15 % more than the eager step",
        quantity="",
        belongs=_never,
        otherwise="one run of KoBART with torch_compile: true",
    ),
    Experiment(
        name="batches without padding",
        decides="branches that ask for values (is any token masked?), which the tracer answers with the larger case",
        until_then="every batch is padded",
        quantity="",
        belongs=_never,
        otherwise="no GPU: the same step on real CPU tensors with and without padding",
    ),
)
