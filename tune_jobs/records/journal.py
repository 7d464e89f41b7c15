"""The journal of a sweep: every event of every trial, one JSON line each. It is the only record of a sweep's progress.

The ledger holds the outcome of each trial; the journal holds how it came about, so that another driver can continue.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from common.files import append_jsonl, read_jsonl
from common.storage import StorageGoneError, StorageRetry

FILE_NAME = "journal.jsonl"
Event = Mapping[str, object]
EndStatus = Literal["finished", "stopped", "failed", "refused"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a trial.

    Attributes:
        number: From 1, counted over attempts.
        value: The sweep's metric.
        metrics: Everything that was reported.
        run_s: Seconds that the trial had run by then, over all attempts.
    """

    number: int
    value: float
    metrics: Mapping[str, object]
    run_s: float


@dataclass(kw_only=True)
class TrialHistory:
    """What the journal holds about one trial.

    Attributes:
        number: Place in the sweep, from 1.
        spec: As it was given to the trial's process last; see TrialSpec.
        evaluations: By number; one that was made again after a restart replaces the earlier.
        checkpoint: The last complete one.
        checkpoint_evaluation: The evaluation that it belongs to; 0 before the first.
        starts: Attempts that were started.
        retries: Kinds of the failures after which it was started again.
        lost_in_a_row: Attempts lost with their process or node since the last new evaluation.
        bundle: What it occupied last.
        status: None while it has not ended.
        reason: Why it ended so.
        failure: What kind of failure ended it, None where none did.
        running: Whether an attempt was started and has neither failed nor ended since.
        first_start_at: Wall-clock seconds of the first start.
        last_at: Wall-clock seconds of the last event with a time.
        run_s: Seconds in which it ran, over all attempts; what a killed driver no longer wrote is not counted.
        gpu_s: The same times the GPUs that it held.
        elapsed_s: Reading of the driver's elapsed seconds at the last event with a time.
        pauses: How often it gave its share back, to go on later.
        waits_for: Why it does not start, or go on, now; empty where nothing holds it up.
        copies: When it went on with another trial's weights (pbt), in order: `donor`, `evaluation` of its own,
            `donor_evaluation` at the copied checkpoint, `changes` of the donor's values, its own values `before`.
        attempts: In order: `started_at` and `ended_at` in wall-clock seconds, its GPUs as `share`, `node`, `card` and
            `gpu_model`, `raylet` and `pid` (absent until its process reports them), and as `ended` why it ended where
            the trial went on: "paused" or the kind of failure.
        least_bytes: What its share must hold after an out-of-memory; 0 where its estimate still stands.
    """

    number: int
    spec: Mapping[str, object]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_evaluation: int = 0
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


class Journal:
    """Events on disk and their sum in memory.

    Events of an attempt carry two times: `at`, wall-clock seconds for people, and `elapsed_s`, seconds of the driver
    that only grow, from which durations are computed.

    Args:
        path: The file; what it holds already is read.
        retry: Waits for a storage in trouble; None fails at once.
    """

    def __init__(self, path: Path, retry: StorageRetry | None = None) -> None:
        self._path, self._retry = path, retry
        self.earlier, self.torn_lines = read_jsonl(path)
        self._exists = path.exists()
        self.trials: dict[int, TrialHistory] = {}
        self._apply(self.earlier)

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Appends one event and returns the trial that it changed."""
        record = {"event": event, "number": number, **content}
        if self._retry is None:
            self._append(record)
        else:
            self._retry.run(lambda: self._append(record), self._path)
        self._apply([record])
        return self.trials[number]

    def _append(self, record: Event) -> None:
        if self._exists and not self._path.exists():
            # A new file would lie below the mount point, and be lost when the storage is back.
            raise StorageGoneError(self._path)
        append_jsonl(self._path, record)
        self._exists = True

    def _apply(self, events: Iterable[Event]) -> None:
        for event in events:
            number = cast("int", event["number"])
            if event["event"] == "submitted":
                spec = cast("Mapping[str, object]", event["spec"])
                self.trials[number] = TrialHistory(number=number, spec=spec)
            elif number in self.trials:  # else its first line was the torn one: it is submitted again
                _apply(self.trials[number], event)


def _apply(trial: TrialHistory, event: Event) -> None:
    kind = event["event"]
    if "at" in event:
        trial.last_at = cast("float", event["at"])
        _count_time(trial, cast("float", event["elapsed_s"]), runs=trial.running and kind != "started")
        _update_attempt(trial, event)
    if kind == "started":  # perhaps by another driver, after one that was killed: nothing ran in between
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
        trial.checkpoint = Path(cast("str", event["folder"]))
        trial.checkpoint_evaluation = max(trial.evaluations, default=0)
    elif kind == "retried":
        trial.running = False
        trial.retries.append(cast("str", event["kind"]))
        trial.lost_in_a_row = cast("int", event.get("lost_in_a_row", 0))
        trial.least_bytes = max(trial.least_bytes, cast("int", event.get("least_bytes", 0)))
    elif kind == "allocated":  # with another placement than it was submitted with
        trial.spec = {**trial.spec, **cast("Mapping[str, object]", event["placement"])}
    elif kind == "paused":
        trial.running = False
        trial.pauses += 1
        trial.waits_for = cast("str", event["reason"])
    elif kind == "copied":
        trial.spec = cast("Mapping[str, object]", event["spec"])
        trial.checkpoint = Path(cast("str", event["folder"]))
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
    elif kind == "reopened":  # it had failed through no fault of its own, and a resumed sweep tries it again
        trial.status, trial.reason, trial.failure, trial.lost_in_a_row = None, "", None, 0


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
    """Counts by seconds that only grow: a wall clock that is set during a trial makes nothing longer or shorter."""
    if runs:
        passed_s = elapsed_s - trial.elapsed_s
        trial.run_s += passed_s
        trial.gpu_s += passed_s * cast("float", trial.bundle.get("gpus", 0.0))
    trial.elapsed_s = elapsed_s
