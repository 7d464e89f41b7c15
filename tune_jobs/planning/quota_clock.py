"""When a planned sweep would end on what a team's quotas give its member. Pure; the clock is an argument."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tune_jobs.team.quotas import Team, next_change, quota_gpus

MOST_WEEKS = 8  # a plan that reaches further is no plan


@dataclass(frozen=True, kw_only=True)
class QuotaEnd:
    """The end of a sweep inside its member's own quota.

    Attributes:
        member: Whose quota.
        now_gpus: What it is at the start.
        ends_at: With a time zone; None where that is more than MOST_WEEKS away.
    """

    member: str
    now_gpus: float
    ends_at: datetime | None

    def describe(self) -> str:
        """Writes it for a person.

        >>> QuotaEnd(member="minji", now_gpus=1, ends_at=None).describe()
        "within minji's own quota (1 GPU now): not within 8 weeks; only lent GPUs would let it end"
        """
        quota = f"within {self.member}'s own quota ({self.now_gpus:g} GPU{'' if self.now_gpus == 1 else 's'} now)"
        if self.ends_at is None:
            return f"{quota}: not within {MOST_WEEKS} weeks; only lent GPUs would let it end"
        return f"{quota} it would end {self.ends_at:%a %d %b %H:%M}; lent GPUs may end it sooner"


def end_in_quota(team: Team, member: str, *, starts_at: datetime, makespan_s: float, gpus: float) -> QuotaEnd:
    """Says when a sweep would end if nobody lent it anything.

    The sweep is taken to go at one rate: it holds `gpus` on average, and where the quota is smaller it goes slower in
    proportion. A window that opens or closes on the way changes the rate at that moment.

    Args:
        team: Members and windows.
        member: Whose sweep it is.
        starts_at: With a time zone.
        makespan_s: How long it takes with all the cards that it can use.
        gpus: Cards that it then holds on average.

    Raises:
        RequestError: When the member is unknown.

    >>> from datetime import UTC
    >>> from tune_jobs.team.quotas import Member, Window
    >>> night = Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 4})
    >>> team = Team(members={"minji": Member(quota_gpus=1)}, windows=(night,), time_zone="UTC")
    >>> noon = datetime(2026, 11, 25, 12, tzinfo=UTC)  # ten hours at a quarter of the rate, then the rest at the whole
    >>> f"{end_in_quota(team, 'minji', starts_at=noon, makespan_s=4 * 3600, gpus=4).ends_at:%d %H:%M}"
    '25 23:30'
    """
    began = moment = starts_at.astimezone(UTC)  # sums of zoned times would ignore a change of clocks
    left_s = makespan_s
    now_gpus = quota_gpus(team, member, starts_at)
    while moment - began < timedelta(weeks=MOST_WEEKS):
        rate = min(1.0, quota_gpus(team, member, moment) / gpus) if gpus > 0 else 1.0
        change = next_change(team, moment)
        if rate > 0 and (change is None or left_s / rate <= (change - moment).total_seconds()):
            ends_at = moment + timedelta(seconds=left_s / rate)
            return QuotaEnd(member=member, now_gpus=now_gpus, ends_at=ends_at.astimezone(starts_at.tzinfo))
        if change is None:
            break
        left_s -= rate * (change - moment).total_seconds()
        moment = change
    return QuotaEnd(member=member, now_gpus=now_gpus, ends_at=None)
