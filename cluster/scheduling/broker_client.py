"""How a sweep's driver reaches the broker: in its own process, or the one of its cluster."""

import time
from collections.abc import Callable
from typing import Protocol

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker import Broker
from cluster.scheduling.events import (
    Decisions,
    Ended,
    Event,
    NodesChanged,
    NotPlaced,
    Started,
    Submitted,
    SweepJoined,
    SweepLeft,
    Tick,
    Withdrawn,
)
from cluster.scheduling.request import Request


class BrokerClient(Protocol):
    """What a driver uses of a broker; called by one thread."""

    def open(self) -> None:
        """Makes the sweep known; may be called again.

        Raises:
            RequestError: When the sweep is refused.
            WorkError: When no broker answers.
        """
        ...

    def submit(self, request: Request) -> None:
        """Puts a request into the queue."""
        ...

    def withdraw(self, name: str) -> None:
        """Takes a request back; what it was granted is free again."""
        ...

    def started(self, name: str) -> None:
        """Confirms that an allocated request runs."""
        ...

    def not_placed(self, name: str, reason: str) -> None:
        """Returns an allocation that Ray did not place; the request is queued again."""
        ...

    def ended(self, name: str) -> None:
        """Gives back what a request held."""
        ...

    def poll(self) -> Decisions:
        """Returns what was decided since the last poll; quick."""
        ...

    def waiting_reason(self, name: str) -> str:
        """Returns what a request waits for; empty where it does not wait."""
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...


class LocalBroker:
    """A broker in this process, for an embedded Ray that nobody else uses.

    Args:
        inventory: The nodes; names are Ray's node ids.
        sweep: Unique name of the sweep.
        max_concurrent: The most of its trials that may run at a time; None for no limit.
        watch: Returns the nodes as they are now, None where nothing has changed.
        elapsed_s: Seconds that only grow.
        now: Unix seconds.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        sweep: str,
        max_concurrent: int | None = None,
        watch: Callable[[], Inventory | None] = lambda: None,
        elapsed_s: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._broker, self._sweep, self._max_concurrent = Broker(inventory), sweep, max_concurrent
        self._watch, self._elapsed_s, self._now = watch, elapsed_s, now
        self._events: list[Event] = []

    def open(self) -> None:
        """Makes the sweep known."""
        self._events.append(SweepJoined(sweep=self._sweep, max_concurrent=self._max_concurrent))

    def submit(self, request: Request) -> None:
        """Puts a request into the queue."""
        self._events.append(Submitted(request=request))

    def withdraw(self, name: str) -> None:
        """Takes a request back."""
        self._events.append(Withdrawn(name=name))

    def started(self, name: str) -> None:
        """Confirms that an allocated request runs."""
        self._events.append(Started(name=name))

    def not_placed(self, name: str, reason: str) -> None:
        """Returns an allocation that Ray did not place."""
        self._events.append(NotPlaced(name=name, reason=reason))

    def ended(self, name: str) -> None:
        """Gives back what a request held."""
        self._events.append(Ended(name=name))

    def poll(self) -> Decisions:
        """Lets the broker decide."""
        inventory = self._watch()
        if inventory is not None:
            self._events.append(NodesChanged(inventory=inventory))
        events, self._events = self._events or [Tick()], []
        return self._broker.handle(*events, elapsed_s=self._elapsed_s(), wall_s=self._now())

    def waiting_reason(self, name: str) -> str:
        """Returns what a request waits for."""
        return self._broker.waiting_reason(name)

    def close(self) -> None:
        """Gives everything back."""
        self._events.append(SweepLeft(sweep=self._sweep))
        self.poll()
