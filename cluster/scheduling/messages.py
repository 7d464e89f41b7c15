"""What a sweep's driver and the broker's process exchange; travels as plain dictionaries (asdict, from_mapping).

A report lists all that its sweep asks for and holds, so no lost message matters: the next one lists it all again.
Names in messages are the sweep's own. A name may be submitted again after it ended; its submission number grows then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.scheduling.events import Pause, Refusal
from cluster.scheduling.request import Allocation, CardUse, Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """A driver makes its sweep known.

    Attributes:
        driver: Unique to the driver's process.
        job: Id of its job in Ray: what this job's placement groups hold, the broker has granted.
        sweep: Name of the sweep.
        member: Whose quota it uses; None where it names nobody.
        models: What it tunes.
        max_concurrent: The most of its trials that may run at a time.
        team: Content of its team file, in force from now on where no other is; None without a member.
        team_source: Where that file is, for people.
    """

    driver: str
    job: str
    sweep: str
    member: str | None = None
    models: tuple[str, ...] = ()
    max_concurrent: int | None = None
    team: Mapping[str, object] | None = None
    team_source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """A request in full, and what it was granted.

    Attributes:
        request: As it was submitted.
        allocation: None while it waits.
    """

    request: Request
    allocation: Allocation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a sweep asks for and holds.

    Attributes:
        queued: Submission number of every request that waits, in the order in which they were submitted.
        held: Submission number of every allocation that the driver knows of.
        started: Those of `held` whose processes run.
        not_placed: Why Ray did not place an allocation, by the name of its request, which is queued again.
        details: In full: every request that the broker may not know.
        explain: Names of queued requests; the reply has what they wait for.
    """

    queued: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    started: tuple[str, ...] = ()
    not_placed: Mapping[str, str] = field(default_factory=dict)
    details: tuple[Details, ...] = ()
    explain: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the broker answers to a report.

    Attributes:
        known: False where the driver must join first: the broker is new, or the driver was silent for too long.
        missing: Names that the broker does not know in full.
        allocations: Queued requests that may start; again until the driver reports them as held.
        pauses: Held allocations to give back; again until they are.
        refusals: Queued requests that can never run; again until they are withdrawn.
        reasons: What the requests of `explain` wait for.
        card_uses: What runs on the cards of its trials, by the names of their requests.
    """

    known: bool = True
    missing: tuple[str, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    pauses: tuple[Pause, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    card_uses: Mapping[str, CardUse] = field(default_factory=dict)
