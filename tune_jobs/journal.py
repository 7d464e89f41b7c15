"""The journal of a sweep: every event of every trial, one JSON line each; a resumed sweep starts from it.

The ledger (records) holds a finished trial's outcome; the journal holds how it came about, so that a driver that was
killed can be followed by another: rungs, proposals and checkpoints are those that stand here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from common.files import append_jsonl, read_jsonl

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
        at: Wall-clock seconds.
    """

    number: int
    value: float
    metrics: Mapping[str, object]
    at: float


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

    @property
    def values(self) -> list[tuple[int, float]]:
        """(evaluation, value) in order."""
        return [(number, self.evaluations[number].value) for number in sorted(self.evaluations)]


class Journal:
    """Events on disk and their sum in memory.

    Args:
        path: The file; what it holds already is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        records, self.torn_lines = read_jsonl(path)
        self.trials: dict[int, TrialHistory] = {}
        self.reports: list[tuple[int, int]] = []
        self._sum(records)

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Appends one event and returns the trial that it changed."""
        record = {"event": event, "number": number, **content}
        append_jsonl(self._path, record)
        self._sum([record])
        return self.trials[number]

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
        _count_time(trial, cast("float", event["at"]))
    if kind == "started":
        trial.starts += 1
        trial.running = True
        trial.bundle = cast("Mapping[str, object]", event["bundle"])
        trial.first_start_at = trial.first_start_at or trial.last_at
    elif kind == "reported":
        evaluation = Evaluation(
            number=cast("int", event["evaluation"]),
            value=cast("float", event["value"]),
            metrics=cast("Mapping[str, object]", event["metrics"]),
            at=cast("float", event["at"]),
        )
        trial.evaluations[evaluation.number] = evaluation
    elif kind == "saved":
        trial.checkpoint = Path(cast("str", event["folder"]))
    elif kind == "retried":
        trial.running = False
        trial.retries.append(cast("str", event["kind"]))
    elif kind == "ended":
        trial.running = False
        trial.status = cast("EndStatus", event["status"])
        trial.reason = cast("str", event["reason"])
        trial.failure = cast("str | None", event.get("failure"))


def _count_time(trial: TrialHistory, at: float) -> None:
    if trial.running and trial.last_at is not None:
        passed_s = at - trial.last_at
        trial.run_s += passed_s
        trial.gpu_s += passed_s * cast("float", trial.bundle.get("gpus", 0.0))
    trial.last_at = at
