"""How trials that a test makes by hand can run: what a placer would find for an estimate of so many bytes."""

from cluster.machines.hardware import Inventory
from cluster.scheduling.alternatives import Need, explain_refusal, find_alternatives
from cluster.scheduling.request import Alternative
from tune_jobs.placing.placer import Option
from tune_jobs.records.trial_spec import Bundle, Placement, TrialSpec
from tuning_common.errors import RequestError

GIB = 2**30


def options_of(
    spec: TrialSpec,
    inventory: Inventory,
    upper_bytes: int,
    least_bytes: int = 0,
    *,
    models: tuple[str | None, ...] = (None,),
) -> tuple[Option, ...]:
    """Returns every GPU model that holds the trial, the smallest part of the cluster first; without cards its CPUs.

    Args:
        spec: The trial; its shape, CPUs and ranks stay.
        inventory: The cards.
        upper_bytes: Its estimate on each card.
        least_bytes: What an out-of-memory has shown that it needs.
        models: GPU models that it may run on; any where None.
    """
    if not inventory.pools:
        alone = Alternative(model="", share=None, cpus=spec.bundle.cpus)
        return (Option(alternative=alone, placement=Placement(bundle=Bundle(cpus=spec.bundle.cpus), shape=spec.shape)),)
    needs = [
        Need(
            upper_bytes=max(upper_bytes, least_bytes),
            model=model,
            cards=spec.shape.ranks,
            spread=spec.bundle.spread,
            cpus=spec.bundle.cpus,
        )
        for model in models
    ]
    found = find_alternatives(needs, inventory)
    if not found:
        raise RequestError(explain_refusal(spec.name, needs, inventory))
    usable = {pool.model: pool.usable_bytes for pool in inventory.pools}
    return tuple(Option(alternative=one, placement=_placement(spec, one, usable[one.model])) for one in found)


def _placement(spec: TrialSpec, alternative: Alternative, usable_bytes: int) -> Placement:
    return Placement(
        bundle=Bundle(cpus=spec.bundle.cpus, gpus=alternative.gpus, spread=alternative.spread),
        shape=spec.shape,
        gpu_model=alternative.model,
        usable_bytes=usable_bytes,
        context_bytes=spec.context_bytes,
        estimate={
            "device_bytes": alternative.upper_bytes,
            "upper_bytes": alternative.upper_bytes,
            "context_bytes": GIB // 2,
            "cap_bytes": alternative.cap_bytes,
            "family": "bart",
            "gpu": alternative.model,
            "precision": "bf16",
            "layout": "one card",
        },
    )
