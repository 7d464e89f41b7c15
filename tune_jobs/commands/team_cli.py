"""python -m tune_jobs team: who may use how many GPUs, who holds what, who waits and why."""

import argparse
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from common import cli
from common.errors import RequestError
from common.units import format_duration

Values = Mapping[str, object]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m tune_jobs`."""
    parser = commands.add_parser(
        "team",
        help="show who may use how many GPUs, who holds what, who waits and why",
        description="Shows the quotas of a team and, on a machine of a cluster, what its sweeps hold and wait for.",
        epilog="example: python -m tune_jobs team --address auto",
    )
    parser.add_argument("--file", type=Path, default=Path("team.yaml"), help="shown where no cluster is at hand")
    parser.add_argument("--address", metavar="IP:PORT", help="the cluster's head; `auto` on one of its machines")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="put another team file in force on the cluster")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for a person or for a program")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Shows the books.

    Raises:
        RequestError: When a file cannot be read, or there is neither a cluster nor a file.
        WorkError: When the books do not answer.
    """
    status = _status(chosen)
    if chosen.format == "json":
        cli.emit_json(status)
    else:
        cli.emit(text_of(status))
    return 0


def _status(chosen: argparse.Namespace) -> Values:
    from tune_jobs.driver.ray_session import looking_at
    from tune_jobs.team.quotas import load_team
    from tune_jobs.team.team_actor import apply_team, books_status
    from tune_jobs.team.team_books import team_status

    wanted = load_team(chosen.apply) if chosen.apply else None
    with looking_at(chosen.address) as found:
        if wanted is not None:
            if not found:
                raise RequestError("--apply needs a cluster: give --address, `auto` on one of its machines")
            apply_team(wanted, chosen.apply.resolve())
        status = books_status() if found else None
    if status is not None and status["in_force"]:
        return status
    if not chosen.file.exists():
        raise RequestError(
            f"{chosen.file} is not there, and no cluster with quotas is at hand; give --address or --file"
        )
    plan = {"in_force": False, "source": str(chosen.file), "held": [], "waiting": []}
    return plan | team_status(load_team(chosen.file), datetime.now(UTC))


def text_of(status: Values) -> str:
    """Lays the status out for a terminal.

    Args:
        status: As TeamBooks.status gives it, or team_status for a file alone.
    """
    now_s = cast("float", status["now_s"])
    lines = [_headline(status, now_s), _cards(status), ""]
    members = _rows(status, "members")
    header, columns = ["member", "quota", "focus"], ["member", "quota_gpus", "focus"]
    if status["in_force"]:
        header[2:2], columns[2:2] = ["holds", "waits for"], ["held_gpus", "waiting_gpus"]
    lines.append(cli.table(header, [[_cell(member[column]) for column in columns] for member in members]))
    held, waiting = _rows(status, "held"), _rows(status, "waiting")
    if held:
        rows = [
            [one["member"], one["sweep"], one["trial"], _cell(one["gpus"]), _kind(one), _age(one, now_s)]
            for one in sorted(held, key=lambda one: (str(one["member"]), cast("float", one["since_s"])))
        ]
        lines += ["", cli.table(["holds", "sweep", "trial", "GPUs", "", "for"], rows)]
    if waiting:
        rows = [
            [one["member"], one["sweep"], _with_further(one), _cell(one["gpus"]), _age(one, now_s), one["reason"]]
            for one in sorted(waiting, key=lambda one: cast("float", one["since_s"]))
        ]
        lines += ["", cli.table(["waits", "sweep", "trial", "GPUs", "for", "why"], rows)]
    return "\n".join(lines)


def _headline(status: Values, now_s: float) -> str:
    zone = zoneinfo.ZoneInfo(str(status["time_zone"]))
    parts = [f"{datetime.fromtimestamp(now_s, tz=zone):%a %H:%M} ({zone})"]
    parts.append(f"window {status['window']}" if status["window"] else "ordinary hours")
    change_s = cast("float | None", status["next_change_s"])
    if change_s is not None:
        change = datetime.fromtimestamp(change_s, tz=zone)
        parts.append(f"quotas change {change:%a %H:%M}, in {format_duration(change_s - now_s)}")
    return "   ".join(parts)


def _cards(status: Values) -> str:
    lends = "idle GPUs are lent" if status["lend_idle"] else "idle GPUs are not lent"
    if not status["in_force"]:
        return f"{status['source']}: not in force, as no cluster with a member's sweep was given (--address); {lends}"
    settling_s = cast("float", status["settling_s"])
    settles = f"; books were lost, full again in {format_duration(settling_s)}" if settling_s else ""
    cards = f"{status['capacity_gpus']:g} GPUs, {status['free_gpus']:g} free"
    return f"{cards}; {lends}; in force: {status['source']}{settles}"


def _rows(status: Values, name: str) -> list[Values]:
    return cast("list[Values]", status[name])


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, 4)


def _kind(one: Values) -> str:
    lent = "lent" if one["kind"] == "lent" else ""
    return lent if one["running"] else f"{lent} not placed yet".strip()


def _age(one: Values, now_s: float) -> str:
    return format_duration(max(0.0, now_s - cast("float", one["since_s"])))


def _with_further(one: Values) -> str:
    further = cast("int", one["further"])
    return f"{one['trial']} and {further} more" if further else str(one["trial"])
