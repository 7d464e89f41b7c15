"""What a request waits for, and what a broker holds, for people. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cluster.machines.hardware import Inventory
from cluster.scheduling.capacity import Capacity
from cluster.scheduling.held import Held, SweepUse
from cluster.scheduling.queue import WaitsFor
from cluster.scheduling.quota_use import QuotaUse
from cluster.scheduling.quotas import Team, next_change, open_window, quota_gpus
from cluster.scheduling.request import Alternative, Request
from tuning_common.units import counted, format_bytes, format_duration

_NAMED = 6  # holders; more are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What a reason is given from.

    Attributes:
        held: All allocations.
        use: What members hold of their quotas; None where there are none.
        closed_s: Seconds until a broker that replaces a lost one allocates again; 0 where it does.
    """

    held: Sequence[Held]
    use: QuotaUse | None
    closed_s: float


def explain_waiting(waits_for: WaitsFor, request: Request, sweep: SweepUse, found: Circumstances) -> str:
    """Says what a request waits for."""
    if found.closed_s > 0:
        return (
            f"the broker was started again; it allocates in {format_duration(found.closed_s)}, when all have reported"
        )
    if waits_for == "concurrency":
        return f"its sweep runs {counted(sweep.count, 'trial')}, as many as may run at a time"
    if waits_for == "quota" and found.use is not None:
        lends = "free GPUs are owed to others" if found.use.team.lend_idle else "the team does not lend idle GPUs"
        return f"{found.use.describe(sweep.member)}; {lends}{found.use.until()}"
    return _explain_room(request, found.held)


def explain_refused(request: Request, inventory: Inventory) -> str:
    """Says why no node can ever hold a request."""
    return f"needs {_needs(request.alternatives)}, found {inventory.describe()}"


def status_of(
    capacity: Capacity, sweeps: dict[str, SweepUse], waiting: Iterable[tuple[Request, str]], found: Circumstances
) -> dict[str, object]:
    """Lists who holds what, who waits and why, and what quotas allow; plain values."""
    borrowed = {one.request.name for one in found.use.borrowed(found.held)} if found.use else set()
    waiting = tuple(waiting)
    return {
        "in_force": found.use is not None,
        "capacity_gpus": capacity.gpus,
        "free_gpus": round(capacity.free_gpus, 4),
        "others_gpus": round(capacity.others_gpus, 4),
        "closed_s": found.closed_s,
        "held": [
            {
                "member": one.member,
                "sweep": one.request.sweep,
                "trial": one.request.name,
                "gpus": one.gpus,
                "gpu_model": one.allocation.alternative.model,
                "nodes": list(one.allocation.nodes),
                "since_s": one.since_s,
                "kind": "borrowed" if one.request.name in borrowed else "own",
                "running": one.started,
                "pause_reason": one.pause_reason,
            }
            for one in found.held
        ],
        "waiting": [
            {
                "member": sweeps[request.sweep].member,
                "sweep": request.sweep,
                "trial": request.name,
                "gpus": request.least_gpus,
                "reason": reason,
            }
            for request, reason in waiting
        ],
    } | ({} if found.use is None else {"members": _members(found.use, sweeps, waiting)})


def describe_team(team: Team, instant: datetime, status: Mapping[str, object] | None = None) -> dict[str, object]:
    """Lists quotas and members.

    Args:
        team: The file.
        instant: With a time zone.
        status: As Broker.status gives it, for what members hold; None where there is no cluster.
    """
    window, change = open_window(team, instant), next_change(team, instant)
    used = status["members"] if status is not None else ()
    assert isinstance(used, list | tuple), used
    use = {str(one["member"]): one for one in used}
    return {
        "time_zone": team.time_zone,
        "lend_idle": team.lend_idle,
        "now_s": instant.timestamp(),
        "window": window.name if window else None,
        "next_change_s": change.timestamp() if change else None,
        "members": [
            {
                "member": name,
                "focus": member.focus,
                "models": list(member.models),
                "quota_gpus": quota_gpus(team, name, instant),
                "held_gpus": use[name]["held_gpus"] if name in use else None,
                "waiting_gpus": use[name]["waiting_gpus"] if name in use else None,
            }
            for name, member in team.members.items()
        ],
    }


def _members(
    use: QuotaUse, sweeps: dict[str, SweepUse], waiting: Sequence[tuple[Request, str]]
) -> list[dict[str, object]]:
    return [
        {
            "member": name,
            "held_gpus": round(use.quota_gpus(name) - use.left_gpus(name), 4),
            "waiting_gpus": round(sum(one.least_gpus for one, _ in waiting if sweeps[one.sweep].member == name), 4),
        }
        for name in use.team.members
    ]


def _explain_room(request: Request, held: Sequence[Held]) -> str:
    models = {one.model for one in request.alternatives}
    holders = [one for one in held if one.gpus and one.allocation.alternative.model in models]
    if not any(one.gpus for one in request.alternatives):
        return f"needs {_needs(request.alternatives)}, beside {counted(len(held), 'running trial')}"
    if not holders:
        return f"needs {_needs(request.alternatives)}; no trial of the broker runs there, so others hold them"
    named = " and ".join(f"{one.request.name} holds {one.gpus:g}" for one in holders[:_NAMED])
    more = f" and {len(holders) - _NAMED} more hold some" if len(holders) > _NAMED else ""
    return f"needs {_needs(request.alternatives)}, where {named}{more}"


def _needs(alternatives: Sequence[Alternative]) -> str:
    """Says what any of these alternatives takes.

    >>> from cluster.scheduling.shares import Share
    >>> _needs([Alternative(model=model, share=Share(units=5000), cpus=2) for model in ("A40", "L4")])
    '0.5 of a card (A40 or L4) with 2 CPUs'
    """
    models: dict[tuple[str, str], list[str]] = {}  # by share and what goes with it
    for one in alternatives:
        memory = f" and {format_bytes(one.host_bytes)} of host memory" if one.host_bytes else ""
        models.setdefault((str(one.share or ""), f"{counted(one.cpus, 'CPU')}{memory}"), []).append(one.model)
    return " or ".join(
        f"{share} ({' or '.join(dict.fromkeys(names))}) with {rest}" if share else f"{rest} of one machine"
        for (share, rest), names in models.items()
    )
