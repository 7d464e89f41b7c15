"""The journal of a sweep: every event of every trial, one JSON line each. It is the only record of a sweep's progress.

The ledger holds the outcome of each trial; the journal holds its events, from which another driver can continue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from tune_jobs.records.journal_events import Event, ForeignPathError, read_event, with_relative_paths
from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, read_numbered_jsonl
from tuning_common.storage import StorageGoneError, StorageRetry

FILE_NAME = "journal.jsonl"
EndStatus = Literal["finished", "stopped", "failed", "refused"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a trial.

    Attributes:
        number: From 1, counted over attempts.
        value: Value of the sweep's metric.
        metrics: All reported metrics.
        run_s: Run time of the trial at this evaluation, over all attempts.
    """

    number: int
    value: float
    metrics: Mapping[str, object]
    run_s: float


@dataclass(kw_only=True)
class TrialHistory:
    """The state of one trial, from its events in the journal.

    Attributes:
        number: Number in the sweep, from 1.
        spec: The last specification that the trial's process received; see TrialSpec.
        evaluations: Evaluations by number; a repeated one replaces the earlier.
        checkpoint: The last complete checkpoint.
        checkpoint_evaluation: Evaluation of that checkpoint; 0 before the first.
        earlier_checkpoint: The checkpoint before it; None where that is of no use any more.
        checkpoint_folders: The folders of all checkpoints that may be left in the sweep's storage.
        damaged: Checkpoints that were not as they had been written, in words.
        starts: Number of attempts.
        retries: Kinds of the failures after which it was restarted.
        lost_in_a_row: Attempts lost with their process or node since the last new evaluation.
        bundle: Resources of the last attempt.
        status: Final status; None before the end.
        reason: Reason of the final status.
        failure: Kind of the failure that ended it; None where none did.
        running: Whether an attempt is running.
        first_start_at: Wall-clock seconds of the first start.
        last_at: Wall-clock seconds of the last event with a time.
        run_s: Run time over all attempts, without time that a killed driver did not record.
        gpu_s: Run time multiplied by the share of GPUs held.
        elapsed_s: The driver's monotonic clock at the last event with a time.
        pauses: Number of pauses, in which it holds no share.
        waits_for: Why it waits; empty when it does not wait.
        copies: Copies of another trial's weights (pbt), in order: `donor`, `evaluation` of its own,
            `donor_evaluation` at the copied checkpoint, `changes` of the donor's values, its own values `before`.
        attempts: In order: `started_at` and `ended_at` in wall-clock seconds, its GPUs as `share`, `node`, `card` and
            `gpu_model`, `raylet` and `pid` (absent until its process reports them), and as `ended` why it ended where
            the trial went on: "paused" or the kind of failure.
        least_bytes: Minimum bytes of its share after an out-of-memory; 0 where the estimate is valid.
    """

    number: int
    spec: Mapping[str, object]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_evaluation: int = 0
    earlier_checkpoint: Path | None = None
    checkpoint_folders: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    starts: int = 0
    retries: list[str] = field(default_factory=list)
    lost_in_a_row: int = 0
    bundle: Mapping[str, object] = field(default_factory=dict)
    status: EndStatus | None = None
    reason: str = ""
    failure: str | None = None
    first_start_at: float | None = None
    last_at: float | None = None
    run_s: float = 0.0
    gpu_s: float = 0.0
    running: bool = False
    elapsed_s: float = 0.0
    pauses: int = 0
    waits_for: str = ""
    copies: list[dict[str, object]] = field(default_factory=list)
    attempts: list[dict[str, object]] = field(default_factory=list)
    least_bytes: int = 0

    @property
    def values(self) -> list[tuple[int, float]]:
        """(evaluation, value) in order."""
        return [(number, self.evaluations[number].value) for number in sorted(self.evaluations)]

    @property
    def name(self) -> str:
        """Experiment name."""
        return str(self.spec["name"])

    @property
    def last_evaluation(self) -> int:
        """Number of the last evaluation; 0 before the first."""
        return max(self.evaluations, default=0)

    @property
    def node(self) -> str:
        """The machine of the last attempt."""
        attempt = self.attempts[-1] if self.attempts else {}
        nodes = cast("list[str]", self.bundle.get("nodes") or [])
        return str(attempt.get("node") or (nodes[0] if nodes else "this machine"))


class Journal:
    """Events on disk, and the resulting state of each trial in memory.

    Events of an attempt carry two times: `at`, wall-clock seconds for people, and `elapsed_s`, the driver's monotonic
    clock, for durations. Paths are relative to the output folder on disk, and absolute in memory.

    Args:
        path: The file in the sweep's folder; existing events are read.
        retry: Waits on storage errors; None fails at once.

    Attributes:
        earlier: The events that were read.
        torn: What is wrong with each line that was skipped, by its number.
        foreign: Those of them that name a path outside of the output folder.
        trials: The state of each trial.
    """

    def __init__(self, path: Path, retry: StorageRetry | None = None) -> None:
        self._path, self._folder, self._retry = path, path.absolute().parent, retry
        self._exists = path.exists()
        self.trials: dict[int, TrialHistory] = {}
        self.earlier: list[Event] = []
        self.foreign: dict[int, str] = {}
        events, self.torn = read_numbered_jsonl(path)
        for line, written in events.items():
            try:
                event = read_event(written, self._folder)
            except RequestError as error:
                self.torn[line] = error.message
                if isinstance(error, ForeignPathError):
                    self.foreign[line] = error.message
                continue
            self.earlier.append(event)
            self._apply(event)

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Appends one event and returns the changed trial."""
        written = with_relative_paths({"event": event, "number": number, **content}, self._folder.parents[1])
        whole = read_event(written, self._folder)
        if self._retry is None:
            self._append(written)
        else:
            self._retry.run(lambda: self._append(written), self._path)
        self._apply(whole)
        return self.trials[number]

    @property
    def open(self) -> dict[int, TrialHistory]:
        """The trials that have not ended."""
        return {number: trial for number, trial in self.trials.items() if trial.status is None}

    @property
    def running(self) -> list[int]:
        """Numbers of the trials of which an attempt runs."""
        return [number for number, trial in self.trials.items() if trial.running]

    def drop(self, number: int) -> None:
        """Forgets a trial that cannot be continued."""
        del self.trials[number]

    def _append(self, record: Event) -> None:
        if self._exists and not self._path.exists():
            # A new file would be below the mount point, and hidden when the storage is back.
            raise StorageGoneError(self._path)
        append_jsonl(self._path, record)
        self._exists = True

    def _apply(self, event: Event) -> None:
        number = cast("int", event["number"])
        if event["event"] == "submitted":
            spec = cast("Mapping[str, object]", event["spec"])
            self.trials[number] = TrialHistory(number=number, spec=spec)
        elif number in self.trials:  # else its first line was torn: it is submitted again
            _apply(self.trials[number], event)


def _apply(trial: TrialHistory, event: Event) -> None:
    kind = event["event"]
    if "at" in event:
        trial.last_at = cast("float", event["at"])
        _count_time(trial, cast("float", event["elapsed_s"]), runs=trial.running and kind != "started")
        _update_attempt(trial, event)
    if kind == "started":  # perhaps by another driver, after a killed one: nothing ran in between
        trial.starts += 1
        trial.running = True
        trial.waits_for = ""
        trial.bundle = cast("Mapping[str, object]", event["bundle"])
        trial.first_start_at = trial.first_start_at or trial.last_at
    elif kind == "located" and trial.running:
        trial.attempts[-1] |= cast("Mapping[str, object]", event["location"])
    elif kind == "reported":
        _add_evaluation(trial, event)
    elif kind == "saved":
        _add_checkpoint(trial, event, trial.checkpoint)
        trial.checkpoint_evaluation = max(trial.evaluations, default=0)
    elif kind == "damaged":
        trial.damaged += cast("list[str]", event["reasons"])
        trial.checkpoint = Path(cast("str", event["folder"])) if event["folder"] else None
        trial.earlier_checkpoint = None
        trial.checkpoint_evaluation = cast("int", event["evaluation"])
    elif kind == "retried":
        trial.running = False
        trial.retries.append(cast("str", event["kind"]))
        trial.lost_in_a_row = cast("int", event.get("lost_in_a_row", 0))
        trial.least_bytes = max(trial.least_bytes, cast("int", event.get("least_bytes", 0)))
    elif kind == "allocated":  # the placement may differ from the submitted one
        trial.spec = {**trial.spec, **cast("Mapping[str, object]", event["placement"])}
    elif kind == "paused":
        trial.running = False
        trial.pauses += 1
        trial.waits_for = cast("str", event["reason"])
    elif kind == "copied":
        trial.spec = cast("Mapping[str, object]", event["spec"])
        _add_checkpoint(trial, event, None)  # its own earlier ones have other weights and values
        trial.checkpoint_evaluation = cast("int", event["donor_evaluation"])
        names = ("donor", "evaluation", "donor_evaluation", "changes", "before")
        trial.copies.append({name: event[name] for name in names})
    elif kind == "interrupted":  # its driver was killed; another one continues
        trial.running = False
    elif kind == "waits":
        trial.waits_for = cast("str", event["reason"])
    elif kind == "ended":
        trial.running = False
        trial.status = cast("EndStatus", event["status"])
        trial.reason = cast("str", event["reason"])
        trial.failure = cast("str | None", event.get("failure"))
    elif kind == "reopened":  # a resumed sweep retries a trial that failed for an external reason
        trial.status, trial.reason, trial.failure, trial.lost_in_a_row = None, "", None, 0


def _add_checkpoint(trial: TrialHistory, event: Event, earlier: Path | None) -> None:
    trial.checkpoint, trial.earlier_checkpoint = Path(cast("str", event["folder"])), earlier
    if trial.checkpoint.parent not in trial.checkpoint_folders:
        trial.checkpoint_folders.append(trial.checkpoint.parent)


def _add_evaluation(trial: TrialHistory, event: Event) -> None:
    evaluation = Evaluation(
        number=cast("int", event["evaluation"]),
        value=cast("float", event["value"]),
        metrics=cast("Mapping[str, object]", event["metrics"]),
        run_s=trial.run_s,
    )
    if evaluation.number not in trial.evaluations:
        trial.lost_in_a_row = 0
    trial.evaluations[evaluation.number] = evaluation


def _update_attempt(trial: TrialHistory, event: Event) -> None:
    if event["event"] == "started":
        share = cast("Mapping[str, object]", event["bundle"]).get("gpus", 0.0)
        trial.attempts.append({"started_at": event["at"], "ended_at": event["at"], "share": share, "ended": ""})
    elif trial.running:
        attempt = trial.attempts[-1]
        attempt["ended_at"] = event["at"]
        if event["event"] == "reported":
            seen = cast("Mapping[str, object]", event["metrics"])
            names = ("node", "card", "gpu_model")
            attempt |= {name: seen[f"trial/{name}"] for name in names if f"trial/{name}" in seen}
        elif event["event"] in ("retried", "paused"):
            attempt["ended"] = event.get("kind", "paused")


def _count_time(trial: TrialHistory, elapsed_s: float, *, runs: bool) -> None:
    """Adds run time by the monotonic clock, which changes of the wall clock do not affect."""
    if runs:
        passed_s = elapsed_s - trial.elapsed_s
        trial.run_s += passed_s
        trial.gpu_s += passed_s * cast("float", trial.bundle.get("gpus", 0.0))
    trial.elapsed_s = elapsed_s
