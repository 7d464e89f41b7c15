"""The team's books in Ray: one named actor for the whole cluster, found by every sweep and by `team`.

It outlives its drivers (detached), is started again elsewhere when its node dies, and holds nothing that the drivers
would not tell again (team_books). What it is told and answers are plain values: drivers may be of another version.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from cluster.machines.metrics import METER_S, Meters
from common.errors import RequestError, WorkError
from common.strict import from_mapping
from tune_jobs.config.sweep import Sweep
from tune_jobs.team.admission import Admission, OpenAdmission, TeamAdmission
from tune_jobs.team.quotas import Team, load_team, refuse_models
from tune_jobs.team.team_books import Answer, TeamBooks, Telling

NAME, NAMESPACE = "team-books", "dialogue-summarizer-tuning"
ANSWER_S = 3.0  # in good times they answer in milliseconds; Tune's thread waits
ENTER_S = 60.0  # the actor's process may have to start first
CAPACITY_S = 2.0
Values = dict[str, object]


class BooksActor:
    """TeamBooks with this process's clocks, and the cluster's capacity.

    Args:
        now: Unix seconds; injected in tests.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        import ray

        lost = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._books = TeamBooks(elapsed_s=time.monotonic, now=now, lost=lost)
        self._capacity_gpus, self._read_s = 0.0, -CAPACITY_S
        self._meters, self._measured_s = Meters(), -METER_S

    def enter(self, driver: str, sweep: str, member: str, models: Sequence[str], team: Values, source: str) -> str:
        """Takes a sweep in; returns why not, or nothing."""
        try:
            self._books.enter(
                driver, sweep=sweep, member=member, models=models, team=from_mapping(Team, team), source=source
            )
        except RequestError as error:
            return str(error)
        return ""

    def apply(self, team: Values, source: str) -> str:
        """Puts other quotas in force; returns why not, or nothing."""
        try:
            self._books.apply(from_mapping(Team, team), source)
        except RequestError as error:
            return str(error)
        return ""

    def exchange(self, driver: str, telling: Values) -> Values:
        """Hears a driver and answers."""
        answer = asdict(self._books.exchange(driver, from_mapping(Telling, telling), self._capacity()))
        self._measure()
        return answer

    def leave(self, driver: str) -> None:
        """A sweep is over."""
        self._books.leave(driver)

    def status(self) -> Values:
        """Tells who holds what and who waits."""
        return self._books.status(self._capacity())

    def in_force(self) -> bool:
        """Whether the cluster has quotas."""
        return self._books.in_force

    def _measure(self) -> None:
        if time.monotonic() - self._measured_s < METER_S:
            return
        self._measured_s = time.monotonic()
        for member in cast("list[Values]", self._books.status(self._capacity())["members"]):
            for name in ("quota", "held", "waiting"):
                gpus = float(cast("float", member[f"{name}_gpus"]))
                self._meters.gauge(f"tuning_member_{name}_gpus", gpus, member=str(member["member"]))

    def _capacity(self) -> float:
        import ray

        if time.monotonic() - self._read_s >= CAPACITY_S:
            self._capacity_gpus, self._read_s = float(ray.cluster_resources().get("GPU", 0.0)), time.monotonic()
        return self._capacity_gpus


def admission_for(sweep: Sweep) -> Admission:
    """Returns what lets the trials of a sweep in; starts and asks nothing yet.

    Raises:
        RequestError: When its member or models are not the team file's.
    """
    if sweep.team.member is None:
        return OpenAdmission()
    source = Path(sweep.team.file)
    team = load_team(source)
    models = models_of(sweep)
    refuse_models(team, sweep.team.member, models)
    return team_admission(sweep=sweep.name, member=sweep.team.member, models=models, team=team, source=source)


def refuse_without_member(sweep: Sweep) -> None:
    """Refuses a sweep of nobody's on a cluster with quotas, which must be connected.

    Raises:
        RequestError: Says how to name the member.
    """
    actor = _found() if sweep.team.member is None else None
    if actor is not None and _Desk(actor).ask("in_force", ANSWER_S):
        raise RequestError(
            f"{sweep.source}: this cluster has quotas and the sweep does not say whose it is; write"
            " `team: {member: NAME}` into it; python -m tune_jobs team shows the members"
        )


def models_of(sweep: Sweep) -> tuple[str, ...]:
    """Lists the models that a sweep tunes."""
    values = next((parameter.values() for parameter in sweep.space.parameters if parameter.name == "model"), None)
    return tuple(str(value) for value in values or (sweep.base.model,))


def team_admission(*, sweep: str, member: str, models: Sequence[str], team: Team, source: Path) -> TeamAdmission:
    """Returns the way into the books of the cluster that this process is connected to, or will be.

    Args:
        sweep: Its name.
        member: Whose quota it uses.
        models: What it tunes.
        team: The team file.
        source: Where that is.
    """
    driver = f"{socket.gethostname()}:{os.getpid()}:{time.time():.0f}"
    desks: list[_Desk] = []

    def books() -> _Desk:
        if not desks:
            desks.append(_Desk(_started()))
        return desks[0]

    def enter() -> None:
        refused = books().ask("enter", ENTER_S, driver, sweep, member, list(models), asdict(team), str(source))
        if refused is None:
            raise WorkError("the team's books do not answer; is the cluster's head reachable?")
        if refused:
            raise RequestError(str(refused))

    def exchange(telling: Telling) -> Answer | None:
        answer = books().ask("exchange", ANSWER_S, driver, asdict(telling))
        return None if answer is None else from_mapping(Answer, cast("Mapping[str, object]", answer))

    return TeamAdmission(exchange, enter, lambda: cast("None", books().ask("leave", ANSWER_S, driver)))


def books_status() -> Values | None:
    """Asks the books of the cluster at hand; None where there are none."""
    actor = _found()
    return None if actor is None else cast("Values | None", _Desk(actor).ask("status", ANSWER_S))


def apply_team(team: Team, source: Path) -> None:
    """Puts a team file in force on the cluster at hand.

    Raises:
        RequestError: When it has no place for a member whose sweep runs.
        WorkError: When the books do not answer.
    """
    refused = _Desk(_started()).ask("apply", ENTER_S, asdict(team), str(source))
    if refused is None:
        raise WorkError("the team's books do not answer; is the cluster's head reachable?")
    if refused:
        raise RequestError(str(refused))


class _Desk:
    """Calls of the actor that never hold the caller for long and never raise for a cluster in trouble."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def ask(self, method: str, timeout_s: float, *arguments: object) -> object | None:
        """Returns the answer; None where there is none in time."""
        import ray

        try:
            return cast("object", ray.get(getattr(self._actor, method).remote(*arguments), timeout=timeout_s))
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError, ray.exceptions.RaySystemError):
            return None


def _started() -> object:
    import ray

    options = {
        "name": NAME,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
    }
    return ray.remote(BooksActor).options(**options).remote()


def _found() -> object | None:
    import ray

    try:
        return cast("object", ray.get_actor(NAME, namespace=NAMESPACE))
    except ValueError:
        return None
