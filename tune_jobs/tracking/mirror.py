"""Translates a sweep's files (journal, steps, ledger, summaries) into calls on W&B runs. Does not import wandb.

The files are the source of truth. A mirror that is late or missing changes nothing in the sweep.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

from tune_jobs.records.ledger import ExperimentFolder, SweepRecord, TrialRecord
from tune_jobs.records.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.records.step_log import Tail, decoded
from tune_jobs.tracking.wandb_client import RunState, TrackedRun
from tuning_common.goal import better

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
SUCCESSES = ("finished", "stopped")  # stopped early by the scheduler is not a failure


class Run(Protocol):
    """One W&B run. All calls return at once; errors are handled elsewhere."""

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
        """Logs a table with EXAMPLE_COLUMNS; `rows` is called later, because scoring takes time."""
        ...

    def model(self, folder: Path, metadata: Row) -> None:
        """Logs a model."""
        ...

    def finish(self, state: RunState) -> None:
        """Closes the run."""
        ...


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    """Settings of a sweep's mirror; plain values, because they are sent as JSON.

    Attributes:
        folder: The sweep's result folder, as an absolute path.
        sweep: The sweep's name.
        group: Group of its runs: the sweep, or the staged search that it is a phase of.
        method: The search method; a tag.
        phase: Phase of a staged search, the runs' job type; empty for a plain sweep.
        project: W&B project.
        entity: W&B user or team; None for the account's default.
        tags: Put on every run.
        mode: Whether runs are sent at once.
        upload_models: Whether a trial that is the best when it ends uploads its model as an artifact.
        init_s: Timeout for opening a run; see wandb_client.Timeouts.
        finish_s: Timeout for closing a run.
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
    """Progress of a trial: bytes of its steps, rows of its history, and whether its run is closed."""

    steps_bytes: int = 0
    rows: int = 0
    over: bool = False


@dataclass(kw_only=True)
class MirrorProgress:
    """Progress of a sweep's mirror; kept on disk, so that the mirror of a resumed sweep repeats nothing.

    Attributes:
        events: Number of journal events mirrored.
        trials: Progress by trial number, as text.
    """

    events: int = 0
    trials: dict[str, MirroredTrial] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Open:
    run: Run
    steps: Tail


class Mirror:
    """Turns records of a sweep's files into calls on runs.

    Args:
        settings: Settings of the sweep's mirror.
        open_run: Opens the run of a trial, also again after a resume.
        progress: Progress of an earlier mirror; updated in place.
        examples: Returns the rows of the table for an experiment's folder and configuration.
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
        """Mirrors one event of the journal."""
        self._seen_events += 1
        number = str(event["number"])
        if event["event"] in ("submitted", "copied"):
            self._specs[number] = cast("Spec", event["spec"])
        if event["event"] == "allocated" and number in self._specs:
            self._specs[number] = {**self._specs[number], **cast("Spec", event["placement"])}
        if self._seen_events <= self._progress.events:
            return
        self._progress.events = self._seen_events
        if number not in self._specs:  # its submission was a torn record
            return
        if event["event"] == "started":
            self._run(number).run.describe({"share": _share(event["bundle"]), "bundle": event["bundle"]})
        elif event["event"] == "reported":
            self._take_evaluation(number, cast("Row", event["metrics"]))
        elif event["event"] == "copied":  # population based training: copied weights, changed values
            described = tracked_run(self._specs[number], self._settings).config
            self._run(number).run.describe({**described, "copied_from_trial": event["donor"]})
        elif event["event"] == "allocated" and number in self._open:  # the trial continues on another GPU model
            self._run(number).run.describe(tracked_run(self._specs[number], self._settings).config)
        elif event["event"] == "retried":
            self._run(number).run.summarize({"trial/last_failure": f"{event['kind']}: {event['message']}"})

    def take_steps(self) -> None:
        """Mirrors what running trials have logged between evaluations."""
        for number in list(self._open):
            self._take_steps(number)

    def take_sweep(self, sweep: SweepRecord) -> None:
        """Records the sweep's record, which names metric and goal."""
        self._sweep = sweep

    def take_record(self, record: TrialRecord) -> None:
        """Mirrors the outcome of a trial and closes its run."""
        number = record.trial_id
        is_best = self._is_best(record)
        if self._of(number).over or number not in self._specs:
            return
        run = self._run(number).run
        self._take_steps(number)
        if record.metrics:
            folder = ExperimentFolder(Path(record.experiment_dir))
            run.examples(lambda: self._examples(folder.path, record.resolved), self._next_row(number))
            if is_best and self._settings.upload_models and record.status in SUCCESSES:
                run.model(folder.best_model, record.best_metrics)
        run.summarize(closing_summary(record))
        run.finish("finished" if record.status in SUCCESSES else "failed")
        self._of(number).over = True
        del self._open[number]

    def interrupt(self) -> None:
        """Closes the runs of unfinished trials as preempted, so that they can be resumed."""
        self.take_steps()
        for opened in self._open.values():
            opened.run.summarize({"outcome": "interrupted"})
            opened.run.finish("preempted")
        self._open.clear()

    def _run(self, number: str) -> _Open:
        if number not in self._open:
            spec = self._specs[number]
            steps = Tail(Path(str(spec.get("folder", ""))) / STEPS_NAME, self._of(number).steps_bytes)
            self._open[number] = _Open(run=self._open_run(tracked_run(spec, self._settings)), steps=steps)
        return self._open[number]

    def _of(self, number: str) -> MirroredTrial:
        return self._progress.trials.setdefault(number, MirroredTrial())

    def _next_row(self, number: str) -> int:
        self._of(number).rows += 1
        return self._of(number).rows - 1

    def _take_evaluation(self, number: str, metrics: Row) -> None:
        run = self._run(number).run
        self._take_steps(number)  # steps precede their evaluation
        texts = {name: value for name, value in metrics.items() if isinstance(value, str)}
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        run.log(numbers, self._next_row(number))
        if texts:
            run.describe(texts)

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


def tracked_run(spec: Spec, settings: MirrorSettings) -> TrackedRun:
    """Makes the description of a trial's run from its specification.

    The resolved configuration is at the top level, which W&B's columns and filters use. Other values are in groups:
    `sampled`, `plan`, `share`, `bundle`, `estimate`. A refused trial has only its sampled values.
    """
    bundle = cast("Row", spec.get("bundle") or {})
    resolved = cast("Row", spec.get("config") or spec["sampled"])
    known = {
        "sampled": spec["sampled"],
        "rules": spec.get("notes") or [],
        "plan": spec.get("shape"),
        "share": _share(bundle),
        "bundle": bundle,
        "estimate": spec.get("estimate") or {},
        "simulated": bool(spec.get("simulated", False)),
        "member": spec.get("member"),
        "sweep": settings.sweep,
        "experiment_dir": spec.get("folder"),
    }
    name = str(spec["name"]) if "folder" in spec else f"{settings.sweep} {spec['name']}"
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
    """Returns the job type of runs: the phase of a staged search, else "trial".

    >>> job_type("wide"), job_type("")
    ('wide', 'trial')
    """
    return phase or "trial"


def run_id(name: str, sweep_folder: str) -> str:
    """Returns a run id that is stable over resumes and differs between sweep folders of the same name.

    >>> run_id("wide_bart_lr1e-04_bs16_1124_0905", "/outputs/sweep_results/wide")
    'wide_bart_lr1e-04_bs16_1124_0905-61dd12'
    >>> run_id("밤/새", "/outputs/sweep_results/wide")
    '___-69da04'
    """
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name)
    return f"{plain[:100]}-{hashlib.sha256(f'{sweep_folder}:{name}'.encode()).hexdigest()[:6]}"


def closing_summary(record: TrialRecord) -> dict[str, object]:
    """Returns the final values of a trial: outcome, best scores, estimated and measured memory, cost."""
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
    peak, estimate = measured.get("memory/measured_device_bytes"), predicted.get("memory/estimated_device_bytes")
    if peak and isinstance(estimate, (int, float)):
        summary["memory/estimate_error_percent"] = 100.0 * (estimate - peak) / peak
    return summary


def example_rows(scored: Sequence[tuple[float, ExampleRow]], count: int = EXAMPLES) -> list[ExampleRow]:
    """Selects the best and the worst summaries, the best first; none occurs twice.

    Args:
        scored: Score and row (without its first column) of every summary.
        count: Number of summaries at each end.

    >>> example_rows([(1.0, ("a",)), (3.0, ("b",)), (2.0, ("c",))], count=1)
    [('top', 'b'), ('worst', 'a')]
    """
    ranked = [row for _, row in sorted(scored, key=lambda pair: -pair[0])]
    top = ranked[:count]
    worst = ranked[count:][-count:]
    return [("top", *row) for row in top] + [("worst", *row) for row in worst]


def _share(bundle: object) -> object:
    return cast("Mapping[str, object]", bundle).get("gpus", 0.0)
