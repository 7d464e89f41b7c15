"""What a sweep's trials reported of the cards that they shared, from its journal. Pure."""

from collections.abc import Mapping, Sequence
from typing import cast

from cluster.scheduling.co_tenants import CoTenants, Pace
from cluster.scheduling.shares import MAX_TENANTS

TENANTS_KEY = "card/tenants"  # trials on its card since the last report, itself included
SLOWDOWN_KEY = "card/slowdown"  # by which they are taken to have slowed it down
_KIND = (
    "model", "batch_size", "gradient_accumulation_steps", "encoder_max_len", "decoder_max_len", "precision",
    "gradient_checkpointing", "optimizer", "torch_compile", "tiny_hidden_size", "tiny_layers",
)  # fmt: skip


def pace_of(spec: Mapping[str, object], metrics: Mapping[str, object]) -> Pace | None:
    """Returns how fast a trial went beside its co-tenants; None where it had several cards, or reported no rate.

    Args:
        spec: Its specification.
        metrics: Of one evaluation.

    >>> spec = {"gpu_model": "A40", "config": {"model": "t5", "batch_size": 8}}
    >>> pace = pace_of(spec, {"card/tenants": 2, "train/tokens_per_second": 900.0})
    >>> (pace.model, pace.tenants, pace.rate)
    ('A40', 2, 900.0)
    """
    tenants, rate = metrics.get(TENANTS_KEY), metrics.get("train/tokens_per_second")
    is_whole = isinstance(tenants, int) and isinstance(rate, float) and rate > 0
    if not is_whole or not spec.get("gpu_model") or metrics.get("trial/ranks", 1) != 1:
        return None
    config = cast("Mapping[str, object]", spec["config"])
    kind = [str(config.get(name)) for name in _KIND] + [str(metrics.get("trial/micro_batch"))]
    return Pace(
        model=str(spec["gpu_model"]), kind=" ".join(kind), tenants=cast("int", tenants), rate=cast("float", rate)
    )


def learned_co_tenants(events: Sequence[Mapping[str, object]], most: int = MAX_TENANTS) -> CoTenants:
    """Repeats what a journal holds, so that another driver decides as the earlier one did.

    Args:
        events: Of the journal.
        most: Trials on one card at most.
    """
    found, specs = CoTenants(most), dict[object, Mapping[str, object]]()
    for event in events:
        number = event["number"]
        if event["event"] in ("submitted", "copied"):
            specs[number] = cast("Mapping[str, object]", event["spec"])
        elif event["event"] == "allocated" and number in specs:
            specs[number] = {**specs[number], **cast("Mapping[str, object]", event["placement"])}
        elif event["event"] == "reported" and number in specs:
            pace = pace_of(specs[number], cast("Mapping[str, object]", event["metrics"]))
            if pace is not None:
                found.observe(pace)
    return found
