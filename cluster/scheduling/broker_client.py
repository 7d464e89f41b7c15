"""How a sweep uses a broker: it submits requests, reports what runs, and collects decisions.

Two brokers are used alike: one in this process (LocalBroker), for a Ray of the sweep's own, and that of a cluster
(cluster_broker.ClusterBroker), which all its sweeps share.
"""

import time
from collections.abc import Callable, Mapping
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
from cluster.scheduling.quotas import Team
from cluster.scheduling.request import CardUse, Request


class BrokerClient(Protocol):
    """Decides which requests of one sweep run where and when. One thread calls it; no call but `open` takes long."""

    def open(self) -> None:
        """Makes the sweep known, before its first request; may be called again.

        Raises:
            RequestError: When the sweep is refused.
            WorkError: When no broker answers.
        """
        ...

    def submit(self, request: Request) -> None:
        """Queues a request; its name is neither queued nor held."""
        ...

    def withdraw(self, name: str) -> None:
        """Takes a request back, queued or allocated."""
        ...

    def started(self, name: str) -> None:
        """Reports that the process of an allocation runs."""
        ...

    def not_placed(self, name: str, reason: str) -> None:
        """Reports that Ray did not place an allocation; its request is queued again."""
        ...

    def ended(self, name: str) -> None:
        """Reports that an allocation is not used any more."""
        ...

    def poll(self, wait_s: float = 0.0) -> Decisions:
        """Returns what was decided since the last call; called several times a second.

        Args:
            wait_s: Waits for what follows from the reports so far, but no longer than that.
        """
        ...

    def waiting_reason(self, name: str) -> str:
        """Says what a queued request waits for, as far as is known now."""
        ...

    def card_uses(self) -> Mapping[str, CardUse]:
        """Returns what runs on the cards of the sweep's trials, by the names of their requests, as last known."""
        ...

    def close(self) -> None:
        """Gives everything back: the sweep is over."""
        ...


class LocalBroker:
    """A broker in this process, for one sweep on nodes of its own.

    Args:
        inventory: Its nodes.
        sweep: Name of the sweep.
        member: Whose quota it uses; None for nobody's.
        team: Quotas; None where there are none.
        max_concurrent: The most trials that may run at a time.
        watch: Returns the nodes where they have changed since the last call; None where nobody watches them.
        elapsed_s: Seconds that only grow.
        now: Unix seconds.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        sweep: str,
        member: str | None = None,
        team: Team | None = None,
        max_concurrent: int | None = None,
        watch: Callable[[], Inventory | None] | None = None,
        elapsed_s: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._broker = Broker(inventory, team=team)
        self._events: list[Event] = [SweepJoined(sweep=sweep, member=member, max_concurrent=max_concurrent)]
        self._sweep, self._watch = sweep, watch
        self._elapsed_s, self._now = elapsed_s, now

    def open(self) -> None:
        """Nobody is asked."""

    def submit(self, request: Request) -> None:
        """Takes effect with the next poll, as all that is reported."""
        self._events.append(Submitted(request=request))

    def withdraw(self, name: str) -> None:
        """See BrokerClient."""
        self._events.append(Withdrawn(name=name))

    def started(self, name: str) -> None:
        """See BrokerClient."""
        self._events.append(Started(name=name))

    def not_placed(self, name: str, reason: str) -> None:
        """See BrokerClient."""
        self._events.append(NotPlaced(name=name, reason=reason))

    def ended(self, name: str) -> None:
        """See BrokerClient."""
        self._events.append(Ended(name=name))

    def poll(self, wait_s: float = 0.0) -> Decisions:
        """Lets the broker decide; nothing is waited for."""
        inventory = self._watch() if self._watch is not None else None
        changed = [NodesChanged(inventory=inventory)] if inventory is not None else []
        events, self._events = [*changed, *self._events, Tick()], []
        return self._broker.handle(*events, elapsed_s=self._elapsed_s(), wall_s=self._now())

    def waiting_reason(self, name: str) -> str:
        """See BrokerClient."""
        return self._broker.waiting_reason(name)

    def card_uses(self) -> Mapping[str, CardUse]:
        """See BrokerClient."""
        return self._broker.card_uses(self._sweep)

    def close(self) -> None:
        """See BrokerClient."""
        self._events.append(SweepLeft(sweep=self._sweep))
        self.poll()
