"""What W&B is told of a sweep, made from the sweep's own files: journal, steps, ledger, summaries. Knows no wandb.

The files are the source of truth. A mirror that is late, or that was not there at all, changes nothing in the sweep.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

from common.goal import better
from tune_jobs.records.ledger import ExperimentFolder, SweepRecord, TrialRecord
from tune_jobs.records.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.records.step_log import Tail, decoded
from tune_jobs.tracking.wandb_client import RunState, TrackedRun

EXAMPLES = 10  # of the best and of the worst summaries in the table
EXAMPLE_COLUMNS = (
    "place",
    "fname",
    "input",
    "prediction",
    "reference",
    "rouge1_f1",
    "rouge2_f1",
    "rougeL_f1",
    "rouge_combined_f1",
)
Spec = Mapping[str, object]
Row = Mapping[str, object]
ExampleRow = tuple[object, ...]
ENDS_WELL = ("finished", "stopped")  # stopped early is what the scheduler is for, not a failure


class Run(Protocol):
    """One W&B run as the mirror sees it. Calls return at once, whatever becomes of them."""

    def log(self, row: Row, step: int) -> None:
        """Adds one row of history."""
        ...

    def describe(self, values: Row) -> None:
        """Adds to the configuration."""
        ...

    def summarize(self, values: Row) -> None:
        """Sets final values."""
        ...

    def examples(self, rows: Callable[[], Sequence[ExampleRow]], step: int) -> None:
        """Logs a table with EXAMPLE_COLUMNS; the rows are asked for when their turn comes, as scoring takes time."""
        ...

    def model(self, folder: Path, metadata: Row) -> None:
        """Logs a model."""
        ...

    def finish(self, state: RunState) -> None:
        """Closes the run."""
        ...


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    """What the mirror of a sweep is told when it starts; plain values, so that they travel as JSON.

    Attributes:
        folder: The sweep's results, as a whole path.
        sweep: Its name.
        group: Of its runs: the sweep, or the staged search that it is a phase of.
        method: How trials are chosen; a tag.
        phase: Of a staged search, the runs' job type; empty for a plain sweep.
        project: W&B project.
        entity: W&B user or team; the account's own where None.
        tags: Put on every run.
        mode: Whether runs are sent at once.
        upload_models: Whether a trial that is the best when it ends leaves its model as an artifact.
        init_s: Timeouts with a server when a run is opened; see tracking.Timeouts.
        finish_s: Timeouts with a server when a run is closed.
    """

    folder: str
    sweep: str
    group: str
    project: str
    method: str = ""
    phase: str = ""
    entity: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline"] = "offline"
    upload_models: bool = False
    init_s: float = 60.0
    finish_s: float = 120.0


@dataclass(kw_only=True)
class MirroredTrial:
    """How far a trial is mirrored: bytes of its steps, rows of its history, and whether its run is closed for good."""

    steps_bytes: int = 0
    rows: int = 0
    over: bool = False


@dataclass(kw_only=True)
class MirrorProgress:
    """How far a sweep is mirrored; kept on disk, so that the mirror of a resumed sweep repeats nothing.

    Attributes:
        events: Lines of the journal.
        trials: By the trial's number, as text.
    """

    events: int = 0
    trials: dict[str, MirroredTrial] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Open:
    run: Run
    steps: Tail


class Mirror:
    """Turns the lines of a sweep's files into calls on runs.

    Args:
        settings: Of the sweep.
        open_run: Opens the run of a trial, or opens it again after a resume.
        progress: How far an earlier mirror came; kept up to date.
        examples: Makes the rows of the table from an experiment's folder and its configuration.
    """

    def __init__(
        self,
        settings: MirrorSettings,
        open_run: Callable[[TrackedRun], Run],
        progress: MirrorProgress,
        *,
        examples: Callable[[Path, Row], Sequence[ExampleRow]] = lambda folder, config: (),
    ) -> None:
        self._settings, self._open_run, self._progress, self._examples = settings, open_run, progress, examples
        self._specs: dict[str, Spec] = {}
        self._open: dict[str, _Open] = {}
        self._seen_events = 0
        self._sweep: SweepRecord | None = None
        self._best: float | None = None

    def take_event(self, event: Row) -> None:
        """Takes in one line of the journal."""
        self._seen_events += 1
        number = str(event["number"])
        if event["event"] in ("submitted", "copied"):
            self._specs[number] = cast("Spec", event["spec"])
        if event["event"] == "allocated" and number in self._specs:
            self._specs[number] = {**self._specs[number], **cast("Spec", event["placement"])}
        if self._seen_events <= self._progress.events:
            return
        self._progress.events = self._seen_events
        if number not in self._specs:  # its first line was a torn one
            return
        if event["event"] == "started":
            self._run(number).run.describe({"share": _share(event["bundle"]), "bundle": event["bundle"]})
        elif event["event"] == "reported":
            self._take_evaluation(number, cast("Row", event["metrics"]))
        elif event["event"] == "copied":  # population based training: another's weights, changed values
            described = tracked_run(self._specs[number], self._settings).config
            self._run(number).run.describe({**described, "copied_from_trial": event["donor"]})
        elif event["event"] == "allocated" and number in self._open:  # a run that goes on on another model's card
            self._run(number).run.describe(tracked_run(self._specs[number], self._settings).config)
        elif event["event"] == "retried":
            self._run(number).run.summarize({"trial/last_failure": f"{event['kind']}: {event['message']}"})

    def take_steps(self) -> None:
        """Takes in what running trials have logged between evaluations."""
        for number in list(self._open):
            self._take_steps(number)

    def take_sweep(self, sweep: SweepRecord) -> None:
        """Takes in the description of the sweep."""
        self._sweep = sweep

    def take_record(self, record: TrialRecord) -> None:
        """Takes in the outcome of a trial and closes its run."""
        number = record.trial_id
        is_best = self._is_best(record)
        if self._of(number).over or number not in self._specs:
            return
        run = self._run(number).run
        self._take_steps(number)
        if record.metrics:
            folder = ExperimentFolder(Path(record.experiment_dir))
            run.examples(lambda: self._examples(folder.path, record.resolved), self._next_row(number))
            if is_best and self._settings.upload_models and record.status in ENDS_WELL:
                run.model(folder.best_model, record.best_metrics)
        run.summarize(closing_summary(record))
        run.finish("finished" if record.status in ENDS_WELL else "failed")
        self._of(number).over = True
        del self._open[number]

    def interrupt(self) -> None:
        """Closes the runs of trials that are not over, in a state from which they go on."""
        self.take_steps()
        for opened in self._open.values():
            opened.run.summarize({"outcome": "interrupted"})
            opened.run.finish("preempted")
        self._open.clear()

    def _run(self, number: str) -> _Open:
        if number not in self._open:
            order = self._specs[number]
            steps = Tail(Path(str(order.get("folder", ""))) / STEPS_NAME, self._of(number).steps_bytes)
            self._open[number] = _Open(run=self._open_run(tracked_run(order, self._settings)), steps=steps)
        return self._open[number]

    def _of(self, number: str) -> MirroredTrial:
        return self._progress.trials.setdefault(number, MirroredTrial())

    def _next_row(self, number: str) -> int:
        self._of(number).rows += 1
        return self._of(number).rows - 1

    def _take_evaluation(self, number: str, metrics: Row) -> None:
        run = self._run(number).run
        self._take_steps(number)  # they came before
        words = {name: value for name, value in metrics.items() if isinstance(value, str)}
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        run.log(numbers, self._next_row(number))
        if words:
            run.describe(words)

    def _take_steps(self, number: str) -> None:
        opened = self._open[number]
        for row in opened.steps.read():
            opened.run.log({name: decoded(value) for name, value in row.items()}, self._next_row(number))
        self._of(number).steps_bytes = opened.steps.offset

    def _is_best(self, record: TrialRecord) -> bool:
        value = record.best_metrics.get(self._sweep.metric) if self._sweep is not None else None
        if value is None or self._sweep is None:
            return False
        if not better(value, self._best, self._sweep.goal):
            return False
        self._best = value
        return True


def tracked_run(order: Spec, settings: MirrorSettings) -> TrackedRun:
    """Makes the description of a trial's run from its order.

    The resolved configuration stands at the top, where W&B's columns and filters look for it; what the product knows
    beyond it stands in groups: `sampled`, `plan`, `share`, `bundle`, `estimate`. A refused trial has no more than
    what was sampled.
    """
    bundle = cast("Row", order.get("bundle") or {})
    resolved = cast("Row", order.get("config") or order["sampled"])
    known = {
        "sampled": order["sampled"],
        "rules": order.get("notes") or [],
        "plan": order.get("shape"),
        "share": _share(bundle),
        "bundle": bundle,
        "estimate": order.get("estimate") or {},
        "simulated": bool(order.get("simulated", False)),
        "member": order.get("member"),
        "sweep": settings.sweep,
        "experiment_dir": order.get("folder"),
    }
    name = str(order["name"]) if "folder" in order else f"{settings.sweep} {order['name']}"
    more_tags = (str(resolved[key]) for key in ("model",) if key in resolved)
    return TrackedRun(
        project=settings.project,
        entity=settings.entity,
        tags=tuple(dict.fromkeys(tag[:64] for tag in (*settings.tags, *more_tags, settings.method) if tag)),
        group=settings.group,
        job_type=job_type(settings.phase),
        name=name,
        run_id=run_id(name, settings.folder),
        config={**resolved, **known},
        folder=Path(settings.folder),
    )


def job_type(phase: str) -> str:
    """Names the job type of runs: the phase of a staged search.

    >>> job_type("wide"), job_type("")
    ('wide', 'trial')
    """
    return phase or "trial"


def run_id(name: str, sweep_folder: str) -> str:
    """Names a run so that a resumed sweep finds it again, and a colleague's sweep of the same name does not.

    >>> run_id("wide_bart_lr1e-04_bs16_1124_0905", "/outputs/sweep_results/wide")
    'wide_bart_lr1e-04_bs16_1124_0905-61dd12'
    >>> run_id("밤/새", "/outputs/sweep_results/wide")
    '___-69da04'
    """
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name)
    return f"{plain[:100]}-{hashlib.sha256(f'{sweep_folder}:{name}'.encode()).hexdigest()[:6]}"


def closing_summary(record: TrialRecord) -> dict[str, object]:
    """The final values of a trial: outcome, best scores, predicted against measured memory, cost."""
    summary: dict[str, object] = {"outcome": record.status, "trial/retries": record.retries}
    if record.error is not None:
        summary["outcome_reason"] = record.error.message
    summary |= {
        "best/" + name.removeprefix("eval/"): value
        for name, value in record.best_metrics.items()
        if name.startswith("eval/")
    }
    summary |= {"cost/wall_s": record.wall_s, "cost/gpu_seconds": record.gpu_seconds}
    predicted = {
        f"memory/estimated_{name}": record.estimate[name]
        for name in ("device_bytes", "upper_bytes")
        if record.estimate and name in record.estimate
    }
    measured = {f"memory/measured_{name}": value for name, value in (record.measured or {}).items()}
    summary |= predicted | measured
    held, said = measured.get("memory/measured_device_bytes"), predicted.get("memory/estimated_device_bytes")
    if held and isinstance(said, (int, float)):
        summary["memory/estimate_error_percent"] = 100.0 * (said - held) / held
    return summary


def example_rows(scored: Sequence[tuple[float, ExampleRow]], count: int = EXAMPLES) -> list[ExampleRow]:
    """Chooses the best and the worst summaries, the best first; none stands twice.

    Args:
        scored: Score and row (without its first column) of every summary.
        count: Of each end.

    >>> example_rows([(1.0, ("a",)), (3.0, ("b",)), (2.0, ("c",))], count=1)
    [('top', 'b'), ('worst', 'a')]
    """
    ranked = [row for _, row in sorted(scored, key=lambda pair: -pair[0])]
    top = ranked[:count]
    worst = ranked[count:][-count:]
    return [("top", *row) for row in top] + [("worst", *row) for row in worst]


def _share(bundle: object) -> object:
    return cast("Mapping[str, object]", bundle).get("gpus", 0.0)
