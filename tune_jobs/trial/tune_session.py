"""What a trial's process asks of Ray and Tune: report, the last checkpoint, and where it runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import tune

from cluster.machines.hardware import GPU_MODEL_LABEL
from tune_jobs.records.trial_spec import REPORT_KEY


def report(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
    """Reports to the driver; raises SystemExit when the attempt should end here.

    All metrics are one text: Tune's driver keeps 2 kB of statistics for every number of every trial (Ray 2.60).
    """
    saved = tune.Checkpoint.from_directory(str(checkpoint)) if checkpoint is not None else None
    tune.report({REPORT_KEY: json.dumps(dict(metrics))}, checkpoint=saved)


def last_checkpoint() -> Path | None:
    """Returns the last checkpoint that this attempt has in the sweep's storage, None before the first."""
    checkpoint = tune.get_checkpoint()
    return None if checkpoint is None else Path(checkpoint.path)


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a trial's process runs.

    Attributes:
        address: Of the host.
        node: Ray's node id; one host may carry several.
        card: Number of its card there; None without one. Of a trial on several cards, that of its first process.
        gpu_model: The node's label; None without one.
        gpus: The share that Ray granted; of a trial on several cards, what its first process got.
    """

    address: str
    node: str
    card: str | None
    gpu_model: str | None
    gpus: float


def location() -> Location:
    """Asks Ray where this process runs and what it was granted."""
    context = ray.get_runtime_context()
    cards = [str(card) for card in ray.get_gpu_ids()]
    return Location(
        address=ray.util.get_node_ip_address(),
        node=str(context.get_node_id()),
        gpu_model=context.get_node_labels().get(GPU_MODEL_LABEL),
        card=",".join(cards) or None,
        gpus=float(context.get_assigned_resources().get("GPU", 0.0)),
    )
