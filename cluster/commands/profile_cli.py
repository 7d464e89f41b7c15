"""python -m cluster profile: measures what a process holds on this machine's GPU beside its tensors."""

import argparse
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

from cluster.estimator.gpu_profile import (
    PROFILES_FILE,
    GpuProfile,
    find_gpu,
    gpu_of_size,
    measure,
    record_measured,
    with_measured,
)
from cluster.machines import nvml
from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.units import format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Measures what a torch process holds on the first visible GPU before any tensor: the CUDA context"
        " with its libraries, and cuBLAS's workspaces. Later estimates use the measured values. No other"
        " process may start or stop on the card meanwhile."
    )
    parser.epilog = "example: CUDA_VISIBLE_DEVICES=1 python -m cluster profile"
    parser.add_argument(
        "--profiles", type=Path, metavar="FILE", default=PROFILES_FILE,
        help="ledger that receives the measurement (default: %(default)s)",
    )  # fmt: skip
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and records.

    Raises:
        RequestError: When there is no GPU here.
    """
    reading = _card()
    assumed = _profile(reading)
    torch_version = version("torch")

    def used_bytes() -> int:
        return _card(reading.card.uuid).used_bytes

    where = f"on {platform.node()}, {date.today().isoformat()}, torch {torch_version}"
    found = measure(assumed, used_bytes, where=where)
    record_measured(chosen.profiles, found, torch_version=torch_version)
    kept = with_measured(assumed, chosen.profiles, torch_version=torch_version)
    if chosen.format == "json":
        cli.emit_json(
            {
                "gpu": kept.name,
                "torch": torch_version,
                "context_bytes": kept.context_bytes,
                "workspace_bytes": kept.workspace_bytes,
                "assumed_context_bytes": assumed.context_bytes,
                "assumed_workspace_bytes": assumed.workspace_bytes,
                "profiles": str(chosen.profiles),
            }
        )
        return 0
    rows = [
        ("context", format_bytes(kept.context_bytes), format_bytes(assumed.context_bytes)),
        ("workspace", format_bytes(kept.workspace_bytes), format_bytes(assumed.workspace_bytes)),
    ]
    cli.emit(f"{kept.name}, torch {torch_version}\n\n{cli.table(['', 'measured', 'assumed before'], rows)}\n")
    cli.emit(f"written to {chosen.profiles}; estimates for this model and torch build take it from there")
    return 0


def _card(uuid: str = "") -> nvml.CardReading:
    """Returns the first card that CUDA would use, or the one with this UUID."""
    reading = nvml.read()
    if reading.unavailable is not None:
        raise RequestError(
            "no GPU here, so nothing can be measured; estimates go on with what is assumed, and say so",
            [f"{reading.unavailable.value} {reading.detail}".strip()],
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    for card in reading.cards:
        named = uuid or ("" if visible.isdecimal() else visible)
        if (named and card.card.uuid.startswith(named)) or (not named and str(card.card.index) == visible):
            return card
    raise RequestError(f"CUDA_VISIBLE_DEVICES={visible}: no such card; there are {len(reading.cards)}")


def _profile(reading: nvml.CardReading) -> GpuProfile:
    try:
        return find_gpu(reading.name)
    except RequestError:  # a model that is not in the table, or a slice
        return gpu_of_size(reading.card.total_bytes)
