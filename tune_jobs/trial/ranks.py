"""A trial on several cards: starts a process on each, passes on what the first one reports, ends all together.

The trial's own process does not train. It stays what it is for every trial: it reports to Tune, keeps steps, recovers
from an out-of-memory with a smaller shape. So early stopping, pauses and checkpoints are the same with any number of
cards, and a process that hangs in the midst of an exchange with a dead one is simply ended.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, cast

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dialsum.config import RunConfig
from dialsum.ranks import MEETING_FILE
from dialsum.reporter import Reporter
from tune_jobs.records.trial_spec import FailureKind, TrialSpec
from tune_jobs.trial.failures import classify
from tune_jobs.trial.hold import DeviceOf, card_of
from tune_jobs.trial.rank_process import THREADS, RankMessage, RankProcess, RankTask
from tuning_common.strict import from_mapping

GRACE_S = 5.0  # for the others to say what happened to them: the first to fail is often not the one to blame
_LOOPBACK = "lo"
_TELLING: tuple[FailureKind, ...] = (
    "out_of_memory", "host_memory", "diverged", "wrong_request", "work_failed", "worker_lost", "stalled", "error",
)  # fmt: skip


class _Method(Protocol):
    """A method of an actor."""

    def remote(self, *arguments: object) -> "ray.ObjectRef[object]":
        """Calls it and does not wait."""
        ...


class _Rank(Protocol):
    """The handle of a rank_process.RankProcess."""

    seat: _Method
    train: _Method
    messages: _Method
    answer: _Method


class RankTraining:
    """Trains on all cards of the trial; has the interface of dialsum.trainer.train.

    Args:
        spec: The trial; its bundle says how many.
        where: Gets the cards of all processes as `trial/card`, and the processes' numbers as `trial/processes`.
        waiting: Is called with the reason while a process waits for its card.
        device_of: See hold.hold.
    """

    def __init__(
        self,
        spec: TrialSpec,
        where: dict[str, object],
        waiting: Callable[[str], None],
        device_of: DeviceOf = card_of,
    ) -> None:
        self._spec, self._where, self._waiting, self._device_of = spec, where, waiting, device_of

    def __call__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        reporter: Reporter,
        resume_from: Path | None,
        cache_dir: Path,
        limit_bytes: int | None,
    ) -> None:
        """Trains; see dialsum.trainer.train. Each process is held to its own card, so there is no limit here.

        Raises:
            SystemExit: When the reporter ends the trial.
            Exception: Of all processes' failures the one that the others followed from.
        """
        del folder, cache_dir, limit_bytes  # the specification names both folders
        with _meeting(spread=self._spec.bundle.spread) as variables, _started(self._spec) as ranks:
            self._add_locations(ranks)
            tasks = [
                RankTask(
                    spec=self._spec,
                    config=config.to_dict(),
                    rank=rank,
                    size=len(ranks),
                    resume_from=None if resume_from is None else str(resume_from),
                    variables=variables | _seen_by(rank, self._spec),
                )
                for rank in range(len(ranks))
            ]
            self._follow(ranks, tasks, reporter)

    def _follow(self, ranks: Sequence[_Rank], tasks: Sequence[RankTask], reporter: Reporter) -> None:
        """Passes on the messages of all processes until each has ended; raises at the first failure."""
        running = [rank.train.remote(asdict(task), self._device_of) for rank, task in zip(ranks, tasks, strict=True)]
        open_calls = {rank.messages.remote(): rank for rank in ranks}
        while running or open_calls:
            done, _ = ray.wait([*running, *open_calls], num_returns=1)
            try:
                received = ray.get(done[0])
            except Exception as error:  # of the process, or that it is gone
                others = _failures([one for one in running if one != done[0]])
                raise root_cause([_own_error(error), *others]) from None
            if done[0] in running:
                running.remove(done[0])
                continue
            rank = open_calls.pop(done[0])
            messages = [from_mapping(RankMessage, one, where="message of a rank") for one in received]
            for message in messages:
                self._pass_on(message, rank, reporter)
            if messages[-1].kind != "end":
                open_calls[rank.messages.remote()] = rank

    def _pass_on(self, message: RankMessage, rank: _Rank, reporter: Reporter) -> None:
        checkpoint = None if message.checkpoint is None else Path(message.checkpoint)
        if message.kind == "waiting":
            self._waiting(message.reason)
        elif message.kind == "log":
            reporter.log(message.metrics)
        elif message.kind == "report":
            reporter.report(message.metrics, checkpoint)
            rank.answer.remote()
        elif message.kind == "interrupted":
            assert checkpoint is not None
            reporter.interrupted(checkpoint)
            rank.answer.remote()

    def _add_locations(self, ranks: Sequence[_Rank]) -> None:
        """Names cards of other hosts with their address; the first process asked Ray for none, so it names its own."""
        seats = cast("list[tuple[str, list[str], int]]", ray.get([rank.seat.remote() for rank in ranks]))
        here = seats[0][0]
        cards = [str(self._where.get("trial/card", "")).split(",")[0]]
        cards += [card if host == here else f"{host}:{card}" for host, held, _ in seats[1:] for card in held]
        self._where["trial/card"] = ",".join(cards)
        self._where["trial/processes"] = ",".join(str(process) for *_, process in seats)


def root_cause(errors: Sequence[Exception]) -> Exception:
    """Returns the failure that the others followed from.

    When one process ends, the others' exchange with it fails: theirs are errors of no kind.

    >>> root_cause([RuntimeError("Connection closed by peer"), MemoryError()])
    MemoryError()
    """
    return min(errors, key=lambda error: _TELLING.index(classify(error)))


def _failures(running: "Sequence[ray.ObjectRef[object]]") -> list[Exception]:
    """Waits a little for the other processes and returns what ended those that ended too."""
    if not running:
        return []
    failures: list[Exception] = []
    ended, _ = ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)
    for one in ended:
        try:
            ray.get(one)
        except Exception as error:
            failures.append(_own_error(error))
    return failures


def _own_error(error: Exception) -> Exception:
    """What was raised in a process, without the traceback that Ray puts around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(error, RayTaskError) and isinstance(cause, Exception) else error


@contextmanager
def _started(spec: TrialSpec) -> Iterator[list[_Rank]]:
    """One process in each bundle of the trial's placement group; none is left afterwards.

    The trial's own process holds the first bundle, so the process there requests nothing and is given its card.
    """
    group = ray.util.get_current_placement_group()
    assert group is not None, "a trial has a placement group"
    assert len(group.bundle_specs) == spec.bundle.ranks, "each card of a trial has a bundle"
    ranks: list[_Rank] = []
    try:
        for rank in range(spec.bundle.ranks):
            ranks.append(_actor(group, rank))
        yield ranks
    finally:
        for one in ranks:
            ray.kill(one)


def _actor(group: PlacementGroup, rank: int) -> _Rank:
    held = group.bundle_specs[rank] if rank else {}
    actor: _Rank = (
        ray.remote(RankProcess)
        .options(
            num_cpus=held.get("CPU", 0),
            num_gpus=held.get("GPU", 0),
            max_concurrency=THREADS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=rank
            ),
        )
        .remote()
    )
    return actor


@contextmanager
def _meeting(*, spread: bool) -> Iterator[dict[str, str]]:
    """How the processes find each other: on one machine through a file and the loopback, so that nothing listens to
    the network; between machines at a port of the first one's."""
    if spread:
        address = ray.util.get_node_ip_address()
        yield {"MASTER_ADDR": address, "MASTER_PORT": str(_free_port(address))}
        return
    folder = tempfile.mkdtemp(prefix="ranks_")
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    try:
        yield {
            MEETING_FILE: str(Path(folder) / "meeting"),
            "MASTER_ADDR": "127.0.0.1",
            **{name: os.environ.get(name, _LOOPBACK) for name in names},
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seen_by(rank: int, spec: TrialSpec) -> dict[str, str]:
    variables = {"RANK": str(rank), "WORLD_SIZE": str(spec.bundle.ranks), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    if spec.simulated:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif rank == 0:
        variables["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return variables


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
