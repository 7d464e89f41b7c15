"""python -m tune_jobs profile: measures one real step and one generation, and compares them with the estimate."""

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import guard
from cluster.estimator.calibration import Peak, load_calibration, record_peak
from cluster.estimator.estimate import Estimator, MemoryEstimate
from cluster.estimator.request import MemoryRequest
from cluster.machines import nvml
from tune_jobs.commands.estimate_cli import CALIBRATION_FILE, add_run_flags, run_config
from tune_jobs.placing.memory_requests import facts_of, request_of
from tune_jobs.placing.memory_templates import template_finder
from tuning_common import cli
from tuning_common.errors import WorkError
from tuning_common.units import format_bytes

if TYPE_CHECKING:
    from tune_jobs.placing.profile_run import Measured

CANNOT_ON_CPU = (
    "on a CPU there is no GPU memory to measure: bytes allocated, reserved and held on the device are estimates only",
    "times are of this CPU, not of a GPU, and nothing is written to the calibration",
)
_TRAINING = ("data", "forward", "backward", "optimizer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Runs one training step, one evaluation batch and one generation batch with random weights and"
        " the longest texts on the device at hand; shows memory and time by phase beside the estimate, and writes the"
        " peak to the calibration. On a CPU it measures times only."
    )
    parser.epilog = "example: python -m tune_jobs profile --model kobart --batch-size 8 --precision bf16"
    add_run_flags(parser)
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", default=CALIBRATION_FILE,
        help="ledger that receives the measured peak (default: %(default)s)",
    )  # fmt: skip
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Measures and prints.

    Raises:
        RequestError: When the run is invalid.
        WorkError: When the device has not enough memory.
    """
    config = run_config(chosen)
    os.environ.update(guard.environment(os.environ))  # as a trial's process: before torch starts CUDA
    import torch

    from dialsum.device import precision_of
    from tune_jobs.placing.profile_run import card_here, measure_run

    facts = facts_of(config, untied=chosen.untied)
    gpu = card_here(torch.cuda.get_device_name() if torch.cuda.is_available() else None)
    config = config.with_changes({"precision": precision_of(config.precision, facts.family)})
    request = request_of(config, gpu, model=facts)
    estimator = Estimator(template_finder(cli.note), load_calibration(chosen.calibration))
    found = estimator.estimate(request)
    measured = measure_run(config, request, show=lambda phase: cli.note(f"measuring: {phase} ..."))
    device_bytes = nvml.process_bytes(os.getpid()) if measured.reserved_bytes is not None else None
    recorded = _record(chosen.calibration, request, found, measured, device_bytes)
    cli.answer(
        chosen.format,
        _json(request, found, measured, device_bytes, recorded),
        _text(request, found, measured, device_bytes, recorded, chosen.calibration),
    )
    if not measured.fits:
        raise WorkError(f"{measured.device} has not enough memory; the estimate is {format_bytes(found.device_bytes)}")
    return 0


def _record(
    calibration: Path, request: MemoryRequest, found: MemoryEstimate, measured: "Measured", device_bytes: int | None
) -> bool:
    """Writes the peak if it was measured; returns whether it was."""
    if device_bytes is None:
        return False
    record_peak(
        calibration,
        Peak(
            family=request.model.family,
            gpu=request.gpu.name,
            precision=request.precision,
            torch_version=version("torch"),
            predicted_device_bytes=found.device_bytes,
            measured_device_bytes=device_bytes,
            outgrew=not measured.fits,
        ),
    )
    return True


def _pairs(found: MemoryEstimate, measured: "Measured", device_bytes: int | None) -> list[tuple[str, int, int | None]]:
    """Returns (name, estimated bytes, measured bytes) of each common value."""
    return [
        ("train_allocated_bytes", found.train_allocated_bytes, measured.train_allocated_bytes),
        ("train_reserved_bytes", found.train_reserved_bytes, measured.train_reserved_bytes),
        ("generate_allocated_bytes", found.generate_allocated_bytes, measured.generate_allocated_bytes),
        ("device_bytes", found.device_bytes, device_bytes),
    ]


def _json(
    request: MemoryRequest, found: MemoryEstimate, measured: "Measured", device_bytes: int | None, recorded: bool
) -> dict[str, object]:
    return {
        "model": request.model.name,
        "device": measured.device,
        "precision": request.precision,
        "micro_batch": request.micro_batch,
        "memory": {
            name: {"estimated": estimated, "measured": measured_bytes, "error": _error(estimated, measured_bytes)}
            for name, estimated, measured_bytes in _pairs(found, measured, device_bytes)
        },
        "upper_bytes": found.upper_bytes,
        "time_s": {phase.name: round(phase.seconds, 6) for phase in measured.phases},
        "phase_allocated_bytes": {phase.name: phase.allocated_bytes for phase in measured.phases},
        "host_rss_bytes": measured.host_rss_bytes,
        "fits": measured.fits,
        "recorded": recorded,
        "not_measured": list(_not_measured(measured, device_bytes)),
    }


def _error(estimated: int, measured_bytes: int | None) -> float | None:
    return None if not measured_bytes else round(estimated / measured_bytes - 1, 6)


def _text(
    request: MemoryRequest,
    found: MemoryEstimate,
    measured: "Measured",
    device_bytes: int | None,
    recorded: bool,
    calibration: Path,
) -> str:
    pieces = request.gradient_accumulation_steps
    head = f"{request.model.name} on {measured.device}: batch {request.micro_batch} x {pieces}, {request.precision}"
    total_s = sum(phase.seconds for phase in measured.phases if phase.name in _TRAINING)
    times = cli.table(
        ["phase", "seconds", "of the step", "peak"],
        [
            (
                phase.name,
                f"{phase.seconds:.4f}",
                f"{phase.seconds / total_s:.0%}" if phase.name in _TRAINING and total_s else "",
                "not measured" if phase.allocated_bytes is None else format_bytes(phase.allocated_bytes),
            )
            for phase in measured.phases
        ],
    )
    memory = cli.table(
        ["memory", "estimate", "measured", "error"],
        [
            (name.removesuffix("_bytes"), format_bytes(estimated), *_measured_cells(estimated, measured_bytes))
            for name, estimated, measured_bytes in _pairs(found, measured, device_bytes)
        ],
    )
    notes = [
        *_not_measured(measured, device_bytes),
        f"host memory: {format_bytes(measured.host_rss_bytes)} at its peak",
    ]
    notes += [f"written to {calibration}"] if recorded else []
    return "\n\n".join([head, times, memory, "\n".join(f"note: {text}" for text in notes)])


def _measured_cells(estimated: int, measured_bytes: int | None) -> tuple[str, str]:
    error = _error(estimated, measured_bytes)
    return (
        ("not measured", "")
        if measured_bytes is None or error is None
        else (format_bytes(measured_bytes), f"{error:+.1%}")
    )


def _not_measured(measured: "Measured", device_bytes: int | None) -> Sequence[str]:
    if measured.reserved_bytes is None:
        return CANNOT_ON_CPU
    if device_bytes is None:
        return (
            "the driver does not report what this process holds on the card (a container without the host's process"
            " numbers): context and device bytes are not measured, and nothing is written to the calibration",
        )
    return ()
