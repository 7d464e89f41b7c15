"""Measures a training step with torch's MemTracker, a baseline of estimator_heldout.py, in a separate process.

`python -m benchmarks.memtracker_baseline '{"model": "kobart", "batch": 8, "encoder_len": 512, "decoder_len": 128,
"precision": "fp32"}'` prints the peak in bytes over two optimizer steps on fake CPU tensors: MemTracker follows real
dispatch, and on a machine without CUDA that is the CPU's.
"""

import json
import logging
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from cluster.estimator.workload import Shape
from dialsum.config import Precision
from dialsum.models import SPECS
from dialsum.workload import summarizer_workload
from tune_jobs.placing.memory_requests import values_of


def tracked_peak_bytes(model: str, shape: Shape, precision: Precision) -> int:
    """Returns the peak that MemTracker counts for the second of two optimizer steps."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=half) if half is not None else nullcontext()

    workload = summarizer_workload(model_config=values_of(SPECS[model]), precision=precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        built = workload.build_model(autocast, nullcontext)
        optimizer = workload.build_optimizer(built)
        tracker = MemTracker()
        tracker.track_external(built, optimizer)
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()
                batch = workload.batch(shape)
                workload.loss(built, batch).backward()  # type: ignore[no-untyped-call]
                workload.optimizer_step(built, optimizer)
                optimizer.zero_grad()
        snapshot = tracker.get_tracker_snapshot("peak")
    return sum(int(by_kind["Total"]) for by_kind in snapshot.values())


def main() -> None:
    """Reads the case from the command line."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    case = json.loads(sys.argv[1])
    shape = Shape(batch=case["batch"], encoder_len=case["encoder_len"], decoder_len=case["decoder_len"])
    print(tracked_peak_bytes(case["model"], shape, case["precision"]))


if __name__ == "__main__":
    main()
