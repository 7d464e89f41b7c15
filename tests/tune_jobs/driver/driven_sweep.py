"""One driver over the files of a folder: everything is real but Ray, the trials' processes and the clock."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.machines.hardware import Inventory, parse_simulated
from dialsum.config import RunConfig
from tests.tune_jobs.driver.driven_parts import RecordedBroker, Specs
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.config.rules import Rules, resolve
from tune_jobs.driver.callbacks import LedgerCallback
from tune_jobs.driver.inherit import FOLDER, inherit_into
from tune_jobs.driver.learning import Learning
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.stop_signals import StopRequest
from tune_jobs.driver.sweep_driver import SweepDriver
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.sweep_state import SweepState
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.card_sharing import learned_co_tenants
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.progress import SweepFrame, SweepProgress, progress_of
from tune_jobs.records.trial_spec import (
    EVALUATION_KEY,
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    STARTED_KEY,
    FailureKind,
    TrialSpec,
)
from tune_jobs.records.trial_state import HISTORY_FILE, evaluations_of, write_state
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import CompletedTrial, ListSampler, Sampler
from tuning_common.goal import Goal
from tuning_common.storage import StorageRetry


class ObservedList(ListSampler):
    """Trials of batch 1, 2, 3, ... that keeps what it observed of those that ended."""

    def __init__(self, count: int, order: Sequence[int] | None = None) -> None:
        super().__init__([{"batch_size": size} for size in range(1, count + 1)], order)
        self.completed: dict[int, CompletedTrial] = {}

    def observe(self, number: int, completed: CompletedTrial) -> None:
        """Keeps it."""
        self.completed[number] = completed


def fifo() -> TrialScheduler:
    """Returns a scheduler that stops nobody."""
    scheduler = FIFOScheduler()
    scheduler.set_search_properties(METRIC, "max")
    return scheduler


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a sweep is about.

    Attributes:
        cards: As parse_simulated reads them.
        sampler: Makes the sampler of each driver.
        scheduler: Makes the scheduler of each driver.
        needs_gib: What a trial needs, by its batch; HALF_GIB where it is not named.
        longest: Evaluations of a trial that is never stopped.
        submission: How many trials are under way at a time.
        ends_at_s: See SweepLimits.
        goal: Of the metric.
        retry: What is tried again.
        calibration: Whether peaks are kept in the folder.
    """

    cards: str = "8xA:24GiB"
    sampler: Callable[[], Sampler] = field(default=lambda: ObservedList(4))
    scheduler: Callable[[], TrialScheduler] = fifo
    needs_gib: Mapping[int, float] = field(default_factory=dict)
    longest: int = 3
    submission: SubmissionLimits = field(default_factory=SubmissionLimits)
    ends_at_s: float | None = None
    goal: Goal = "maximize"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    calibration: bool = False


@dataclass(kw_only=True)
class Attempt:
    """What Tune would run.

    Attributes:
        spec: The trial.
        evaluations: That it has made, those before its checkpoint included.
        pid: Of its process.
    """

    spec: TrialSpec
    evaluations: int
    pid: int


class DrivenSweep:
    """One driver process, driven by hand in place of Tune.

    Args:
        folder: The sweep's results; what an earlier driver left there is taken up.
        setup: See there.
        journal: Opens the journal.

    Attributes:
        now_s: Elapsed seconds; the wall clock shows a million more.
        shown: Lines for the person who watches.
        sent: Attempts that Tune was given and that Ray has not started.
        running: Attempts whose process runs.
        killed: Locations of the processes that the driver killed.
    """

    def __init__(self, folder: Path, setup: Setup | None = None, journal: Callable[[Path], Journal] = Journal) -> None:
        self.setup = setup = setup or Setup()
        self.now_s = 1000.0
        self.shown: list[str] = []
        self.sent: dict[int, TrialSpec] = {}
        self.running: dict[int, Attempt] = {}
        self.killed: list[Mapping[str, object]] = []
        self.stop = StopRequest()
        self.folder = SweepFolder(folder)
        self.sampler = setup.sampler()
        self.journal = journal(folder / "journal.jsonl")
        self._new_cards: Inventory | None = None
        self._made: dict[int, int] = {}  # evaluations of each trial since it copied from another
        self._last = 0
        self._copies: set[str] = set()
        self._read_turns()
        cards = parse_simulated(setup.cards)
        clocks = Clocks(elapsed_s=lambda: self.now_s, now=lambda: self.now_s + 1e6)
        self.broker = RecordedBroker(
            cards,
            sweep="sample",
            max_concurrent=setup.submission.running,
            watch=self._take_new_cards,
            elapsed_s=clocks.elapsed_s,
            now=clocks.now,
        )
        self.broker.open()
        self.frame = SweepFrame(
            sweep="sample",
            metric=METRIC,
            goal=setup.goal,
            total=self.sampler.total,
            longest=setup.longest,
            slots=2,
            rungs=(1,),
            started_s=self.now_s,
        )
        self.ledger = LedgerCallback(
            self.folder,
            self.journal,
            self.frame,
            calibration=folder / "calibration.jsonl" if setup.calibration else None,
            retry=StorageRetry(self.shown.append),
            to_come=lambda: [
                self.sampler.suggest(number) or {} for number in self.sampler.order if number not in self.journal.trials
            ],
            clock=clocks.elapsed_s,
        )
        self.ledger.write_missing()
        self.state = SweepState(
            SweepParts(
                sampler=self.sampler,
                specs=Specs(folder, setup.needs_gib, cards),
                early_stopping=EarlyStopping(setup.scheduler(), seed=1, last=setup.longest),
                retry=setup.retry,
                inherit=inherit_into(folder, lambda sampled: resolve(RunConfig(), sampled, Rules())),
                learning=Learning(co_tenants=learned_co_tenants(self.journal.earlier)),
            ),
            SweepLimits(
                sweep="sample",
                goal=setup.goal,
                longest=setup.longest,
                submission=setup.submission,
                ends_at_s=setup.ends_at_s,
                scheduler="asha",
            ),
            self.journal,
            clocks,
        )
        self.driver = SweepDriver(
            self.state,
            self.journal,
            self.broker,
            folder,
            callbacks=(self.ledger,),
            notify=self.shown.append,
            stop=self.stop,
            clocks=clocks,
            kill=self.killed.append,
        )
        self.driver.tick()  # submits
        self.driver.tick()  # launches

    # What a test reads

    @property
    def text(self) -> str:
        """All lines that were shown."""
        return "\n".join(self.shown)

    @property
    def trials(self) -> Mapping[int, TrialHistory]:
        """What the journal holds."""
        return self.journal.trials

    @property
    def records(self) -> dict[int, TrialRecord]:
        """The ledger."""
        return {int(record.trial_id): record for record in self.folder.load().trials}

    @property
    def statuses(self) -> dict[int, str]:
        """Of the ledger, by number."""
        return {number: record.status for number, record in sorted(self.records.items())}

    @property
    def waiting(self) -> list[int]:
        """Trials in the broker's queue."""
        return [int(name.rpartition("/")[2]) for name in self.broker.queued]

    @property
    def holding(self) -> set[int]:
        """Trials that hold a share."""
        return {int(name.rpartition("/")[2]) for name in self.broker.held}

    def progress(self) -> SweepProgress:
        """What the view shows."""
        return progress_of(self.frame, self.journal.trials, self.now_s, waiting=self.state.waiting)

    # What Tune and Ray do

    def tick(self, seconds: float = 0.0) -> None:
        """Time passes, and Tune calls the driver."""
        self.now_s += seconds
        self.driver.tick()
        self.ledger.update()

    def send(self) -> list[int]:
        """Tune takes all launches that there are; returns their trials."""
        self.driver.tick()
        taken = []
        while self.driver.has_launch():
            spec = self.driver.next_launch()
            assert spec is not None
            assert spec.number not in self.sent, f"trial {spec.number} is launched twice"
            assert spec.number not in self.running, f"trial {spec.number} runs already"
            self.sent[spec.number] = spec
            taken.append(spec.number)
        return taken

    def start(self, number: int | None = None) -> TrialSpec:
        """Ray starts an attempt that was sent, the first one where None."""
        self.send()
        number = next(iter(self.sent)) if number is None else number
        spec = self.sent.pop(number)
        pid = 100 * number + self.journal.trials[number].starts + 1
        checkpoint = Path(spec.resume_from) if spec.resume_from else None
        if checkpoint is not None and FOLDER in checkpoint.parts and str(checkpoint) not in self._copies:
            self._copies.add(str(checkpoint))
            self._made[number] = evaluations_of(checkpoint)
        self.running[number] = Attempt(spec=spec, evaluations=evaluations_of(checkpoint), pid=pid)
        self.driver.started(number)
        self._report(number, {STARTED_KEY: True})
        return spec

    def start_all(self) -> list[int]:
        """Ray starts everything that was sent; returns the trials."""
        self.send()
        return [self.start(number).number for number in list(self.sent)]

    def report(self, number: int, value: float, evaluation: int | None = None, **measured: object) -> bool:
        """A trial makes an evaluation of ten seconds; returns whether its attempt should end."""
        self.now_s += 10.0
        attempt = self.running[number]
        attempt.evaluations = attempt.evaluations + 1 if evaluation is None else evaluation
        if attempt.evaluations > self._made.get(number, 0):
            self._made[number], self._last = attempt.evaluations, number
        result: dict[str, object] = {METRIC: value, EVALUATION_KEY: attempt.evaluations}
        return self._report(number, result | {name.replace("__", "/"): one for name, one in measured.items()})

    def report_other(self, number: int, **result: object) -> bool:
        """A trial reports something else than an evaluation; names are those behind "trial/"."""
        return self._report(number, {f"trial/{name}": value for name, value in result.items()})

    def save(self, number: int, folder: str = "") -> Path:
        """A trial's checkpoint is complete in the storage."""
        attempt = self.running[number]
        name = folder or f"bs{number}_{attempt.pid}/checkpoint_{attempt.evaluations}"
        checkpoint = self.folder.path / "tune" / name
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "weights").write_text(f"trial {number} evaluation {attempt.evaluations}")
        values = self.journal.trials[number].evaluations
        history = [{METRIC: values[one].value} for one in sorted(values)]
        (checkpoint / HISTORY_FILE).write_text(json.dumps(history))
        write_state(checkpoint, evaluations=attempt.evaluations, losses=None, trial=attempt.spec.to_dict())
        self.driver.saved(number, checkpoint)
        return checkpoint

    def end(self, number: int) -> None:
        """A trial's function returned, or was stopped as asked."""
        del self.running[number]
        self.driver.ended(number, None)

    def fail(self, number: int, kind: FailureKind, message: str = "broken") -> None:
        """A trial reports what went wrong, and its attempt fails."""
        self._report(number, {FAILURE_KEY: kind, FAILURE_MESSAGE_KEY: message})
        self.lose(number, f"RuntimeError: {message}")

    def lose(self, number: int, error: str = "ActorDiedError: the process died") -> None:
        """A trial's process is gone."""
        del self.running[number]
        self.driver.ended(number, error)

    def run_evaluation(self, number: int, value: float) -> None:
        """A trial makes an evaluation, saves, and ends where it should or is done."""
        ends = self.report(number, value)
        self.save(number)
        if ends or self.running[number].evaluations >= self.setup.longest:
            self.end(number)

    def cancel(self) -> list[int]:
        """Tune ends launches that the driver cancelled; returns their trials."""
        cancelled = [number for number in self.driver.take_cancelled() if number in self.sent]
        for number in cancelled:
            del self.sent[number]
            self.driver.ended(number, None)
        return cancelled

    def change_cards(self, cards: str) -> None:
        """Nodes come or go."""
        self._new_cards = parse_simulated(cards)
        self.driver.tick()

    def finish(self, score: Callable[[int, int], float], rng: random.Random | None = None) -> "DrivenSweep":
        """Runs until every trial has ended; the trials evaluate one after another, or as `rng` chooses."""
        for _ in range(1000):
            self.tick()
            self.start_all()
            if not self.running:
                if self.state.is_over:
                    return self
                self.now_s += 1.0
                continue
            number = rng.choice(sorted(self.running)) if rng else self._next_in_turn()
            attempt = self.running[number]
            if attempt.evaluations >= self.setup.longest:  # its last checkpoint had been made before
                self.end(number)
            else:
                self.run_evaluation(number, score(number, attempt.evaluations + 1))
        unfinished = {number for number, trial in self.trials.items() if trial.status is None}
        raise AssertionError(f"the sweep does not end: trials {unfinished}, {self.waiting} wait")

    def _next_in_turn(self) -> int:
        """Returns the next number after that of the last evaluation; first who makes one again that was lost."""
        behind = [number for number, one in self.running.items() if one.evaluations < self._made.get(number, 0)]
        numbers = sorted(self.running)
        return min(behind) if behind else next((one for one in numbers if one > self._last), numbers[0])

    def _read_turns(self) -> None:
        for event in self.journal.earlier:
            number = event["number"]
            assert isinstance(number, int)
            if event["event"] in ("reported", "copied"):
                evaluation = event["donor_evaluation" if event["event"] == "copied" else "evaluation"]
                assert isinstance(evaluation, int)
                self._made[number] = evaluation
            if event["event"] == "reported":
                self._last = number
            elif event["event"] == "copied":
                self._copies.add(str(event["folder"]))

    def _report(self, number: int, result: Mapping[str, object]) -> bool:
        attempt = self.running[number]
        node = attempt.spec.bundle.nodes[0]
        where = {"trial/node": node, "trial/card": "0", "trial/gpu_model": attempt.spec.gpu_model}
        return self.driver.reported(number, {**where, "trial/pid": attempt.pid, **result})

    def _take_new_cards(self) -> Inventory | None:
        found, self._new_cards = self._new_cards, None
        return found
