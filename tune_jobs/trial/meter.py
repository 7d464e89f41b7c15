"""A trial's numbers for Prometheus, set in its own process on the node that it runs on."""

from collections.abc import Mapping

from cluster.machines.metrics import Meter
from tune_jobs.records.trial_spec import TrialSpec


class TrialMeter:
    """The numbers of one trial, set in its own process, on the node that it runs on.

    Args:
        meter: Sets metrics.
        spec: The trial; its bundle is what it was granted.
        node: Address of the host.
        card: Number of the card there; empty where it runs without one.
    """

    def __init__(self, meter: Meter, spec: TrialSpec, node: str, card: str) -> None:
        self._meter, self._spec = meter, spec
        self._tags = {"sweep": spec.sweep, "trial": spec.name, "node": node, "card": card}
        estimated = spec.estimate.get("upper_bytes", 0.0)
        self._gauge("share", spec.bundle.gpus)
        self._gauge("estimated_bytes", float(estimated) if isinstance(estimated, (int, float)) else 0.0)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers of a step: what the process holds at most, and how fast it learns."""
        held_bytes = metrics.get("trial/held_bytes", metrics.get("memory/reserved_bytes"))
        if held_bytes is not None:
            self._gauge("measured_bytes", held_bytes)
        if "train/tokens_per_second" in metrics:
            self._gauge("tokens_per_second", metrics["train/tokens_per_second"])

    def out_of_memory(self) -> None:
        """Counts an attempt that outgrew its share."""
        self._meter.count("tuning_out_of_memory", 1.0, **self._tags)

    def close(self) -> None:
        """The trial holds nothing any more; its process, which continues to export, may serve another trial."""
        for name in ("share", "estimated_bytes", "measured_bytes", "tokens_per_second"):
            self._gauge(name, 0.0)

    def _gauge(self, name: str, value: float) -> None:
        self._meter.gauge(f"tuning_trial_{name}", value, **self._tags)
