"""What a team file gives whom at an instant, as plain values for `team`. Pure."""

from collections.abc import Mapping
from datetime import datetime

from cluster.scheduling.quotas import Team, next_change, open_window, quota_gpus


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
