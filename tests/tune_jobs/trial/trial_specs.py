"""Specifications of trials that a test makes by hand, and devices that stand in for a card."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.records.trial_spec import Bundle, RunShape, TrialSpec

METRIC = "eval/rouge_combined_f1"


def spec_of(sweep_folder: Path, name: str, config: RunConfig | None = None, **changes: object) -> TrialSpec:
    """The first trial of a sweep, on one CPU, with its batch in one piece.

    Args:
        sweep_folder: Experiments and caches lie in it, too.
        name: The experiment.
        config: The default one where None.
        changes: Fields of the specification.
    """
    config = config or RunConfig()
    spec = TrialSpec(
        number=1,
        name=name,
        sweep="sample",
        sampled={},
        config=config.to_dict(),
        folder=str(sweep_folder / "experiments" / name),
        sweep_folder=str(sweep_folder),
        cache_dir=str(sweep_folder / "cache"),
        metric=METRIC,
        bundle=Bundle(cpus=1),
        shape=RunShape(micro_batch=config.batch_size, accumulation=1),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


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
