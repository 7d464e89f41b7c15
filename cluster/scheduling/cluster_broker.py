"""A sweep's side of a cluster's broker, which runs in a process of its own (broker_process).

Each report lists all that the sweep asks for and holds; no answer is waited for, as Tune's thread calls this.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol, cast

from cluster.scheduling.events import Decisions, Pause, Refusal
from cluster.scheduling.messages import Details, Join, Reply, Report
from cluster.scheduling.request import Allocation, CardUse, Request
from tuning_common.errors import RequestError, WorkError
from tuning_common.strict import from_mapping

EVERY_S = 1.0  # between the reports of a driver that has nothing new
SOON_S = 0.1  # and of one that has
ANSWER_S = 5.0  # it answers in milliseconds; an answer that takes longer is given up
RETRY_S = 5.0  # so long it is then left alone
JOIN_S = 60.0  # its process may have to start first
SILENT = "the cluster's broker does not answer; is the head reachable?"


class Link(Protocol):
    """Calls of the cluster's broker; broker_process.BrokerLink outside of tests."""

    def call(self, method: str, *arguments: object) -> object:
        """Starts a call."""
        ...

    def answer(self, call: object, wait_s: float) -> tuple[bool, object]:
        """Returns whether a call is over, and its answer; None where it failed."""
        ...


@dataclass(slots=True)
class _Entry:
    submission: int
    request: Request
    allocation: Allocation | None = None
    is_started: bool = False
    is_pausing: bool = False
    not_placed: str = ""


@dataclass(slots=True)
class _Call:
    method: str
    call: object
    since_s: float
    sent: Mapping[str, _Entry] = field(default_factory=dict)


@dataclass(slots=True)
class _Decided:
    """Decisions that were not collected yet."""

    allocations: list[Allocation] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def decisions(self) -> Decisions:
        return Decisions(allocations=tuple(self.allocations), pauses=tuple(self.pauses), refusals=tuple(self.refusals))


class ClusterBroker:
    """The broker of a cluster, for one sweep; see BrokerClient.

    Args:
        join: The sweep.
        link: To the broker's process.
        elapsed_s: Seconds that only grow.
    """

    def __init__(self, join: Join, link: Link, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._join, self._link, self._elapsed_s = join, link, elapsed_s
        self._entries: dict[str, _Entry] = {}
        self._known: set[tuple[str, int]] = set()  # name and submission of what the broker knows in full
        self._call: _Call | None = None
        self._is_open = False
        self._has_joined = False
        self._submissions = 0
        self._reported_s = self._next_s = elapsed_s()
        self._asked: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._trouble = ""
        self._decided = _Decided()
        self._card_uses: Mapping[str, CardUse] = {}

    def open(self) -> None:
        """Joins the broker; waits for its answer."""
        if self._is_open:
            return
        over, refused = self._link.answer(self._link.call("join", asdict(self._join)), JOIN_S)
        if not over or refused is None:
            raise WorkError(SILENT)
        if refused:
            raise RequestError(str(refused))
        self._is_open = self._has_joined = True

    def submit(self, request: Request) -> None:
        """Told with the next exchange, as all that is reported."""
        assert request.name not in self._entries, f"{request.name} is queued or held"
        self._entries[request.name] = _Entry(self._number(), request)
        self._soon()

    def withdraw(self, name: str) -> None:
        """See BrokerClient."""
        self._forget(name)

    def started(self, name: str) -> None:
        """See BrokerClient."""
        if name in self._entries:
            self._entries[name].is_started = True

    def not_placed(self, name: str, reason: str) -> None:
        """See BrokerClient."""
        entry = self._entries[name]
        self._entries[name] = _Entry(self._number(), entry.request, not_placed=reason or "it did not say why")
        self._soon()

    def ended(self, name: str) -> None:
        """See BrokerClient."""
        self._forget(name)

    def poll(self, wait_s: float = 0.0) -> Decisions:
        """Takes in the answer to the last report, and sends the next where it is time.

        Args:
            wait_s: Sends the next one at once, and waits for both answers, but no longer than that.
        """
        now_s = self._elapsed_s()
        ends_s = now_s + wait_s
        if self._call is not None:
            self._receive(self._call, now_s, wait_s)
        if wait_s > 0 and not self._trouble:
            self._next_s = now_s
        if self._call is None and self._is_open and now_s >= self._next_s:
            call = self._send(now_s)
            if wait_s > 0:
                self._receive(call, now_s, max(0.0, ends_s - self._elapsed_s()))
        decided, self._decided = self._decided, _Decided()
        return decided.decisions()

    def waiting_reason(self, name: str) -> str:
        """Says what was last known; asks with the next report."""
        self._asked.add(name)
        return self._trouble or self._reasons.get(name) or "waits for the broker's answer"

    def card_uses(self) -> Mapping[str, CardUse]:
        """See BrokerClient."""
        return self._card_uses

    def close(self) -> None:
        """Leaves the broker; what it does not hear, it finds out when the lease is over."""
        if self._is_open:
            self._link.answer(self._link.call("leave", self._join.driver), ANSWER_S)
            self._entries.clear()
            self._is_open = False

    def _forget(self, name: str) -> None:
        self._reasons.pop(name, None)
        if self._entries.pop(name, None) is not None:
            self._soon()

    def _number(self) -> int:
        self._submissions += 1
        return self._submissions

    def _soon(self) -> None:
        if not self._trouble:
            self._next_s = min(self._next_s, self._reported_s + SOON_S)

    def _send(self, now_s: float) -> _Call:
        if self._has_joined:
            call = self._link.call("exchange", self._join.driver, asdict(self._report()))
            self._call = _Call("exchange", call, now_s, dict(self._entries))
        else:
            self._call = _Call("join", self._link.call("join", asdict(self._join)), now_s)
        self._reported_s, self._next_s = now_s, now_s + EVERY_S
        return self._call

    def _report(self) -> Report:
        held = {name: one for name, one in self._entries.items() if one.allocation is not None}
        queued = {name: one for name, one in self._entries.items() if one.allocation is None}
        return Report(
            queued={name: one.submission for name, one in queued.items()},
            held={name: one.submission for name, one in held.items()},
            started=tuple(name for name, one in held.items() if one.is_started),
            not_placed={name: one.not_placed for name, one in queued.items() if one.not_placed},
            details=tuple(
                Details(request=one.request, allocation=one.allocation)
                for name, one in self._entries.items()
                if (name, one.submission) not in self._known
            ),
            explain=tuple(name for name in self._asked if name in queued),
        )

    def _receive(self, call: _Call, now_s: float, wait_s: float = 0.0) -> None:
        over, answer = self._link.answer(call.call, wait_s)
        limit_s = JOIN_S if call.method == "join" else ANSWER_S
        if not over and now_s - call.since_s < limit_s:
            return
        self._call = None
        if answer is None:
            self._stay_away(SILENT, now_s)
        elif call.method == "join":
            self._has_joined = not answer
            if answer:
                self._stay_away(str(answer), now_s)
            else:
                self._trouble, self._next_s = "", now_s
        else:
            self._take(from_mapping(Reply, cast("Mapping[str, object]", answer)), call, now_s)

    def _stay_away(self, trouble: str, now_s: float) -> None:
        self._trouble, self._next_s = trouble, now_s + RETRY_S

    def _take(self, reply: Reply, call: _Call, now_s: float) -> None:
        self._trouble = ""
        if not reply.known:
            self._has_joined, self._known, self._next_s = False, set(), now_s
            return
        self._known = {(name, one.submission) for name, one in call.sent.items() if name not in reply.missing}
        if reply.missing:
            self._next_s = now_s
        self._reasons.update(reply.reasons)
        self._card_uses = reply.card_uses
        self._asked &= set(self._entries) - set(reply.reasons)
        for allocation in reply.allocations:
            entry = self._present(allocation.name, call)
            if entry is not None and entry.allocation is None:
                entry.allocation, entry.not_placed = allocation, ""
                self._decided.allocations.append(allocation)
                self._soon()
        for pause in reply.pauses:
            entry = self._present(pause.name, call)
            if entry is not None and not entry.is_pausing:
                entry.is_pausing = True
                self._decided.pauses.append(pause)
        for refusal in reply.refusals:
            entry = self._present(refusal.name, call)
            if entry is not None:
                self._decided.refusals.append(refusal)
                self._forget(refusal.name)

    def _present(self, name: str, call: _Call) -> _Entry | None:
        """Returns the entry that an answer is about; None where it was withdrawn, or submitted anew, meanwhile."""
        entry = self._entries.get(name)
        return entry if entry is not None and entry is call.sent.get(name) else None
