"""Requests that wait, grouped by what they take. Pure."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cluster.scheduling.request import Request

WaitsFor = Literal["room", "quota", "concurrency"]
Footprints = tuple[tuple[str, int, int, int, int, bool], ...]
Key = tuple[bool, float, int, str]  # not first, minus its duration, age and name of a request; the smallest goes first
Profile = tuple[tuple[float, float], ...]  # of each alternative: part of a card kept busy, and relative speed

Type = tuple[Footprints, Profile]  # requests of one type take the same and run alike, whosever they are


@dataclass(frozen=True, slots=True)
class KindKey:
    """What requests of one kind have in common: the same room is as good for one as for another.

    Attributes:
        sweep: Whose they are.
        type: What each of their alternatives takes, and how it runs.
        avoid: Names of nodes that they are kept off.
    """

    sweep: str
    type: Type
    avoid: frozenset[str] = frozenset()


@dataclass(slots=True)
class Kind:
    """Requests of one kind: in the order in which they were submitted; where durations are known, the longest first.

    Attributes:
        key: What they have in common.
        models: GPU models on which they can run.
        least_gpus: The fewest GPUs with which one can run.
        is_known: Whether durations and busy parts are.
        takes_one_card: Whether it does in every alternative.
        overtaken: How many later requests got room on one of these models while these waited for it.
        passed_over: How many requests were preferred to these by what they make of a card.
        kept: Names of the nodes that are kept for these; later requests do not start there.
        waits_for: What the first of these waits for, as the last pass found.
        work_s: Duration of all of them, each alone on its quickest model; 0 where nobody knows.
        is_possible: Whether a node of the cluster is large enough for one; None where nobody has checked yet.
        homeless_since_s: Since when none is.
    """

    key: KindKey
    models: frozenset[str]
    least_gpus: float
    is_known: bool
    takes_one_card: bool
    keys: list[Key] = field(default_factory=list)
    overtaken: int = 0
    passed_over: int = 0
    kept: frozenset[str] = frozenset()
    waits_for: WaitsFor = "room"
    work_s: float = 0.0
    is_possible: bool | None = None
    homeless_since_s: float | None = None


class Queue:
    """All requests that wait, by sweep and kind.

    >>> from cluster.scheduling.request import Alternative
    >>> queue, alternative = Queue(), Alternative(model="", share=None, cpus=1)
    >>> for name, first in (("s/1", False), ("s/2", False), ("s/3", True)):
    ...     queue.add(Request(name=name, sweep="s", alternatives=(alternative,), first=first))
    >>> (kind,) = queue.kinds()
    >>> [queue.pop(kind).name for _ in range(3)]
    ['s/3', 's/1', 's/2']
    """

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}
        self._kind_of: dict[str, Kind] = {}
        self._kinds: dict[KindKey, Kind] = {}
        self._keys: dict[str, Key] = {}
        self._next_age = 0

    def __contains__(self, name: str) -> bool:
        return name in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def kinds(self) -> tuple[Kind, ...]:
        """Returns all kinds of which a request waits."""
        return tuple(self._kinds.values())

    def kind(self, name: str) -> Kind:
        """Returns the kind of a request that waits."""
        return self._kind_of[name]

    def request(self, name: str) -> Request:
        """Returns a request that waits."""
        return self._requests[name]

    def head(self, kind: Kind) -> Request:
        """Returns the request of a kind that goes first."""
        return self._requests[kind.keys[0][-1]]

    def add(self, request: Request, *, age: int | None = None, avoid: frozenset[str] = frozenset()) -> None:
        """Puts a request behind the others of its sweep, or where its age puts it.

        Args:
            request: Its name is not in the queue.
            age: Of a request that was allocated and comes back.
            avoid: Names of nodes that it is kept off.
        """
        assert request.name not in self._requests, request.name
        age = self.new_age() if age is None else age
        key = KindKey(request.sweep, type_of(request), avoid)
        if key not in self._kinds:
            footprints, profile = key.type
            self._kinds[key] = Kind(
                key=key,
                models=frozenset(one.model for one in request.alternatives),
                least_gpus=request.least_gpus,
                is_known=bool(profile),
                takes_one_card=all(footprint[2] == 1 for footprint in footprints),
            )
        kind = self._kinds[key]
        duration_s = request.quickest_s if key.type[1] else None
        self._keys[request.name] = (not request.first, -(duration_s or 0.0), age, request.name)
        insort(kind.keys, self._keys[request.name])
        kind.work_s += request.quickest_s or 0.0
        self._requests[request.name], self._kind_of[request.name] = request, kind

    def age(self, name: str) -> int:
        """Returns the age of a request that waits; the smaller, the older."""
        return self._keys[name][2]

    def new_age(self) -> int:
        """Returns an age younger than all before."""
        self._next_age += 1
        return self._next_age

    def pop(self, kind: Kind) -> Request:
        """Takes the first request of a kind out of the queue."""
        request = self.head(kind)
        kind.kept = frozenset()
        self.remove(request.name)
        return request

    def remove(self, name: str) -> None:
        """Takes a request out of the queue."""
        request, kind = self._requests.pop(name), self._kind_of.pop(name)
        del kind.keys[bisect_left(kind.keys, self._keys.pop(name))]
        kind.work_s -= request.quickest_s or 0.0
        if not kind.keys:
            del self._kinds[kind.key]


def type_of(request: Request) -> Type:
    """Returns what a request takes, and how it runs where durations and busy parts are known."""
    return tuple(one.footprint for one in request.alternatives), _profile_of(request)


def _profile_of(request: Request) -> Profile:
    """Returns how each alternative runs, relative to the quickest; empty where nobody knows."""
    quickest_s, found = request.quickest_s, []
    for one in request.alternatives:
        if quickest_s is None or one.expected_s is None or one.busy is None:
            return ()
        speed = quickest_s / one.expected_s if one.expected_s > 0 else 1.0
        found.append((round(min(1.0, one.busy), 2), round(speed / one.bundles, 3)))
    return tuple(found)
