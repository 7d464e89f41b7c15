"""The ledger of a sweep's trials, and the paths of its result folders.

The ledger `all_results.jsonl` is append-only. Each line describes the sweep or the state of a trial. A trial may have
several lines (an attempt failed, a later one finished); the last one counts. A driver that dies loses no written line,
and a restarted one continues.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tune_jobs.config.language import Language
from tune_jobs.records.journal_events import relative_path, whole_path
from tune_jobs.records.trial_spec import planned_fields
from tuning_common.errors import Problems, RequestError
from tuning_common.files import append_jsonl, read_numbered_jsonl, write_text
from tuning_common.goal import Goal
from tuning_common.strict import dump_yaml, from_mapping

TrialOutcome = Literal["running", "finished", "stopped", "failed", "oom", "refused"]
OUTCOMES: tuple[TrialOutcome, ...] = ("finished", "stopped", "failed", "oom", "refused", "running")
_MOST_SECONDS = 1e11  # later than any date that Python can show
_MOST_CHARACTERS = 200  # of what is wrong with a line
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no such numbers


@dataclass(frozen=True, kw_only=True)
class TrialError:
    """Why a trial failed, ran out of memory or was refused.

    Attributes:
        type: Name of the exception, or of the reason.
        message: One or two sentences for people.
        where: A log, a node or a line of code; empty where it is unknown.
    """

    type: str
    message: str
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial in the ledger.

    Attributes:
        trial_id: Unique in its sweep; a later line with the same id replaces an earlier one.
        name: Experiment name.
        sweep: Sweep name.
        status: `stopped`: stopped early by the scheduler; `oom`: out of memory after all retries; `refused`: never
            started; `running`: not ended when the line was written.
        phase: Phase of a staged search.
        sampled: Values of the searched parameters.
        resolved: The complete run configuration.
        metrics: The last evaluation.
        best_metrics: The best evaluation by the sweep's metric, under the same names as `metrics`.
        history: One row for each evaluation: `rung`, `iteration`, `train/global_step`, `train/epoch`, `wall_s` (seconds
            of run time at that moment), `card/slowdown`, `eval/*`.
        error: Why it failed, ran out of memory or was refused.
        started_at: Unix seconds of the first attempt; None for a trial that never started.
        ended_at: Unix seconds.
        wall_s: Run time in seconds, over all attempts.
        gpu_seconds: Share times seconds, over all attempts.
        node: Host that it ran on last.
        card: The card on that host, for example "0" or a UUID.
        gpu_model: Model of the card.
        share: GPUs held; 0 without a GPU.
        estimate: Fields of MemoryEstimate: `device_bytes`, `upper_bytes`, `peak_phase`, `terms` (bytes by name) and
            others.
        plan: `micro_batch`, `accumulation`, `gradient_checkpointing`, `ranks`, `sharded`: see RunShape.
        measured: Peaks `allocated_bytes`, `reserved_bytes`, `device_bytes`, `host_rss_bytes`; a value that was not
            measured is absent.
        retries: Number of attempts after the first.
        seed: Seed of the training.
        simulated: Whether the card was a simulated one.
        experiment_dir: Folder of the experiment; see ExperimentFolder.
        member: Team member whose quota it used.
        lineage: Its copies of other trials' weights (pbt); see TrialHistory.copies. `sampled` and `resolved` are the
            values at its end.
        trained: The experiment whose model it generated with; None where it trained its own.
        attempts: Times and cards of each attempt of a trial that started more than once; see TrialHistory.attempts.
        damaged: Its checkpoints that were not used, in words; see TrialHistory.damaged.
    """

    trial_id: str
    name: str
    sweep: str
    status: TrialOutcome
    phase: str = ""
    sampled: dict[str, object] = field(default_factory=dict)
    resolved: dict[str, object] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    error: TrialError | None = None
    started_at: float | None = None
    ended_at: float | None = None
    wall_s: float = 0.0
    gpu_seconds: float = 0.0
    node: str | None = None
    card: str | None = None
    gpu_model: str | None = None
    share: float = 0.0
    estimate: dict[str, object] | None = None
    plan: dict[str, object] | None = None
    measured: dict[str, float] | None = None
    retries: int = 0
    seed: int | None = None
    simulated: bool = False
    experiment_dir: str = ""
    member: str | None = None
    lineage: list[dict[str, object]] = field(default_factory=list)
    trained: str | None = None
    attempts: list[dict[str, object]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def cards(self) -> int:
        """Number of cards that it trained on; 1 also for a part of one, or none."""
        return int(str((self.plan or {}).get("ranks", 1)))

    @property
    def as_run(self) -> dict[str, object]:
        """Returns its configuration with the last memory plan; see RunShape."""
        return self.resolved | planned_fields(self.plan or {})

    @property
    def model_folder(self) -> str:
        """The folder of its model; empty where the experiment's folder is unknown."""
        folder = self.trained or self.experiment_dir
        return str(ExperimentFolder(Path(folder)).best_model) if folder else ""


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """The description of a sweep, which makes its ledger readable alone.

    Attributes:
        sweep: Its name.
        metric: The metric that ranks trials.
        goal: Whether the metric is maximized or minimized.
        method: Search method.
        parameters: Searched parameters by name, as in a sweep file.
        trials: Number of planned trials.
        stopping: The rule that stops trials early, for people, for example "asha, eta 3, rungs 1, 3".
        started_at: Unix seconds.
        phase: Phase of a staged search.
        command: The command that started it.
        simulated: Whether the cards are simulated ones.
        cards: The available cards, for example {"node": "a", "card": "0", "gpu_model": "RTX 3090",
            "total_bytes": 25769803776}.
        baseline: The result to beat: a name and the metric's value; None where it is unknown.
        member: Team member who started it.
        source: The sweep file.
        wandb_report: URL of its report at W&B, or None.
        cut_texts: How many dialogues and summaries of each data file are longer than trials read, in words.
        language: Language of its reports.
    """

    sweep: str
    metric: str
    goal: Goal
    method: str = ""
    parameters: dict[str, dict[str, object]] = field(default_factory=dict)
    trials: int | None = None
    stopping: str = ""
    started_at: float | None = None
    phase: str = ""
    command: str = ""
    simulated: bool = False
    cards: list[dict[str, object]] = field(default_factory=list)
    baseline: dict[str, float] | None = None
    member: str | None = None
    source: str = ""
    wandb_report: str | None = None
    cut_texts: list[str] = field(default_factory=list)
    language: Language = "en"


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The content of a ledger.

    Attributes:
        sweep: The last description of the sweep, with the start of the first; None where there is none.
        trials: The last line of every trial, by number, so that of equal trials the earlier one wins everywhere.
        torn: What is wrong with each line that could not be used.
    """

    sweep: SweepRecord | None = None
    trials: tuple[TrialRecord, ...] = ()
    torn: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep; defines its file names.

    Attributes:
        path: outputs/sweep_results/<sweep>.

    >>> SweepFolder.of(Path("outputs"), "wide").ledger.as_posix()
    'outputs/sweep_results/wide/all_results.jsonl'
    """

    path: Path

    @classmethod
    def of(cls, output_dir: Path, sweep: str) -> "SweepFolder":
        """Returns the folder of a sweep inside the output folder."""
        return cls(output_dir / "sweep_results" / sweep)

    @property
    def output(self) -> Path:
        """The output folder that contains sweep_results/<sweep>."""
        return self.path.absolute().parents[1]

    @property
    def ledger(self) -> Path:
        """The ledger, one JSON object per line."""
        return self.path / "all_results.jsonl"

    @property
    def best_config(self) -> Path:
        """The best trial's run configuration."""
        return self.path / "best_config.yaml"

    @property
    def sweep_file(self) -> Path:
        """The sweep as it was run."""
        return self.path / "sweep.yaml"

    @property
    def next_sweep(self) -> Path:
        """The proposal for the next sweep."""
        return self.path / "next_sweep.yaml"

    @property
    def review(self) -> Path:
        """The experiment review."""
        return self.path / "review.md"

    @property
    def snapshot(self) -> Path:
        """The code and the command that its experiments share."""
        return self.path / "snapshot"

    @property
    def report_html(self) -> Path:
        """The report for a browser."""
        return self.path / "analysis_report.html"

    @property
    def report_markdown(self) -> Path:
        """The report as text."""
        return self.path / "analysis_report.md"

    @property
    def report_picture(self) -> Path:
        """The report's plots as one picture."""
        return self.path / "analysis_report.png"

    def append(self, record: TrialRecord | SweepRecord) -> None:
        """Appends one line to the ledger; safe with several writers on one machine."""
        event = "trial" if isinstance(record, TrialRecord) else "sweep"
        values = _for_json({"event": event, **dataclasses.asdict(self._with_relative_paths(record))})
        assert isinstance(values, dict)
        append_jsonl(self.ledger, values)

    def load(self) -> Ledger:
        """Reads the ledger; a missing file is an empty ledger, and a line that is no record is left out and named."""
        lines, torn = read_numbered_jsonl(self.ledger)
        sweep: SweepRecord | None = None
        trials: dict[str, TrialRecord] = {}
        for number, line in lines.items():
            try:
                record = self.read(line)
            except RequestError as error:
                torn[number] = "; ".join(error.problems or (error.message,))
                continue
            if isinstance(record, TrialRecord):
                trials[record.trial_id] = record
            else:
                started_at = sweep.started_at if sweep and sweep.started_at is not None else record.started_at
                sweep = dataclasses.replace(record, started_at=started_at)
        texts = tuple(f"line {number}: {text}"[:_MOST_CHARACTERS] for number, text in sorted(torn.items()))
        by_number = sorted(trials.values(), key=lambda one: int(one.trial_id) if one.trial_id.isdecimal() else 0)
        return Ledger(sweep=sweep, trials=tuple(by_number), torn=texts)

    def _with_relative_paths(self, record: TrialRecord | SweepRecord) -> TrialRecord | SweepRecord:
        if isinstance(record, SweepRecord) or not record.experiment_dir:
            return record
        with contextlib.suppress(RequestError):  # a path outside is not used when it is read
            return dataclasses.replace(record, experiment_dir=relative_path(record.experiment_dir, self.output))
        return record

    def read(self, line: Mapping[str, object]) -> TrialRecord | SweepRecord:
        """Reads one line, with the absolute path of the experiment, wherever the output folder is now.

        Raises:
            RequestError: When it is not a valid record.
        """
        record = read_record(line)
        if isinstance(record, SweepRecord) or not record.experiment_dir:
            return record
        try:
            folder = whole_path(record.experiment_dir, self.output)
        except RequestError:
            folder = str(ExperimentFolder.of(self.output, Path(record.name).name).path)
        return dataclasses.replace(record, experiment_dir=folder)

    def write_best_config(self, best: TrialRecord) -> None:
        """Writes the run configuration of the best trial for `python -m dialsum train`."""
        title = f"# Best of {best.sweep}: {best.name}\n"
        if best.cards > 1:
            start = f"torchrun --nproc-per-node {best.cards}"
            title += f"# It ran on {best.cards} cards: {start} -m dialsum train --config ...\n"
        if best.lineage:
            title += (
                "# Its values changed on the way (pbt), and so did its weights: these alone do not train it again.\n"
            )
        write_text(self.best_config, title + dump_yaml(_for_json(best.as_run)))


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of one experiment; defines its file names.

    Attributes:
        path: outputs/experiments/<experiment>.

    >>> ExperimentFolder.of(Path("outputs"), "a").best_model.as_posix()
    'outputs/experiments/a/models/best_model'
    """

    path: Path

    @classmethod
    def of(cls, output_dir: Path, experiment: str) -> "ExperimentFolder":
        """Returns the folder of an experiment inside the output folder."""
        return cls(output_dir / "experiments" / experiment)

    @property
    def config(self) -> Path:
        """The resolved run configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Last and best metrics."""
        return self.path / "metrics.json"

    @property
    def log(self) -> Path:
        """The log of the training."""
        return self.path / "training.log"

    @property
    def predictions(self) -> Path:
        """Input, prediction, references and scores, one example per line."""
        return self.path / "predictions.jsonl"

    @property
    def snapshot(self) -> Path:
        """The snapshot for running it again."""
        return self.path / "snapshot"

    @property
    def best_model(self) -> Path:
        """Weights and tokenizer, loadable by transformers."""
        return self.path / "models" / "best_model"


def read_record(line: Mapping[str, object]) -> TrialRecord | SweepRecord:
    """Reads one line of a ledger.

    Raises:
        RequestError: When it is not a valid record.
    """
    values = {key: value for key, value in line.items() if key != "event"}
    if line.get("event") == "sweep":
        return from_mapping(SweepRecord, values, where="sweep record")
    if line.get("event") != "trial":
        raise RequestError(f"event must be 'sweep' or 'trial', but is {line.get('event')!r}")
    numbers = {key: _numbers(values[key]) for key in ("metrics", "best_metrics", "history") if key in values}
    record = from_mapping(TrialRecord, values | numbers, where="trial record")
    _check(record)
    return record


def _check(record: TrialRecord) -> None:
    """Refuses values that no trial can have, on which a report would fail."""
    problems = Problems()
    for name in ("started_at", "ended_at", "wall_s", "gpu_seconds", "share"):
        value = getattr(record, name)
        if value is not None and not 0 <= value <= _MOST_SECONDS:
            problems.add(f"{name} cannot be {value:g}")
    for name, value in record.sampled.items():
        if not all(isinstance(one, (str, int, float, type(None))) for one in _items(value)):
            problems.add(f"sampled.{name} must be a value, or a list of values")
    ranks = (record.plan or {}).get("ranks", 1)
    if not isinstance(ranks, int) or ranks < 1:
        problems.add("plan.ranks must be a whole number of at least 1")
    problems.raise_if_any("trial record")


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _for_json(value: object) -> object:
    """Returns plain values; NaN and infinities become their names, as JSON lacks them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(item) for item in value]
    return value


def _numbers(value: object) -> object:
    """Inverts _for_json for the fields with measured numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
