"""A sweep of made-up trials on a real Ray: everything is the product's but the trials and their estimates."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker_client import BrokerClient, LocalBroker
from tests.tune_jobs.options_of import options_of
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.driver.callbacks import LedgerCallback, SweepCallback
from tune_jobs.driver.inherit import Inherit
from tune_jobs.driver.kill_process import kill_process
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.stop_signals import StopRequest
from tune_jobs.driver.sweep_driver import SweepDriver
from tune_jobs.driver.sweep_parts import Clocks, SpecMaker, SweepLimits, SweepParts
from tune_jobs.driver.sweep_state import SweepState
from tune_jobs.driver.tuner import TunerSettings, run_tuner
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.progress import SweepFrame
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import ListSampler, Sampled
from tuning_common.files import read_jsonl
from tuning_common.storage import StorageRetry

Trainable = Callable[[dict[str, object]], None]
Watch = Callable[[Mapping[int, TrialHistory]], None]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Makes trials; see sweep_parts.SpecMaker.

    Attributes:
        make_spec: Returns the specification of a trial without its number and placement.
        inventory: The cards.
        upper_bytes: Returns a trial's estimate on each card.
        models: Returns the GPU models that a trial may run on; any where None.
    """

    make_spec: Callable[[Sampled], TrialSpec]
    inventory: Inventory
    upper_bytes: Callable[[Sampled], int] = lambda sampled: 0
    models: Callable[[Sampled], tuple[str | None, ...]] = lambda sampled: (None,)

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        """Returns the specification of a new trial."""
        made = self.make_spec(sampled)
        spec = TrialSpec.from_dict({**made.to_dict(), "number": number, "sampled": dict(sampled)})
        return spec.at(self.options(spec)[0].placement)

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every way to run a trial."""
        sampled: Sampled = spec.sampled  # type: ignore[assignment]
        return options_of(spec, self.inventory, self.upper_bytes(sampled), least_bytes, models=self.models(sampled))


def never_inherit(*_: object) -> None:
    """Carries out no exploit."""


@dataclass(kw_only=True)
class RaySweep:
    """One sweep of trials that a test lists.

    Attributes:
        folder: For everything that it writes.
        specs: Makes the trials.
        trials: Their sampled values.
        trainable: Runs in their processes.
        longest: Evaluations of each.
        scheduler: Makes the scheduler that stops trials.
        retry: What is tried again.
        inherit: Carries out exploits.
        watch: Is called with all trials after every step of Tune; kills processes, lets trials go on.
        nodes: Returns the cluster's nodes where they have changed.
        stop: Set by a test to stop the sweep.
        clocks: Of the driver.
        max_concurrent: Trials that run at a time.
        name: Of this run of the driver.
        sweep: Its name.
        broker: One for this sweep alone where None.
        show: Is given every line for a person, too.
    """

    folder: Path
    specs: SpecMaker
    trials: Sequence[Mapping[str, object]]
    trainable: Trainable
    inventory: Inventory
    longest: int = 3
    scheduler: Callable[[], TrialScheduler] = FIFOScheduler
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    inherit: Inherit = never_inherit
    watch: Watch = lambda trials: None
    nodes: Callable[[], Inventory | None] | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    clocks: Clocks = field(default_factory=Clocks)
    max_concurrent: int | None = None
    name: str = "1"
    sweep: str = "made"
    broker: BrokerClient | None = None
    show: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        self._shown = io.StringIO()
        self.results = SweepFolder(self.folder / "results")

    def run(self) -> "RaySweep":
        """Runs the sweep until it is over or stopped."""
        journal = Journal(self.results.path / "journal.jsonl")
        sampler = ListSampler(self.trials)  # type: ignore[arg-type]
        scheduler = self.scheduler()
        scheduler.set_search_properties(METRIC, "max")
        broker = self.broker or LocalBroker(
            self.inventory, sweep=self.sweep, max_concurrent=self.max_concurrent, watch=self.nodes
        )
        broker.open()
        state = SweepState(
            SweepParts(
                sampler=sampler,
                specs=self.specs,
                early_stopping=EarlyStopping(scheduler, seed=0),
                retry=self.retry,
                inherit=self.inherit,
            ),
            SweepLimits(
                sweep=self.sweep,
                goal="maximize",
                longest=self.longest,
                submission=SubmissionLimits(),
                scheduler="the test",
            ),
            journal,
            self.clocks,
        )
        frame = SweepFrame(
            sweep=self.sweep, metric=METRIC, goal="maximize", total=len(self.trials), longest=self.longest, slots=1
        )
        callbacks = (
            LedgerCallback(
                self.results,
                journal,
                frame,
                calibration=None,
                retry=StorageRetry(self._show),
                to_come=lambda: None,
            ),
            _Watching(journal, self.watch),
        )
        driver = SweepDriver(
            state,
            journal,
            broker,
            self.results.path,
            callbacks=callbacks,
            notify=self._show,
            stop=self.stop,
            clocks=self.clocks,
            kill=kill_process,
        )
        settings = TunerSettings(folder=self.results.path / "tune", name=self.name, callbacks=callbacks)
        driver.run(lambda host: run_tuner(self.trainable, host, settings))
        broker.close()
        return self

    def _show(self, text: str) -> None:
        self._shown.write(text + "\n")
        self.show(text)

    # What it left

    @property
    def shown(self) -> str:
        """The lines that a person saw."""
        return self._shown.getvalue()

    @property
    def records(self) -> dict[str, TrialRecord]:
        """The ledger, by name."""
        return {record.name: record for record in self.results.load().trials}

    @property
    def history(self) -> dict[str, TrialHistory]:
        """The journal's trials, by name."""
        return {trial.name: trial for trial in Journal(self.results.path / "journal.jsonl").trials.values()}

    @property
    def events(self) -> list[Mapping[str, object]]:
        """The journal."""
        return list(read_jsonl(self.results.path / "journal.jsonl")[0])


class _Watching(SweepCallback):
    def __init__(self, journal: Journal, watch: Watch) -> None:
        self._journal, self._watch = journal, watch

    def update(self) -> None:
        self._watch(self._journal.trials)


def once(condition: Callable[[Mapping[int, TrialHistory]], object], act: Callable[[TrialHistory], None]) -> Watch:
    """Returns a watch that acts one time.

    Args:
        condition: Returns the trial to act on when it is time.
        act: What to do.
    """
    done: list[TrialHistory] = []

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        found = None if done else condition(trials)
        if isinstance(found, TrialHistory):
            done.append(found)
            act(found)

    return watch
