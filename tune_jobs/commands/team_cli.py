"""python -m tune_jobs team: shows quotas, allocations, and waiting trials with the reasons."""

import argparse
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from tuning_common import cli
from tuning_common.errors import RequestError, WorkError
from tuning_common.units import format_duration

Values = Mapping[str, object]
ANSWER_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Shows the quotas of a team and, on a machine of a cluster, what its sweeps hold and wait for."
    parser.epilog = "example: python -m tune_jobs team --address auto"
    parser.add_argument("--file", type=Path, default=Path("team.yaml"), help="shown where no cluster is at hand")
    parser.add_argument("--address", metavar="IP:PORT", help="the cluster's head; `auto` on one of its machines")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="put another team file in force on the cluster")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Shows the broker's status, or the team file.

    Raises:
        RequestError: When a file cannot be read, or there is neither a broker nor a file.
        WorkError: When the broker does not answer.
    """
    status = _status(chosen)
    cli.answer(chosen.format, status, text_of(status))
    return 0


def _status(chosen: argparse.Namespace) -> Values:
    from cluster.scheduling.broker_process import apply_team, broker_status
    from cluster.scheduling.explain import describe_team
    from cluster.scheduling.quotas import load_team
    from tune_jobs.driver.ray_session import looking_at

    wanted = load_team(chosen.apply) if chosen.apply else None
    with looking_at(chosen.address) as found:
        if wanted is not None:
            if not found:
                raise RequestError("--apply needs a cluster: give --address, `auto` on one of its machines")
            apply_team(wanted, str(chosen.apply.resolve()))
        status = broker_status(ANSWER_S) if found else None
    if status is not None:
        return status
    if wanted is not None:
        raise WorkError("the quotas are in force, but the broker did not report its allocations; run the command again")
    if not chosen.file.exists():
        raise RequestError(
            f"{chosen.file} does not exist, and no cluster with a sweep is at hand; give --address or --file"
        )
    plan = {"in_force": False, "source": str(chosen.file), "held": [], "waiting": []}
    return plan | describe_team(load_team(chosen.file), datetime.now(UTC))


def text_of(status: Values) -> str:
    """Formats the status for a terminal.

    Args:
        status: The value of BrokerService.status, or of describe_team for a file alone.
    """
    now_s = cast("float", status["now_s"])
    lines = [_headline(status, now_s), _cards(status)]
    lines += [
        f"other Ray programs hold {_cell(one['gpus'])} of the GPUs of {one['node']}" for one in _rows(status, "others")
    ]
    lines += [f"problem: {problem}" for problem in cast("list[str]", status.get("problems", []))]
    members, held, waiting = _rows(status, "members"), _rows(status, "held"), _rows(status, "waiting")
    if members:
        header, columns = ["member", "quota", "focus"], ["member", "quota_gpus", "focus"]
        if status["in_force"]:
            header[2:2], columns[2:2] = ["holds", "waits for"], ["held_gpus", "waiting_gpus"]
        lines += ["", cli.table(header, [[_cell(member[column]) for column in columns] for member in members])]
    if held:
        rows = [
            [one["member"], one["trial"], _cell(one["gpus"]), one["gpu_model"], _state(one), _age(one, now_s)]
            for one in sorted(held, key=lambda one: (str(one["member"]), cast("float", one["since_s"])))
        ]
        lines += ["", cli.table(["holds", "trial", "GPUs", "GPU model", "", "for"], rows)]
    if waiting:
        rows = [[one["member"], one["trial"], _cell(one["gpus"]), one["reason"]] for one in waiting[:_SHOWN]]
        lines += ["", cli.table(["waits", "trial", "GPUs", "why"], rows)]
        lines += [f"and {len(waiting) - _SHOWN} more"] if len(waiting) > _SHOWN else []
    return "\n".join(lines)


_SHOWN = 20  # trials that wait; all of them with --format json


def _headline(status: Values, now_s: float) -> str:
    zone = zoneinfo.ZoneInfo(str(status["time_zone"])) if "time_zone" in status else None
    shown = datetime.fromtimestamp(now_s, tz=zone)
    if zone is None:
        return f"{shown:%a %H:%M}   no quotas"
    parts = [f"{shown:%a %H:%M} ({zone})", f"window {status['window']}" if status["window"] else "ordinary hours"]
    change_s = cast("float | None", status["next_change_s"])
    if change_s is not None:
        change = datetime.fromtimestamp(change_s, tz=zone)
        parts.append(f"quotas change {change:%a %H:%M}, in {format_duration(change_s - now_s)}")
    return "   ".join(parts)


def _cards(status: Values) -> str:
    lends = "idle GPUs are lent" if status.get("lend_idle") else "idle GPUs are not lent"
    if "capacity_gpus" not in status:
        return f"{status['source']}: not in force, as no cluster with a sweep was given (--address); {lends}"
    parts = [f"{status['capacity_gpus']:g} GPUs, {status['free_gpus']:g} free"]
    if status["in_force"]:
        parts += [lends, f"in force: {status['source']}"]
    closed_s = cast("float", status["closed_s"])
    if closed_s:
        parts.append(f"the broker was started again and allocates in {format_duration(closed_s)}")
    return "; ".join(parts)


def _rows(status: Values, name: str) -> list[Values]:
    return cast("list[Values]", status.get(name, []))


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, 4)


def _state(one: Values) -> str:
    borrowed = "borrowed" if one["kind"] == "borrowed" else ""
    pauses = "pauses" if one["pause_reason"] else ""
    return " ".join(part for part in (borrowed, pauses, "" if one["running"] else "starts") if part)


def _age(one: Values, now_s: float) -> str:
    return format_duration(max(0.0, now_s - cast("float", one["since_s"])))
