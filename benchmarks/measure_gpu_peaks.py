"""Measures peaks on a GPU, the reference for the memory estimator; writes one JSON line per run.

`python -m benchmarks.measure_gpu_peaks --time-limit 560` on an otherwise idle GPU: some 100 runs, each two optimizer
steps, a dev batch and a generation with random weights (nothing is downloaded), each model in processes of its own.
Each run is written to the file at once, and the same command continues where it stopped. `--under-caps` holds
each run to the cap that the guard would set: a direct test of "never under". `--device cpu --tiny` tries the protocol;
`--device meta` rehearses it whole without a GPU: runs are traced on meta tensors, the card is what NVML answers.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu_peak_grid import Case, grid
from cluster.estimator.cuda_imitation import kernel_family
from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import GpuProfile, find_gpu, gpu_of_size
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template_requests import settings_of
from cluster.estimator.trace import traced_peaks
from cluster.estimator.workload import Shape
from cluster.machines import nvml
from dialsum.workload import summarizer_workload
from tune_jobs.placing.memory_templates import template_finder
from tune_jobs.placing.profile_run import Measured, measure_run
from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, read_jsonl

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("gpu_peaks.jsonl")
START_S = 25.0  # time of a worker until its first run is done
NO_GPU = "24GiB"  # the assumed card of a test on a CPU


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, default=TABLE, help="receives one line per run (default: %(default)s)")
    made.add_argument("--time-limit", type=float, default=560.0, metavar="SECONDS", help="no run begins after it")
    made.add_argument("--device", choices=("cuda", "cpu", "meta"), default="cuda")
    made.add_argument("--tiny", action="store_true", help="models of a few kilobytes")
    made.add_argument("--only", default="", metavar="MODEL", help="runs of one model")
    made.add_argument("--numbers", default="", metavar="N,N", help="these runs of the grid")
    made.add_argument("--under-caps", action="store_true", help="hold each run to its upper estimate")
    made.add_argument("--worker", default="", help=argparse.SUPPRESS)  # numbers that this process measures
    return made


def chosen_cases(chosen: argparse.Namespace) -> list[Case]:
    """Returns the requested runs that are not measured yet.

    Raises:
        RequestError: When none is left or a number is not in the grid.
    """
    numbers = {int(text) for text in chosen.numbers.split(",") if text.strip()}
    cases = [case for case in grid(tiny=chosen.tiny) if chosen.only in case.model]
    if unknown := numbers - {case.number for case in cases}:
        raise RequestError(f"no such runs: {sorted(unknown)}; there are {len(cases)}, from 0")
    asked = [case for case in cases if not numbers or case.number in numbers]
    records, _ = read_jsonl(chosen.output)
    done = {
        record.get("number")
        for record in records
        if (record.get("under_caps"), record.get("tiny"), record.get("device"))
        == (chosen.under_caps, chosen.tiny, chosen.device)
    }
    return [case for case in asked if case.number not in done]


def main(arguments: Sequence[str]) -> int:
    """Measures in workers, one for each model and allocator.

    Raises:
        RequestError: When there is no GPU, or nothing to measure.
    """
    chosen = parser().parse_args(arguments)
    if chosen.worker:
        return _work(chosen)
    end_s = time.monotonic() + chosen.time_limit
    for (model, allocator), group in groupby(chosen_cases(chosen), key=lambda case: (case.model, case.allocator)):
        left_s = end_s - time.monotonic()
        numbers = ",".join(str(case.number) for case in group)
        if left_s < START_S:
            cli.note(f"no time left for {model} ({allocator}): runs {numbers}; the same command goes on with them")
            continue
        flags = [name for name, on in (("--tiny", chosen.tiny), ("--under-caps", chosen.under_caps)) if on]
        command = [
            sys.executable, "-m", "benchmarks.measure_gpu_peaks", "--worker", numbers, "--output", str(chosen.output),
            "--time-limit", str(left_s), "--device", chosen.device, *flags,
        ]  # fmt: skip
        setting = "expandable_segments:True" if allocator == "expandable" else ""
        environment = os.environ | {"PYTORCH_CUDA_ALLOC_CONF": setting, "PYTORCH_ALLOC_CONF": setting}
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if ended == RequestError.exit_code:
            return ended
        if ended:
            cli.note(f"the worker for {model} ({allocator}) died with code {ended}")
    return 0


def _work(chosen: argparse.Namespace) -> int:
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("no CUDA device here", ["--device cpu --tiny tries the protocol; it measures no memory"])
    end_s = time.monotonic() + chosen.time_limit
    meter = _Card(chosen.device)
    numbers = {int(text) for text in chosen.worker.split(",")}
    for case in (case for case in grid(tiny=chosen.tiny) if case.number in numbers):
        if time.monotonic() > end_s:
            cli.note(f"no time left for run {case.number}")
            continue
        record = _measured(case, meter, under_caps=chosen.under_caps)
        append_jsonl(chosen.output, record)
        cli.note(f"{case.number:3} {case.model} {case.allocator} {json.dumps(dict(case.changes))}: {record['status']}")
    return 0


class _Card:
    """The first visible GPU; on meta the first card of NVML; on the CPU none."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device == "cuda"
        self._idle_bytes = self.used_bytes() or 0  # before this process uses the card

    @property
    def profile(self) -> GpuProfile:
        if self.total_bytes is None:
            return gpu_of_size(NO_GPU)
        try:
            return find_gpu(self.name)
        except RequestError:  # a model that is not in the table: use its size
            return gpu_of_size(self.total_bytes)

    @property
    def name(self) -> str:
        if self.device == "meta":
            return self._of_nvml().name
        return str(self._properties().name) if self.cuda else "CPU"

    @property
    def total_bytes(self) -> int | None:
        if self.device == "meta":
            return self._of_nvml().card.total_bytes
        return int(self._properties().total_memory) if self.cuda else None

    def used_bytes(self) -> int | None:
        """Bytes in use on the whole card; None where NVML does not answer."""
        cards = nvml.read().cards if self.device != "cpu" else ()
        return cards[0].used_bytes if cards else None

    @staticmethod
    def _of_nvml() -> nvml.CardReading:
        cards = nvml.read().cards
        if not cards:
            raise RequestError("no card here that NVML names", ["--device cpu --tiny tries the protocol without one"])
        return cards[0]

    def outside_bytes(self) -> int | None:
        """Returns the bytes of this process outside torch's allocator."""
        import torch

        used = self.used_bytes()
        reserved = torch.cuda.memory_reserved() if self.cuda else 0
        return None if used is None else used - self._idle_bytes - reserved

    @staticmethod
    def _properties() -> "torch.cuda._CudaDeviceProperties":
        import torch

        return torch.cuda.get_device_properties(0)


def _measured(case: Case, card: _Card, *, under_caps: bool) -> dict[str, object]:
    import torch

    record: dict[str, object] = {
        **dataclasses.asdict(case), "under_caps": under_caps, "device": card.device, "gpu": card.name,
        "gpu_total_bytes": card.total_bytes, "torch": version("torch"), "transformers": version("transformers"),
        "cuda": torch.version.cuda,
    }  # fmt: skip
    request = case.request(card.profile)
    if under_caps:
        record["cap_bytes"] = _set_cap(case, card)
    try:
        seen = _traced(request) if card.device == "meta" else measure_run(case.config, request)
    except (RequestError, RuntimeError) as error:  # continue with the other runs
        return record | {"status": "error", "error": f"{type(error).__name__}: {str(error)[:300]}"}
    outside, reserved = card.outside_bytes(), seen.reserved_bytes
    record |= {
        "status": "ok" if seen.fits else "oom",
        "train_allocated_bytes": seen.train_allocated_bytes,
        "train_reserved_bytes": seen.train_reserved_bytes,
        "generate_allocated_bytes": seen.generate_allocated_bytes,
        "reserved_bytes": reserved,
        "outside_bytes": outside,
        "device_bytes": reserved + outside if reserved is not None and outside is not None else None,
        "seconds": {phase.name: round(phase.seconds, 4) for phase in seen.phases},
    }
    if card.cuda:
        torch.cuda.empty_cache()
    return record


def _traced(request: MemoryRequest) -> Measured:
    """Replaces a measurement in a rehearsal: counts the same step, evaluation and generation on meta tensors."""
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    encoder_len, decoder_len = request.padded_lengths
    train = Shape(batch=request.micro_batch, encoder_len=encoder_len, decoder_len=decoder_len)
    generated = Shape(
        batch=request.generation_batch_size, encoder_len=request.encoder_max_len, decoder_len=request.new_tokens,
        beams=request.num_beams,
    )  # fmt: skip
    pieces = min(2, request.gradient_accumulation_steps)
    peaks = traced_peaks(workload, train, family=kernel_family(request.gpu.sm), micro_steps=pieces, generated=generated)
    blas_bytes = request.gpu.workspace_bytes
    return Measured(
        device="meta",
        phases=(),
        train_allocated_bytes=peaks.train + blas_bytes,
        train_reserved_bytes=peaks.train + blas_bytes,
        generate_allocated_bytes=peaks.generate + blas_bytes,
        reserved_bytes=max(peaks.train, peaks.generate) + blas_bytes,
        host_rss_bytes=0,
    )


def _set_cap(case: Case, card: _Card) -> int:
    """Caps torch's allocator at the upper estimate minus the bytes outside of it, as the guard does; returns it."""
    import torch

    found = Estimator(template_finder(cli.note)).estimate(case.request(card.profile))
    cap_bytes = found.upper_bytes - found.context_bytes
    if card.cuda and card.total_bytes is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / card.total_bytes))
    return cap_bytes


if __name__ == "__main__":
    sys.exit(cli.run(main))
