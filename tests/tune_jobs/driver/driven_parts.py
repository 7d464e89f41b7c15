"""Parts of a driven sweep: specifications of trials that need so many GiB, and a real broker that is recorded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cluster.machines.hardware import Inventory
from cluster.scheduling.alternatives import Need, explain_refusal, find_alternatives
from cluster.scheduling.broker_client import LocalBroker
from cluster.scheduling.events import Decisions as BrokerDecisions
from cluster.scheduling.events import Pause
from cluster.scheduling.request import Request
from dialsum.config import RunConfig
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.placing.placer import Option
from tune_jobs.records.trial_spec import (
    Bundle,
    Placement,
    TrialSpec,
)
from tune_jobs.search.samplers import Sampled
from tuning_common.errors import RequestError

GIB = 2**30
HALF_GIB = 11  # needs half of a card of 24 GiB


class Specs:
    """Makes specifications of trials that need so many GiB.

    Args:
        folder: The sweep's.
        needs_gib: See Setup.
        cards: Where they may run.
    """

    def __init__(self, folder: Path, needs_gib: Mapping[int, float], cards: Inventory) -> None:
        self._folder, self._needs_gib, self._cards = folder, needs_gib, cards

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        """Returns the specification of a new trial; see sweep_parts.SpecMaker."""
        size = sampled.get("batch_size", number)
        assert isinstance(size, int)
        config = RunConfig(batch_size=size)
        spec = spec_of(self._folder, f"bs{size}", config, number=number, sampled=dict(sampled))
        return spec.at(self.options(spec)[0].placement)

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every way to run a trial; see sweep_parts.SpecMaker."""
        size = spec.config["batch_size"]
        assert isinstance(size, int)
        estimate_bytes = int(self._needs_gib.get(size, HALF_GIB) * GIB)
        needs = (Need(upper_bytes=max(estimate_bytes, least_bytes), cpus=1.0),)
        usable = {pool.model: pool.usable_bytes for pool in self._cards.pools}
        options = tuple(
            Option(
                alternative=one,
                placement=Placement(
                    bundle=Bundle(cpus=one.cpus, gpus=one.gpus),
                    shape=spec.shape,
                    gpu_model=one.model,
                    usable_bytes=usable[one.model],
                    estimate={
                        "device_bytes": estimate_bytes,
                        "upper_bytes": estimate_bytes,
                        "context_bytes": GIB // 2,
                        "cap_bytes": one.cap_bytes,
                        "family": "bart",
                        "gpu": one.model,
                        "precision": "bf16",
                        "layout": "one card",
                    },
                ),
            )
            for one in find_alternatives(needs, self._cards)
        )
        if not options:
            raise RequestError(explain_refusal(spec.name, needs, self._cards))
        return options


class RecordedBroker(LocalBroker):
    """A real broker that keeps what every request became.

    Attributes:
        requests: As they were submitted last, by name.
        queued: Names that wait.
        held: Names that were granted and not given back.
        pauses: What it asks to pause at the next poll, as a broker with quotas would.
    """

    requests: dict[str, Request]
    queued: dict[str, None]
    held: dict[str, None]
    pauses: list[Pause]

    def open(self) -> None:
        """Makes the sweep known."""
        self.requests, self.queued, self.held, self.pauses = {}, {}, {}, []
        super().open()

    def submit(self, request: Request) -> None:
        """Puts a request into the queue."""
        assert request.name not in self.queued, f"{request.name} is queued already"
        assert request.name not in self.held, f"{request.name} holds its share"
        self.requests[request.name], self.queued[request.name] = request, None
        super().submit(request)

    def withdraw(self, name: str) -> None:
        """Takes a request back."""
        self.queued.pop(name, None)
        self.held.pop(name, None)
        super().withdraw(name)

    def not_placed(self, name: str, reason: str) -> None:
        """Returns an allocation that Ray did not place."""
        assert name in self.held, f"{name} holds nothing"
        del self.held[name]
        self.queued[name] = None
        super().not_placed(name, reason)

    def ended(self, name: str) -> None:
        """Gives back what a request held."""
        assert name in self.held, f"{name} holds nothing"
        del self.held[name]
        super().ended(name)

    def poll(self, wait_s: float = 0.0) -> BrokerDecisions:
        """Lets the broker decide."""
        decisions = super().poll()
        for one in decisions.allocations:
            del self.queued[one.name]
            self.held[one.name] = None
        for refusal in decisions.refusals:
            del self.queued[refusal.name]
        pauses, self.pauses = (*decisions.pauses, *self.pauses), []
        return replace(decisions, pauses=pauses)
