"""A quick measurement: a few real steps on the device at hand say how long the trials of a plan take."""

from collections.abc import Sequence

from dialsum.config import RunConfig
from tune_jobs.placing.throughput import CPU, Observation, kind_of
from tuning_common import cli
from tuning_common.units import format_duration

_BATCH_ON_CPU = 8  # time is proportional to the batch there, and a measurement should be quick
_TRAINING = ("data", "forward", "backward", "optimizer")


def measure_kinds(configs: Sequence[RunConfig]) -> list[Observation]:
    """Measures one optimizer step, one evaluation batch and one generation of each different kind of run.

    Texts are as long as they may be, so real trials take at most so long. The weights are random.

    Args:
        configs: Runs of a plan, the most frequent first.
    """
    kinds: dict[tuple[object, ...], RunConfig] = {}
    for config in configs:
        kinds.setdefault(kind_of(config), config)
    found = []
    for index, config in enumerate(kinds.values(), start=1):
        cli.note(f"measurement {index} of {len(kinds)}: {config.model} at {config.encoder_max_len} tokens ...")
        observation = _measure(config)
        if observation is not None:
            found.append(observation)
    return found


def _measure(config: RunConfig) -> Observation | None:
    import torch

    from dialsum.device import precision_of
    from tune_jobs.placing.memory_requests import facts_of, request_of
    from tune_jobs.placing.profile_run import card_here, measure_run

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        batch = min(config.batch_size, _BATCH_ON_CPU)
        generated = min(config.generation_batch, _BATCH_ON_CPU)
        config = config.with_changes(
            {"batch_size": batch, "gradient_accumulation_steps": 1, "generation_batch_size": generated}
        )
    facts = facts_of(config)
    config = config.with_changes({"precision": precision_of(config.precision, facts.family)})
    gpu = card_here(torch.cuda.get_device_name() if on_gpu else None)
    measured = measure_run(config, request_of(config, gpu, model=facts))
    if not measured.fits:
        cli.note(f"measurement: {config.model} with batch {config.batch_size} does not fit on {measured.device}")
        return None
    seconds = {phase.name: phase.seconds for phase in measured.phases}
    step_s = sum(seconds[name] for name in _TRAINING)
    batch_s = seconds["evaluate"] * config.generation_batch / config.loss_batch + seconds["generate"]
    cli.note(f"measurement: a step of {format_duration(step_s)}, a dev batch of {format_duration(batch_s)}")
    return Observation(
        config=config,
        card=measured.device if on_gpu else CPU,
        train_s=step_s / config.batch_size,
        evaluate_s=batch_s / config.generation_batch,
        start_s=0.0,
        source="a measurement at the longest texts, without start-up",
    )
