"""From a run configuration to its place in Ray: memory estimate, plan, share, node labels; or why there is none."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from cluster.hardware import Inventory, Pool
from cluster.host_placement import HostNeed, choose_hosts, host_slots
from cluster.memory.estimate import Estimator, MemoryEstimate
from cluster.memory.gpu_profile import GpuProfile, find_gpu, gpu_of_size
from cluster.memory.memory_plan import NoPlan
from cluster.memory.planning import plan_request
from cluster.memory.request import MemoryRequest
from cluster.occupancy import Occupancy
from cluster.placement import Choice, Demand, Need, Refusal, choose, refuse
from cluster.shares import CLASSES, MAX_TENANTS, UNITS, Share
from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.config.sections import Resources
from tune_jobs.placing.line import CardLine, FreeGpus, Offer
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.ranks import divided
from tune_jobs.running.orders import Bundle, Placed
from tune_jobs.running.recovery import RunShape

HOST_BYTES = (
    2 * 2**30
)  # a trial's process with torch, transformers and Kiwi's model: 1.1 GiB were measured for tiny models
_KEPT_WAYS = 10_000  # of configurations on GPU models, each a few kilobytes
SHARE_CLASSES = tuple(units / UNITS for units in CLASSES)


@dataclass(frozen=True, kw_only=True)
class HostPlacer:
    """Places trials by CPUs and host memory: machines without a GPU.

    Attributes:
        inventory: What there is.
        cpus: Logical CPUs of one trial.
        cards: Whole cards that each trial asks for; above 1 it is refused, as there are none.
    """

    inventory: Inventory
    cpus: float
    cards: int = 1

    @property
    def simulated(self) -> bool:
        """Never: these CPUs are real."""
        return False

    def check(self, name: str, config: RunConfig) -> None:
        """Raises RequestError where a configuration can never run."""
        self.place(name, config)

    def place(self, name: str, config: RunConfig) -> Placed:
        """Returns a bundle without a card; see order_factory.Placer."""
        if self.cards > 1:
            raise RequestError(
                f"{name}: asks for {self.cards} GPUs (resources.gpus_per_trial), found {self.inventory.describe()};"
                " leave gpus_per_trial out, or simulate cards (resources.simulate)"
            )
        found = choose_hosts(HostNeed(name=name, cpus=self.cpus, host_bytes=HOST_BYTES), self.inventory)
        if isinstance(found, Refusal):
            raise RequestError(str(found))
        return Placed(bundle=Bundle(cpus=self.cpus), shape=shape_of(config))

    def offers(self, name: str, config: RunConfig, least_bytes: int = 0) -> tuple[Offer, ...]:
        """None: Ray alone counts CPUs."""
        self.check(name, config)
        return ()

    def line(self, free: FreeGpus | None = None) -> CardLine:
        """Lets everybody through to Ray."""
        return CardLine()


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to run a configuration on one GPU model."""

    request: MemoryRequest
    estimate: MemoryEstimate
    reason: str


@dataclass(kw_only=True)
class SharePlacer:
    """Places trials on shares of cards; which of several GPU models a trial gets is decided by line.CardLine.

    Attributes:
        inventory: What there is.
        estimator: Predicts device bytes.
        cpus: Logical CPUs of one trial.
        share: Part of a card that every trial gets; "auto" follows the estimate.
        max_tenants: Most trials on one card.
        cards: Whole cards that each trial trains on together.
        spread: Whether these may lie in several machines.
    """

    inventory: Inventory
    estimator: Estimator
    cpus: float
    share: Literal["auto"] | float = "auto"
    max_tenants: int = MAX_TENANTS
    cards: int = 1
    spread: bool = False
    _ways: dict[tuple[RunConfig, str], _Way | NoPlan] = field(default_factory=dict, init=False)

    @property
    def simulated(self) -> bool:
        """Whether the cards are logical ones."""
        return self.inventory.simulated

    def check(self, name: str, config: RunConfig) -> None:
        """Raises RequestError where a configuration can never run."""
        self._choices(name, config)

    def place(self, name: str, config: RunConfig) -> Placed:
        """Returns the share, the GPU model and the shape of a configuration; see order_factory.Placer."""
        return self.offers(name, config)[0].placed

    def offers(self, name: str, config: RunConfig, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Returns how a configuration would run on each GPU model that can hold it; see order_factory.Placer."""
        choices, ways, _ = self._choices(name, config, least_bytes)
        return tuple(Offer(choice=choice, placed=self._placed(choice, ways[choice.model])) for choice in choices)

    def demand(self, name: str, config: RunConfig) -> Demand:
        """Returns what a configuration asks for.

        Raises:
            RequestError: When no card can hold it; as in place.
        """
        return self._choices(name, config)[2]

    def line(self, free: FreeGpus | None = None) -> CardLine:
        """The line of a sweep before these cards, on which none of its trials runs yet; see CardLine."""
        return CardLine(Occupancy(self.inventory, cpus_per_trial=self.cpus), free=free)

    def _placed(self, choice: Choice, way: _Way) -> Placed:
        pool = next(pool for pool in self.inventory.pools if pool.model == choice.model)
        return Placed(
            bundle=Bundle(
                cpus=self.cpus,
                gpus=choice.share.gpus,
                labels=choice.label_selector,
                spread=self.spread and choice.share.cards > 1,
            ),
            shape=RunShape(
                micro_batch=way.request.micro_batch,
                accumulation=way.request.gradient_accumulation_steps,
                gradient_checkpointing=way.request.gradient_checkpointing,
                ranks=way.request.ranks,
            ),
            usable_bytes=pool.usable_bytes,
            context_bytes=way.estimate.context_bytes if self.cards > 1 else way.request.gpu.context_bytes,
            estimate=_for_ledger(way, choice),
        )

    def _choices(
        self, name: str, config: RunConfig, least_bytes: int = 0
    ) -> tuple[tuple[Choice, ...], dict[str, _Way], Demand]:
        ways: dict[str, _Way] = {}
        needs: list[Need] = []
        relief: list[str] = []
        for pool in self._pools(name):
            found = self._way(config, pool)
            if isinstance(found, NoPlan):
                needs.append(self._need(found.smallest_bytes, pool))
                relief += [text for text in found.remedies if not text.startswith("a card") and text not in relief]
                continue
            ways[pool.model] = found
            needs.append(self._need(max(self._needed_bytes(found, pool), least_bytes), pool))
        demand = Demand(name=name, needs=tuple(needs), relief=tuple(relief))
        choices = choose(demand, self.inventory, max_tenants=self.max_tenants)
        choices = tuple(choice for choice in choices if choice.model in ways)
        if not choices:
            raise RequestError(str(refuse(demand, self.inventory) or f"{name}: no card can hold it"))
        return choices, ways, demand

    def _pools(self, name: str) -> tuple[Pool, ...]:
        """Those beside whose cards a machine has the CPUs of a trial: Ray would wait for others for ever."""
        cpus = {
            pool.model: max(n.cpus for n in self.inventory.nodes if any(card.model == pool.model for card in n.cards))
            for pool in self.inventory.pools
        }
        wanted = self.cpus / self.cards if self.spread else self.cpus
        found = tuple(pool for pool in self.inventory.pools if cpus[pool.model] >= wanted)
        if not found:
            raise RequestError(
                f"{name}: asks for {self.cpus:g} CPUs beside its card, found at most {max(cpus.values()):g} on a"
                " machine with cards; set resources.cpus_per_trial to no more than that"
            )
        return found

    def _need(self, upper_bytes: int, pool: Pool) -> Need:
        return Need(upper_bytes=upper_bytes, model=pool.model, cards=self.cards, spread=self.spread)

    def _needed_bytes(self, way: _Way, pool: Pool) -> int:
        if self.share == "auto" or self.cards > 1:
            return way.estimate.upper_bytes
        return self._budget_bytes(pool)  # the whole of the fixed share, so that it is what placement gives

    def _budget_bytes(self, pool: Pool) -> int:
        if self.share == "auto" or self.share >= 1:
            return pool.usable_bytes
        return Share(units=max(1, round(self.share * UNITS))).cap_bytes(pool.usable_bytes)

    def _way(self, config: RunConfig, pool: Pool) -> _Way | NoPlan:
        """Asks once: the same trial is looked at when the sweep is checked, when it is ordered and when it waits."""
        key = (config, pool.model)
        if key not in self._ways:
            if len(self._ways) >= _KEPT_WAYS:
                self._ways.clear()
            self._ways[key] = self._found_way(config, pool)
        return self._ways[key]

    def _found_way(self, config: RunConfig, pool: Pool) -> _Way | NoPlan:
        """As configured where that fits, else planned: smaller micro-batches, then checkpointing."""
        request = request_of(divided(config, self.cards), profile_of(pool), ranks=self.cards)
        budget_bytes = self._budget_bytes(pool)
        estimate = self.estimator.estimate(request)
        if estimate.upper_bytes <= budget_bytes:
            return _Way(request=request, estimate=estimate, reason="as configured")
        checkpointing = (True,) if config.gradient_checkpointing else (False, True)
        plan = plan_request(self.estimator, request, budget_bytes, checkpointing=checkpointing, confirm=True)
        if isinstance(plan, NoPlan):
            return plan
        planned = replace(
            request,
            gradient_accumulation_steps=plan.accumulation,
            gradient_checkpointing=plan.gradient_checkpointing,
        )
        return _Way(request=planned, estimate=self.estimator.estimate(planned), reason=plan.reason)


def shape_of(config: RunConfig) -> RunShape:
    """Returns how a configuration computes its effective batch by its own word."""
    return RunShape(
        micro_batch=config.micro_batch,
        accumulation=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def profile_of(pool: Pool) -> GpuProfile:
    """Finds the profile of a pool's GPU model; a card that is known only by its size gets that of its size."""
    try:
        return replace(find_gpu(pool.model.replace("-", " ")), total_bytes=pool.total_bytes)
    except RequestError:
        return gpu_of_size(pool.total_bytes)


def slots(inventory: Inventory, resources: Resources) -> int:
    """Counts the trials that can run side by side by CPUs, host memory and whole cards; shares may allow fewer."""
    need = HostNeed(name="a trial", cpus=resources.cpus_per_trial, host_bytes=HOST_BYTES * resources.cards)
    found = sum(host_slots(need, node) for node in inventory.nodes)
    if inventory.cards and resources.gpus_per_trial is not None:
        found = min(found, inventory.cards // resources.cards)
    return max(1, found)


def placer_for(
    inventory: Inventory, resources: Resources, *, estimator: Callable[[], Estimator]
) -> HostPlacer | SharePlacer:
    """Chooses by cards where there are any, else by CPUs."""
    if not inventory.pools:
        return HostPlacer(inventory=inventory, cpus=resources.cpus_per_trial, cards=resources.cards)
    return SharePlacer(
        inventory=inventory,
        estimator=estimator(),
        cpus=resources.cpus_per_trial,
        share=resources.part,
        max_tenants=resources.max_trials_per_gpu or MAX_TENANTS,
        cards=resources.cards,
        spread=resources.spread,
    )


def _for_ledger(way: _Way, choice: Choice) -> dict[str, object]:
    estimate = way.estimate
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
        "family": way.request.model.family,
        "precision": way.request.precision,
        "gpu": way.request.gpu.name,
        "gpu_model": choice.model,
        "cap_bytes": choice.cap_bytes,
        "ranks": way.request.ranks,
        "plan_reason": way.reason,
    }
