"""Replays programs with published measurements, in a separate process that may use an older transformers.

`python -m benchmarks.external_replay` reads runs as JSON from standard input and writes their bytes to standard output.
"""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict

import torch

from benchmarks import external_book, external_liger, external_lora, external_programs
from benchmarks.external_runs import Answer, Row, Run
from cluster.estimator.allocator import CachingAllocator
from cluster.estimator.cuda_imitation import kernel_family
from cluster.estimator.gpu_profile import MIB, blas_workspace_bytes
from cluster.estimator.template import EventLog
from cluster.estimator.trace import Program, trace_program
from tuning_common import cli

PROGRAMS: dict[str, Callable[[Row], Program]] = {
    made.__name__: made
    for made in (
        external_programs.SumOfLogits, external_programs.ForwardPass, external_programs.GreedyGeneration,
        external_programs.OldTrainer, external_liger.CrossEntropy, external_liger.LinearCrossEntropy,
        external_liger.KlDivergence, external_liger.LinearJensenShannon, external_liger.LlamaMlp,
        external_lora.AdamWTrainer, external_lora.LitGptLora, external_book.BookGpt,
    )
}  # fmt: skip


def replayed(run: Run) -> Answer:
    """Replays one run through torch's native allocator, from the first allocation on."""
    program = PROGRAMS[run.program](run.row)
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in program.build(nullcontext).parameters())
        log = trace_program(program, family=kernel_family(run.sm), precision=run.precision)
    except (ValueError, RuntimeError, AttributeError, TypeError, KeyError, ImportError) as error:
        problem = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"  # of another version of the library
        return Answer(estimate_bytes=None, parameters=0, problem=problem)
    allocator = played(log, workspaces=[blas_workspace_bytes(run.sm)] * run.blas_handles)
    held = allocator.peak_allocated_bytes if run.quantity == "allocated" else allocator.peak_reserved_bytes
    return Answer(estimate_bytes=held + run.context_mib * MIB, parameters=parameters)


def played(log: EventLog, *, workspaces: Sequence[int] = (), expandable: bool = False) -> CachingAllocator:
    """Replays allocations and releases through torch's allocator.

    Args:
        log: The events.
        workspaces: Bytes of cuBLAS workspaces, which are allocated before and never released.
        expandable: Whether expandable_segments is on.
    """
    allocator = CachingAllocator(expandable=expandable)
    for handle, workspace_bytes in enumerate(workspaces):
        allocator.allocate(-1 - handle, workspace_bytes)
    for number, size in zip(log.ids.tolist(), log.sizes.tolist(), strict=True):
        if number < 0:
            allocator.release(-number)
        else:
            allocator.allocate(number, size)
    return allocator


def main() -> int:
    """Replays the runs from standard input and writes one JSON line each."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for stored in json.loads(sys.stdin.read()):
        print(json.dumps(asdict(replayed(Run.from_dict(stored)))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(lambda arguments: main()))
