"""The journal of a sweep: every event of every trial, one JSON line each; a resumed sweep starts from it.

The ledger (records) holds a finished trial's outcome; the journal holds how it came about, so that a driver that was
killed can be followed by another: rungs, proposals and checkpoints are those that stand here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from common.files import append_jsonl, read_jsonl
from common.storage import Patience, StorageGoneError

FILE_NAME = "journal.jsonl"
Event = Mapping[str, object]
EndStatus = Literal["finished", "stopped", "failed", "refused"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a trial.

    Attributes:
        number: From 1, counted over restarts.
        value: The sweep's metric.
        metrics: Everything that was reported.
        run_s: Seconds that the trial had run by then, over all starts.
    """

    number: int
    value: float
    metrics: Mapping[str, object]
    run_s: float


@dataclass(kw_only=True)
class TrialHistory:
    """What the journal tells about one trial.

    Attributes:
        number: Place in the sweep, from 1.
        order: As it was given to the trial's process.
        evaluations: By number; one that was made again after a restart replaces the earlier.
        checkpoint: The last complete one.
        starts: How often it was started.
        retries: Kinds of the failures after which it was started again.
        bundle: What it occupied last.
        status: None while it is not over.
        reason: Why it ended so.
        failure: What kind of failure ended it, None where none did.
        running: Whether it was started and has neither failed nor ended since.
        first_start_at: Wall-clock seconds of the first start.
        last_at: Wall-clock seconds of the last event with a time.
        run_s: Seconds in which it ran, over all starts; what a killed driver no longer noted is not counted.
        gpu_s: The same times the GPUs that it held.
        heard_s: Reading of the driver's elapsed seconds at the last event with a time.
        pauses: How often it gave its place back, to go on later.
        waits_for: Why it does not start, or go on, now; empty where nothing holds it up.
        copies: When it went on with another trial's weights (pbt), in order: `donor`, `evaluation` of its own,
            `donor_evaluation` at the copied checkpoint, `changes` of the donor's values, its own values `before`.
        stints: Its starts in order: `started_at` and `ended_at` in wall-clock seconds, its GPUs as `share`,
            `node`, `card` and `gpu_model` (absent before an evaluation tells them), and as `ended` why it ended where
            the trial went on: "paused" or the kind of failure.
        least_bytes: What its share must hold after an out-of-memory; 0 where its estimate still stands.
    """

    number: int
    order: Mapping[str, object]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    checkpoint: Path | None = None
    starts: int = 0
    retries: list[str] = field(default_factory=list)
    bundle: Mapping[str, object] = field(default_factory=dict)
    status: EndStatus | None = None
    reason: str = ""
    failure: str | None = None
    first_start_at: float | None = None
    last_at: float | None = None
    run_s: float = 0.0
    gpu_s: float = 0.0
    running: bool = False
    heard_s: float = 0.0
    pauses: int = 0
    waits_for: str = ""
    copies: list[dict[str, object]] = field(default_factory=list)
    stints: list[dict[str, object]] = field(default_factory=list)
    least_bytes: int = 0

    @property
    def values(self) -> list[tuple[int, float]]:
        """(evaluation, value) in order."""
        return [(number, self.evaluations[number].value) for number in sorted(self.evaluations)]


class Journal:
    """Events on disk and their sum in memory.

    Events of a trial's run carry two times: `at`, wall-clock seconds for people, and `elapsed_s`, seconds of the
    driver that only grow, from which durations are made.

    Args:
        path: The file; what it holds already is read.
        patience: Waits for a storage in trouble; None fails at once.
    """

    def __init__(self, path: Path, patience: Patience | None = None) -> None:
        self._path, self._patience = path, patience
        records, self.torn_lines = read_jsonl(path)
        self._is_there = path.exists()
        self.trials: dict[int, TrialHistory] = {}
        self.reports: list[tuple[int, int]] = []
        self._sum(records)

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Appends one event and returns the trial that it changed."""
        record = {"event": event, "number": number, **content}
        if self._patience is None:
            self._append(record)
        else:
            self._patience.insist(lambda: self._append(record), self._path)
        self._sum([record])
        return self.trials[number]

    def _append(self, record: Event) -> None:
        if self._is_there and not self._path.exists():
            raise StorageGoneError(
                self._path
            )  # a new file would lie below the mount point, and be lost when it is back
        append_jsonl(self._path, record)
        self._is_there = True

    def _sum(self, events: Iterable[Event]) -> None:
        for event in events:
            number = cast("int", event["number"])
            if event["event"] == "ordered":
                order = cast("Mapping[str, object]", event["order"])
                self.trials[number] = TrialHistory(number=number, order=order)
            elif number in self.trials:  # else its first line was the torn one: it will be ordered again
                _apply(self.trials[number], event)
                if event["event"] == "reported":
                    self.reports.append((number, cast("int", event["evaluation"])))


def _apply(trial: TrialHistory, event: Event) -> None:
    kind = event["event"]
    if "at" in event:
        trial.last_at = cast("float", event["at"])
        _count_time(trial, cast("float", event["elapsed_s"]), runs=trial.running and kind != "started")
        _note_stint(trial, event)
    if kind == "started":  # perhaps by another driver, after one that was killed: nothing ran in between
        trial.starts += 1
        trial.running = True
        trial.waits_for = ""
        trial.bundle = cast("Mapping[str, object]", event["bundle"])
        trial.first_start_at = trial.first_start_at or trial.last_at
    elif kind == "reported":
        evaluation = Evaluation(
            number=cast("int", event["evaluation"]),
            value=cast("float", event["value"]),
            metrics=cast("Mapping[str, object]", event["metrics"]),
            run_s=trial.run_s,
        )
        trial.evaluations[evaluation.number] = evaluation
    elif kind == "saved":
        trial.checkpoint = Path(cast("str", event["folder"]))
    elif kind == "retried":
        trial.running = False
        trial.retries.append(cast("str", event["kind"]))
        trial.least_bytes = max(trial.least_bytes, cast("int", event.get("least_bytes", 0)))
    elif kind == "placed":  # elsewhere than it was ordered for
        trial.order = {**trial.order, **cast("Mapping[str, object]", event["place"])}
    elif kind == "paused":
        trial.running = False
        trial.pauses += 1
        trial.waits_for = cast("str", event["reason"])
    elif kind == "copied":
        trial.order = cast("Mapping[str, object]", event["order"])
        trial.checkpoint = Path(cast("str", event["folder"]))
        names = ("donor", "evaluation", "donor_evaluation", "changes", "before")
        trial.copies.append({name: event[name] for name in names})
    elif kind == "waits":
        trial.waits_for = cast("str", event["reason"])
    elif kind == "ended":
        trial.running = False
        trial.status = cast("EndStatus", event["status"])
        trial.reason = cast("str", event["reason"])
        trial.failure = cast("str | None", event.get("failure"))


def _note_stint(trial: TrialHistory, event: Event) -> None:
    if event["event"] == "started":
        share = cast("Mapping[str, object]", event["bundle"]).get("gpus", 0.0)
        trial.stints.append({"started_at": event["at"], "ended_at": event["at"], "share": share, "ended": ""})
    elif trial.running:
        stint = trial.stints[-1]
        stint["ended_at"] = event["at"]
        if event["event"] == "reported":
            seen = cast("Mapping[str, object]", event["metrics"])
            stint |= {name: seen[f"trial/{name}"] for name in ("node", "card", "gpu_model") if f"trial/{name}" in seen}
        elif event["event"] in ("retried", "paused"):
            stint["ended"] = event.get("kind", "paused")


def _count_time(trial: TrialHistory, elapsed_s: float, *, runs: bool) -> None:
    """Counts by seconds that only grow: a wall clock that is set in mid-trial makes nothing longer or shorter."""
    if runs:
        passed_s = elapsed_s - trial.heard_s
        trial.run_s += passed_s
        trial.gpu_s += passed_s * cast("float", trial.bundle.get("gpus", 0.0))
    trial.heard_s = elapsed_s
