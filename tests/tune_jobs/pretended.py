"""Cards of which a test says how much a trial holds: put in place of real ones by `device_of` (see trial/hold.py)."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.guard import HostDevice
from tune_jobs.records.trial_spec import RunShape, TrialSpec

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class PretendedUse:
    """What a process holds.

    Attributes:
        fixed_bytes: With any micro-batch.
        bytes_per_sample: For each dialogue in the micro-batch.
    """

    fixed_bytes: int
    bytes_per_sample: int = 0


@dataclass(frozen=True)
class PretendedDevices:
    """Finds the device of a trial; it can be sent to other processes.

    Attributes:
        uses: By the trial's name; a trial that is not named has no device.
    """

    uses: Mapping[str, PretendedUse]

    def __call__(self, spec: TrialSpec, shape: RunShape) -> HostDevice | None:
        """Returns the device of one process."""
        use = self.uses.get(spec.name)
        if use is None:
            return None
        held_bytes = use.fixed_bytes + shape.micro_batch * use.bytes_per_sample
        return HostDevice(meter=lambda: held_bytes)
