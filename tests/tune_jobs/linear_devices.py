"""Devices that stand in for a card: a process holds bytes as a straight line of its micro-batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tune_jobs.records.trial_spec import RunShape, TrialSpec


@dataclass(frozen=True, kw_only=True)
class LinearDevice:
    """A device on which a process holds bytes as a straight line of its micro-batch; nothing caps it from inside.

    Attributes:
        fixed_bytes: Weights, optimizer, context.
        bytes_per_sample: Of the micro-batch.
        micro_batch: Dialogues in one forward pass.
    """

    fixed_bytes: int
    bytes_per_sample: int = 0
    micro_batch: int = 0

    def cap(self, allocator_bytes: int) -> None:
        """Does nothing."""

    def held_bytes(self) -> int:
        """What an outsider sees."""
        return self.fixed_bytes + self.micro_batch * self.bytes_per_sample


@dataclass(frozen=True)
class LinearDevices:
    """Finds the device of a trial by its name; a `device_of` for run_trial and attempt.

    Attributes:
        by_name: Trials with a device; all others have none.
    """

    by_name: Mapping[str, LinearDevice] = field(default_factory=dict)

    def __call__(self, spec: TrialSpec, shape: RunShape) -> LinearDevice | None:
        """Returns the device for a trial in its present shape."""
        device = self.by_name.get(spec.name)
        return None if device is None else replace(device, micro_batch=shape.micro_batch)
