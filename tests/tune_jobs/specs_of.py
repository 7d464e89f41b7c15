"""Specifications of trials that a test makes by hand: it names what matters to it."""

from dataclasses import replace
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.records.trial_spec import Bundle, RunShape, TrialSpec

METRIC = "eval/rouge_combined_f1"


def spec_of(sweep_folder: Path, name: str, config: RunConfig | None = None, **changes: object) -> TrialSpec:
    """Returns the first trial of a sweep, on one CPU, with its batch in one piece.

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
        bundle=Bundle(cpus=1),
        sampled={},
        config=config.to_dict(),
        shape=RunShape(micro_batch=config.batch_size, accumulation=1),
        folder=str(sweep_folder / "experiments" / name),
        sweep_folder=str(sweep_folder),
        cache_dir=str(sweep_folder / "cache"),
        metric=METRIC,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]
