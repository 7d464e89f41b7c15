"""From a run configuration to what its request may ask the broker for, and what its process gets. Pure.

On cards a trial gets a share that holds its memory estimate; without cards it is placed by CPUs and host memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cluster.estimator.calibration import load_calibration
from cluster.estimator.estimate import Estimator
from cluster.estimator.memory_plan import NoPlan
from cluster.machines.hardware import Inventory, Pool
from cluster.scheduling.alternatives import (
    Need,
    cpu_slots,
    explain_cpu_refusal,
    explain_refusal,
    find_alternatives,
    find_cpu_alternatives,
)
from cluster.scheduling.request import Alternative
from cluster.scheduling.shares import CLASSES, MAX_TENANTS, UNITS
from dialsum.config import RunConfig
from tune_jobs.config.sections import Resources
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.durations import Durations, cores_of_cards, measured_cards
from tune_jobs.placing.memory_fits import MemoryFit, MemoryFits
from tune_jobs.placing.memory_requests import memory_key
from tune_jobs.placing.memory_templates import template_finder
from tune_jobs.placing.throughput import Speed, Throughput
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tune_jobs.search.inputs import DataSizes
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.units import format_bytes

CALIBRATION_NAME = "calibration.jsonl"  # in the output folder: shared by all sweeps
SHARE_CLASSES = tuple(units / UNITS for units in CLASSES)
HOST_BYTES = 2 * 2**30  # of a trial's process with torch, transformers and Kiwi: 1.1 GiB were measured for tiny models


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One GPU model on which a trial can run, or CPUs alone.

    Attributes:
        alternative: What the broker may allocate.
        placement: What the trial's process gets then.
        speed: How fast it goes there alone; None where nobody knows.
    """

    alternative: Alternative
    placement: Placement
    speed: Speed | None = None

    def placement_of(self, held: Alternative) -> Placement:
        """Returns the placement with the share that the broker granted, which may be larger than asked for."""
        if held.gpus == self.alternative.gpus:
            return self.placement
        bundle = replace(self.placement.bundle, gpus=held.gpus)
        estimate = {**self.placement.estimate, "cap_bytes": held.cap_bytes}
        return replace(self.placement, bundle=bundle, estimate=estimate)


@dataclass(kw_only=True)
class Placer:
    """Finds how the configurations of a sweep can run on what there is.

    Attributes:
        inventory: What there is; assigned anew when nodes come or go.
        resources: What each trial of the sweep takes.
        fits: How a configuration fits a GPU model.
        generates_only: Whether trials train nothing and only write summaries with a trained model.
        durations: How long trials take; None where that is not asked for.
    """

    inventory: Inventory
    resources: Resources
    fits: MemoryFits
    generates_only: bool = False
    durations: Durations | None = None
    _known: dict[tuple[object, ...], tuple[Option, ...]] = field(default_factory=dict, init=False)
    _known_on: Inventory | None = field(default=None, init=False)

    @property
    def simulated(self) -> bool:
        """Whether the cards are simulated ones."""
        return self.inventory.simulated

    def options(self, name: str, config: RunConfig, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every option of a configuration, the smallest part of the cluster first; without cards one on CPUs.

        Args:
            name: Of the trial, for messages.
            config: The run.
            least_bytes: What its cards must give together at least, also where the estimate is smaller.

        Raises:
            RequestError: When it can never run here: what was asked, what there is, and what would fit.
        """
        if self._known_on is not self.inventory:
            self._known, self._known_on = {}, self.inventory
        key = (*memory_key(config), least_bytes)
        if key not in self._known:
            run = without_training(config) if self.generates_only else config
            found = self._on_cards(name, run, least_bytes) if self.inventory.cards else self._on_cpus(name, run)
            self._known[key] = found
        return tuple(self._timed(option, config) for option in self._known[key])

    def forget(self) -> None:
        """Has the options of every configuration found anew: what is known of durations has changed."""
        self._known = {}

    def _timed(self, option: Option, config: RunConfig) -> Option:
        """Adds how long a whole run takes."""
        if self.durations is None:
            return option
        return replace(option, alternative=self.durations.timed(option.alternative, config, option.speed))

    def _on_cpus(self, name: str, config: RunConfig) -> tuple[Option, ...]:
        cards, cpus, found = self.resources.cards, self.resources.cpus_per_trial, self.inventory.describe()
        if cards > 1:
            raise RequestError(
                f"{name}: asks for {cards} GPUs (resources.gpus_per_trial), found {found}; leave gpus_per_trial out, or"
                " simulate cards (resources.simulate)"
            )
        if config.fsdp:
            raise RequestError(f"{name}: fsdp divides a model among several cards, found {found}")
        alternatives = find_cpu_alternatives(cpus=cpus, host_bytes=HOST_BYTES, inventory=self.inventory)
        if not alternatives:
            raise RequestError(explain_cpu_refusal(name, cpus=cpus, host_bytes=HOST_BYTES, inventory=self.inventory))
        placement = Placement(bundle=Bundle(cpus=cpus), shape=shape_of(config))
        speed = self.durations.speed(config, "", None) if self.durations else None
        return tuple(Option(alternative=alternative, placement=placement, speed=speed) for alternative in alternatives)

    def _on_cards(self, name: str, config: RunConfig, least_bytes: int) -> tuple[Option, ...]:
        """Takes the GPU models that hold the whole run on each card; where there is none, divides it among cards."""
        pools = self._pools(name)
        divided_only = config.fsdp and self.resources.cards == 1
        whole = {} if divided_only else {pool: self.fits.whole(config, pool) for pool in pools}
        fits = {pool: fit for pool, fit in whole.items() if isinstance(fit, MemoryFit)}
        if options := self._options(config, fits, least_bytes):
            return options
        divided = {pool: fit for pool in pools if (fit := self.fits.divided(config, pool, least_bytes)) is not None}
        if options := self._options(config, divided, least_bytes):
            return options
        if divided_only:
            raise RequestError(
                f"{name}: fsdp divides a model among several cards, and batch_size {config.batch_size} among as many;"
                f" found {self.inventory.describe()}"
            )
        more = [text for pool in pools if (text := self.fits.more_cards(config, pool, least_bytes))]
        raise RequestError(self._refusal(name, whole, least_bytes, more))

    def _options(self, config: RunConfig, fits: Mapping[Pool, MemoryFit], least_bytes: int) -> tuple[Option, ...]:
        needs = [self._need(pool, fit, least_bytes) for pool, fit in fits.items()]
        max_tenants = self.resources.max_trials_per_gpu or MAX_TENANTS
        pools = {pool.model: pool for pool in fits}
        return tuple(
            Option(
                alternative=one,
                placement=_placement(one, pools[one.model], fits[pools[one.model]]),
                speed=self._speed(config, fits[pools[one.model]], one.model),
            )
            for one in find_alternatives(needs, self.inventory, max_tenants=max_tenants)
        )

    def _speed(self, config: RunConfig, fit: MemoryFit, model: str) -> Speed | None:
        return self.durations.speed(config, model, fit.request) if self.durations else None

    def _need(self, pool: Pool, fit: MemoryFit | NoPlan, least_bytes: int) -> Need:
        if isinstance(fit, NoPlan):
            upper_bytes, cards = fit.smallest_bytes, self.resources.cards
        else:
            upper_bytes, cards = self.fits.needed_bytes(fit, pool, least_bytes), fit.cards
        return Need(
            upper_bytes=upper_bytes,
            model=pool.model,
            cards=cards,
            spread=self.resources.spread and cards > 1,
            cpus=self.resources.cpus_per_trial,
            host_bytes=HOST_BYTES * cards,
        )

    def _refusal(
        self, name: str, fits: Mapping[Pool, MemoryFit | NoPlan], least_bytes: int, more_cards: Sequence[str]
    ) -> str:
        needs = [self._need(pool, fit, least_bytes) for pool, fit in fits.items()]
        if larger := find_alternatives(needs, self.inventory):  # only the fixed share is too small
            least = min(larger, key=lambda one: one.gpus)
            return (
                f"{name}: needs {format_bytes(least.upper_bytes)}, found {self.resources.part} of a card"
                f" (resources.share) of {self.inventory.describe()}; would fit with share: {least.gpus:g} or auto"
            )
        remedies = [text for fit in fits.values() if isinstance(fit, NoPlan) for text in fit.remedies]
        relief = dict.fromkeys(text for text in remedies if not text.startswith("a card"))
        return explain_refusal(name, needs, self.inventory, (*relief, *more_cards))

    def _pools(self, name: str) -> tuple[Pool, ...]:
        """Returns those beside whose cards a machine has the CPUs of a trial."""
        cpus: dict[str, float] = {}
        for node in self.inventory.nodes:
            if node.cards:
                model = node.cards[0].model
                cpus[model] = max(node.cpus, cpus.get(model, 0.0))
        resources = self.resources
        wanted = resources.cpus_per_trial / (resources.cards if resources.spread else 1)
        found = tuple(pool for pool in self.inventory.pools if cpus[pool.model] >= wanted)
        if not found:
            raise RequestError(
                f"{name}: asks for {resources.cpus_per_trial:g} CPUs beside its card, found at most"
                f" {max(cpus.values()):g} on a machine with cards; set resources.cpus_per_trial to no more than that"
            )
        return found


def placer_for(
    inventory: Inventory,
    resources: Resources,
    estimator: Estimator,
    *,
    generates_only: bool = False,
    durations: Durations | None = None,
) -> Placer:
    """Makes a placer; see there."""
    fits = MemoryFits(estimator=estimator, share=resources.part, cards=resources.cards, spread=resources.spread)
    return Placer(
        inventory=inventory, resources=resources, fits=fits, generates_only=generates_only, durations=durations
    )


def sweep_placer(
    sweep: Sweep, inventory: Inventory, sizes: DataSizes, throughput: Throughput, *, described: bool = False
) -> Placer:
    """Makes the placer of a sweep, whose estimates are corrected by what earlier sweeps measured.

    Args:
        sweep: As read.
        inventory: What there is.
        sizes: Of its data files.
        throughput: What earlier runs took.
        described: Whether the cards were described for a plan.
    """
    calibration = load_calibration(Path(sweep.tracking.output_dir) / CALIBRATION_NAME)
    estimator = Estimator(template_finder(note), calibration)
    generates_only = sweep.trained_model is not None
    durations = Durations(
        sizes=sizes,
        throughput=throughput,
        cards=measured_cards(inventory, throughput, described=described),
        estimator=estimator,
        trains=not generates_only,
        # What a time budget cuts off must be a random part of a search, not its short trials.
        in_order=sweep.resources.time_budget_s is not None,
        cores=cores_of_cards(inventory) if inventory.simulated and not described else {},
    )
    return placer_for(inventory, sweep.resources, estimator, generates_only=generates_only, durations=durations)


def shape_of(config: RunConfig) -> RunShape:
    """Returns how a configuration computes its effective batch as configured."""
    return RunShape(
        micro_batch=config.micro_batch,
        accumulation=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def without_training(config: RunConfig) -> RunConfig:
    """Returns the configuration whose memory a trial needs that only generates: no optimizer, no batch.

    >>> without_training(RunConfig(batch_size=32)).batch_size
    1
    """
    return config.with_changes(
        {"optimizer": "sgd", "batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    )


def slots(inventory: Inventory, resources: Resources) -> int:
    """Counts the trials that can run side by side by CPUs, host memory and whole cards; shares may allow fewer."""
    needed = Alternative(model="", share=None, cpus=resources.cpus_per_trial, host_bytes=HOST_BYTES * resources.cards)
    found = cpu_slots(needed, inventory)
    if inventory.cards and resources.gpus_per_trial is not None:
        found = min(found, inventory.cards // resources.cards)
    return max(1, found)


def _placement(alternative: Alternative, pool: Pool, fit: MemoryFit) -> Placement:
    request = fit.request
    return Placement(
        bundle=Bundle(cpus=alternative.cpus, gpus=alternative.gpus, spread=alternative.spread),
        shape=RunShape(
            micro_batch=request.micro_batch,
            accumulation=request.gradient_accumulation_steps,
            gradient_checkpointing=request.gradient_checkpointing,
            ranks=fit.cards,
            sharded=request.sharding is not None,
            loss_batch=request.loss_batch_size,
            generation_batch=request.generation_batch_size,
        ),
        gpu_model=alternative.model,
        usable_bytes=pool.usable_bytes,
        context_bytes=fit.estimate.context_bytes if fit.cards > 1 else request.gpu.context_bytes,
        estimate=_for_ledger(alternative, fit),
    )


def _for_ledger(alternative: Alternative, fit: MemoryFit) -> dict[str, object]:
    estimate = fit.estimate
    return {
        "device_bytes": estimate.device_bytes,
        "upper_bytes": estimate.upper_bytes,
        "train_allocated_bytes": estimate.train_allocated_bytes,
        "train_reserved_bytes": estimate.train_reserved_bytes,
        "generate_allocated_bytes": estimate.generate_allocated_bytes,
        "generate_reserved_bytes": estimate.generate_reserved_bytes,
        "context_bytes": estimate.context_bytes,
        "peak_phase": estimate.peak_phase,
        "terms": dict(estimate.terms),
        "model_parameters": estimate.model_parameters,
        "margin": asdict(estimate.margin),
        "family": fit.request.model.family,
        "precision": fit.request.precision,
        "gpu": fit.request.gpu.name,
        "gpu_model": alternative.model,
        "cap_bytes": alternative.cap_bytes,
        "ranks": fit.cards,
        "layout": fit.request.layout,
        "plan_reason": fit.reason,
    }
