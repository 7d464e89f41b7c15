"""From a run configuration to its place in Ray: memory estimate, plan, share, node labels; or why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from cluster.estimator.estimate import Estimator
from cluster.estimator.memory_plan import NoPlan
from cluster.machines.hardware import Inventory, Pool
from cluster.scheduling.host_placement import HostNeed, choose_hosts, host_slots
from cluster.scheduling.occupancy import Occupancy
from cluster.scheduling.placement import Choice, Demand, Need, Refusal, choose, refuse
from cluster.scheduling.shares import CLASSES, MAX_TENANTS, UNITS
from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.config.sections import Resources
from tune_jobs.driver.card_line import CardLine, FreeGpus, Offer
from tune_jobs.placing.ways import Way, Ways
from tune_jobs.records.trial_spec import Bundle, Placed
from tune_jobs.trial.recovery import RunShape

HOST_BYTES = (
    2 * 2**30
)  # a trial's process with torch, transformers and Kiwi's model: 1.1 GiB were measured for tiny models
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
        if config.fsdp:
            raise RequestError(f"{name}: fsdp divides a model among several cards, found {self.inventory.describe()}")
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


@dataclass(kw_only=True)
class SharePlacer:
    """Places trials on shares of cards; which of several GPU models a trial gets is decided by line.CardLine.

    Attributes:
        inventory: What there is.
        cpus: Logical CPUs of one trial.
        max_tenants: Most trials on one card.
        ways: How a configuration runs on a GPU model.
    """

    inventory: Inventory
    cpus: float
    ways: Ways
    max_tenants: int = MAX_TENANTS

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

    def _placed(self, choice: Choice, way: Way) -> Placed:
        pool = next(pool for pool in self.inventory.pools if pool.model == choice.model)
        return Placed(
            bundle=Bundle(
                cpus=self.cpus,
                gpus=choice.share.gpus,
                labels=choice.label_selector,
                spread=choice.spread,
            ),
            shape=RunShape(
                micro_batch=way.request.micro_batch,
                accumulation=way.request.gradient_accumulation_steps,
                gradient_checkpointing=way.request.gradient_checkpointing,
                ranks=way.cards,
                sharded=way.request.sharding is not None,
            ),
            usable_bytes=pool.usable_bytes,
            context_bytes=way.estimate.context_bytes if way.cards > 1 else way.request.gpu.context_bytes,
            estimate=_for_ledger(way, choice),
        )

    def _choices(
        self, name: str, config: RunConfig, least_bytes: int = 0
    ) -> tuple[tuple[Choice, ...], dict[str, Way], Demand]:
        """Chooses among the models that hold all of it on each card; where there is none, divides it."""
        pools = self._pools(name)
        divided_only = config.fsdp and self.ways.cards == 1
        whole = {} if divided_only else {pool.model: self.ways.whole(config, pool) for pool in pools}
        demand = self._demand(name, pools, whole, least_bytes)
        ways = {model: way for model, way in whole.items() if isinstance(way, Way)}
        if choices := self._chosen(demand, ways):
            return choices, ways, demand
        found = {pool.model: self.ways.divided(config, pool, least_bytes) for pool in pools}
        ways = {model: way for model, way in found.items() if way is not None}
        divided = self._demand(name, pools, ways, least_bytes)
        if choices := self._chosen(divided, ways):
            return choices, ways, divided
        if divided_only:
            raise RequestError(
                f"{name}: fsdp divides a model among several cards, and batch_size {config.batch_size} among as many;"
                f" found {self.inventory.describe()}"
            )
        more = [text for pool in pools if (text := self.ways.more_cards(config, pool, least_bytes))]
        demand = replace(demand, relief=(*demand.relief, *more))
        raise RequestError(str(refuse(demand, self.inventory) or f"{name}: no card can hold it"))

    def _demand(self, name: str, pools: Sequence[Pool], found: Mapping[str, Way | NoPlan], least_bytes: int) -> Demand:
        needs: list[Need] = []
        relief: list[str] = []
        for pool in pools:
            way = found.get(pool.model)
            if isinstance(way, Way):
                needs.append(self._need(self.ways.needed_bytes(way, pool, least_bytes), pool, way.cards))
            elif way is not None:
                needs.append(self._need(way.smallest_bytes, pool, self.ways.cards))
                relief += [text for text in way.remedies if not text.startswith("a card") and text not in relief]
        return Demand(name=name, needs=tuple(needs), relief=tuple(relief))

    def _chosen(self, demand: Demand, ways: Mapping[str, Way]) -> tuple[Choice, ...]:
        choices = choose(demand, self.inventory, max_tenants=self.max_tenants) if demand.needs else ()
        return tuple(choice for choice in choices if choice.model in ways)

    def _pools(self, name: str) -> tuple[Pool, ...]:
        """Those beside whose cards a machine has the CPUs of a trial: Ray would wait for others for ever."""
        cpus = {
            pool.model: max(n.cpus for n in self.inventory.nodes if any(card.model == pool.model for card in n.cards))
            for pool in self.inventory.pools
        }
        wanted = self.cpus / self.ways.cards if self.ways.spread else self.cpus
        found = tuple(pool for pool in self.inventory.pools if cpus[pool.model] >= wanted)
        if not found:
            raise RequestError(
                f"{name}: asks for {self.cpus:g} CPUs beside its card, found at most {max(cpus.values()):g} on a"
                " machine with cards; set resources.cpus_per_trial to no more than that"
            )
        return found

    def _need(self, upper_bytes: int, pool: Pool, cards: int) -> Need:
        return Need(upper_bytes=upper_bytes, model=pool.model, cards=cards, spread=self.ways.spread and cards > 1)


def shape_of(config: RunConfig) -> RunShape:
    """Returns how a configuration computes its effective batch by its own word."""
    return RunShape(
        micro_batch=config.micro_batch,
        accumulation=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
    )


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
        cpus=resources.cpus_per_trial,
        ways=Ways(estimator=estimator(), share=resources.part, cards=resources.cards, spread=resources.spread),
        max_tenants=resources.max_trials_per_gpu or MAX_TENANTS,
    )


def _for_ledger(way: Way, choice: Choice) -> dict[str, object]:
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
        "ranks": way.cards,
        "layout": way.request.layout,
        "plan_reason": way.reason,
    }
