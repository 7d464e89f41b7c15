"""When a planned sweep would end on what a team's quotas give its member. Pure; the clock is an argument."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cluster.machines.hardware import Inventory
from cluster.scheduling.quotas import Team, quota_gpus
from tune_jobs.placing.submission import submission_limits
from tune_jobs.planning.plan_values import PlannedPhase, SweepPlan
from tune_jobs.planning.timeline import Quota, run_timeline


@dataclass(frozen=True, kw_only=True)
class QuotaEnd:
    """The end of a sweep inside its member's own quota.

    Attributes:
        member: Whose quota.
        now_gpus: What it is at the start.
        ends_at: With a time zone; None where it never would.
    """

    member: str
    now_gpus: float
    ends_at: datetime | None

    def describe(self) -> str:
        """Writes it for a person.

        >>> QuotaEnd(member="minji", now_gpus=1, ends_at=None).describe()
        "within minji's own quota (1 GPU now) it would never end; only lent GPUs would let it"
        """
        quota = f"within {self.member}'s own quota ({self.now_gpus:g} GPU{'' if self.now_gpus == 1 else 's'} now)"
        if self.ends_at is None:
            return f"{quota} it would never end; only lent GPUs would let it"
        return f"{quota} it would end {self.ends_at:%a %d %b %H:%M %Z}; lent GPUs may end it sooner"


def end_in_quota(plan: SweepPlan, team: Team, member: str, starts_at: datetime) -> QuotaEnd:
    """Says when a sweep would end if nobody lent it anything: its broker, with windows that open and close.

    Args:
        plan: With times.
        team: Members and windows.
        member: Whose sweep it is.
        starts_at: With a time zone.

    Raises:
        RequestError: When the member is unknown.
    """
    now_gpus = quota_gpus(team, member, starts_at)
    moment: datetime | None = starts_at.astimezone(UTC)  # sums of zoned times would ignore a change of clocks
    for phase in plan.phases:
        if moment is not None:
            quota = Quota(team=replace(team, lend_idle=False), member=member, starts_at=moment)
            moment = _phase_end(phase, plan.inventory, quota)
    ends_at = None if moment is None else moment.astimezone(starts_at.tzinfo)
    return QuotaEnd(member=member, now_gpus=now_gpus, ends_at=ends_at)


def _phase_end(phase: PlannedPhase, inventory: Inventory, quota: Quota) -> datetime | None:
    timeline = run_timeline(
        phase.timed_trials,
        inventory,
        submission_limits(phase.sweep, inventory),
        quota=quota,
    )
    return None if timeline is None else quota.starts_at + timedelta(seconds=timeline.makespan)
