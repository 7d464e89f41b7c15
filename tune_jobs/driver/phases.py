"""Runs a staged sweep: its phases one after the other, each a sweep of its own that follows from the one before."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster.machines.hardware import Inventory
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.config.sweep import Phase, Sweep
from tune_jobs.config.sweep_file import kept_text, load_sweep
from tune_jobs.config.sweep_parts import name_problems
from tune_jobs.driver.identity import check_identity, identity_of, keep_identity
from tune_jobs.driver.run_sweep import RunOptions, at_hand, check_placement, run_sweep, sweep_record
from tune_jobs.driver.stop_signals import StopRequest, stop_on_signals
from tune_jobs.driver.sweep_end import Outcome, reported
from tune_jobs.driver.sweep_parts import Clocks
from tune_jobs.driver.view import View
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.records.sweep_lock import alone, check_owner, put_aside
from tune_jobs.search.inputs import prepare_inputs
from tune_jobs.search.next_sweep import NextSweep
from tune_jobs.search.phase_decisions import SEARCHED, Done, describe, pooled, prepare, problem_of
from tune_jobs.tracking.tune_loggers import check_installed
from tuning_common.errors import Problems, RequestError, WorkError
from tuning_common.files import write_bytes, write_json, write_text
from tuning_common.strict import from_mapping

STATE_NAME = "phases.json"


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """What a finished phase left, as phases.json keeps it.

    Attributes:
        name: Of the phase.
        kind: What it is for.
        sweep: Its sweep's name.
        folder: Its results.
        trials: How many it ran.
        best: Its best score; None where no trial has one.
        span_s: From the first start to the last end.
        decision: What it decided and why, in words.
        reasons: Why each parameter of the next phase has its bounds.
        following: The file of the next phase; None after the last.
    """

    name: str
    kind: str
    sweep: str
    folder: str
    trials: int
    best: float | None
    span_s: float
    decision: str
    reasons: dict[str, str] = field(default_factory=dict)
    following: str | None = None


@dataclass(frozen=True, kw_only=True)
class StagedOutcome(Outcome):
    """What a staged sweep ended with.

    Attributes:
        phases: Those that are over.
    """

    phases: tuple[PhaseRecord, ...]


def run_staged(
    sweep: Sweep, options: RunOptions, view: View, clocks: Clocks | None = None, *, until: str | None = None
) -> StagedOutcome:
    """Runs the phases of a staged sweep on one cluster, from where an earlier run was ended.

    Args:
        sweep: With phases.
        options: As for a plain sweep.
        view: Shows the progress of each phase.
        clocks: Injected in tests.
        until: Name of the last phase to run this time; all where None.

    Raises:
        RequestError: Before anything runs.
        WorkError: When a phase has no result, so that nothing can follow.
    """
    check_installed(sweep.tracking)
    return _Staged(sweep, options, view, clocks or Clocks(), until).run()


class _Staged:
    def __init__(self, sweep: Sweep, options: RunOptions, view: View, clocks: Clocks, until: str | None) -> None:
        self._sweep, self._options, self._view, self._clocks = sweep, options, view, clocks
        self._output_dir = Path(sweep.tracking.output_dir)
        self._folder = SweepFolder.of(self._output_dir, sweep.name)
        self._state = self._folder.path / STATE_NAME
        self._until = until
        self._done: list[Done] = []
        self._records: list[PhaseRecord] = []
        self._simulated = self._hurried = False
        self._stop = StopRequest()
        budget_s = sweep.resources.time_budget_s
        self._ends_at_s = None if budget_s is None else clocks.elapsed_s() + budget_s

    def run(self) -> StagedOutcome:
        self._check()
        with alone(self._folder), ExitStack() as stack:
            if self._options.resume and not self._folder.path.exists():
                raise RequestError(f"{self._folder.path}: nothing to resume; run the sweep without --resume")
            inventory = stack.enter_context(at_hand(self._sweep, self._options))
            self._simulated = inventory.simulated
            for phase in self._foreseen():
                check_placement(phase.sweep, inventory)
            self._begin(inventory)
            whole = self._phases_left(stack, inventory)
            return self._outcome(interrupted=not whole)

    def _check(self) -> None:
        """Refuses everything that can be known before anything runs."""
        names = [phase.name for phase in self._sweep.phases]
        problems = Problems()
        if self._until is not None and self._until not in names:
            problems.add(f"--until {self._until}: no phase has this name; there are {', '.join(names)}")
        for phase in self._sweep.phases:
            problems.extend([f"phase {phase.name}: {text}" for text in name_problems(phase.sweep.name)])
        problems.raise_if_any(self._sweep.source)
        self._identity = identity_of(self._sweep, self._options.inputs or prepare_inputs(self._sweep))

    def _foreseen(self) -> list[Phase]:
        """The phases whose trials do not depend on others' results."""
        return [phase for phase in self._sweep.phases if phase.kind in ("quick_check", "wide")]

    def _begin(self, inventory: Inventory) -> None:
        if self._options.resume:
            check_identity(self._folder, self._identity)
            self._read_state()
        else:
            folders = [*map(self._phase_folder, self._sweep.phases), self._folder]
            for folder in folders:
                check_owner(folder, self._sweep.team.member)
            for folder in folders:  # else --resume would take an older run's phase for this one's
                put_aside(folder, self._sweep.team.member)
            keep_identity(self._folder, self._identity)
        write_bytes(self._folder.sweep_file, kept_text(self._sweep))
        self._folder.append(self._sweep_record(inventory))

    def _phases_left(self, stack: ExitStack, inventory: Inventory) -> bool:
        """Runs what is left; returns whether all phases are over."""
        from tune_jobs.driver.ray_session import attached, session

        left = self._sweep.phases[len(self._records) :]
        if left:
            self._options = dataclasses.replace(self._options, embedded=not attached())
            show = self._view.event if self._options.dashboard else None
            inventory = stack.enter_context(session(inventory, show))  # one start for all phases
            stack.enter_context(stop_on_signals(self._stop))
        for phase in left:
            if self._stop.requested:  # between two phases: everything is on the disk
                return False
            if self._ends_at_s is not None and self._clocks.elapsed_s() >= self._ends_at_s:
                self._view.event(f"the window of {self._sweep.resources.time_budget} is over before {phase.name}")
                return False
            place = len(self._records) + 1
            self._view.event(f"phase {place} of {len(self._sweep.phases)}: {phase.name} ({phase.kind})")
            if not self._run_phase(phase, inventory):
                return False
            self._view.event(f"phase {phase.name}: {self._records[-1].decision}")
            if phase.name == self._until:
                break
        return len(self._records) == len(self._sweep.phases)

    def _run_phase(self, phase: Phase, inventory: Inventory) -> bool:
        sweep = self._phase_sweep(phase)
        folder = SweepFolder.of(self._output_dir, sweep.name)
        resume = self._options.resume and folder.ledger.exists()
        options = dataclasses.replace(
            self._options, resume=resume, group=self._sweep.name, phase=phase.name, inputs=None
        )
        outcome = run_sweep(sweep, options, self._view, self._clocks, inventory=inventory, stop=self._stop)
        if outcome.interrupted:
            self._hurried = outcome.hurried
            return False
        self._finish(phase, sweep, outcome.analysis or analyse(folder.load()))
        return True

    def _phase_sweep(self, phase: Phase) -> Sweep:
        """Reads the phase's file: the first phase's is made here, the others were made when the one before ended."""
        if self._records:
            path = self._phase_folder(self._sweep.phases[len(self._records) - 1]).next_sweep
        else:
            path = self._folder.path / f"{phase.name}.yaml"
            write_text(path, prepare(self._sweep, phase, ()).text())
        sweep = load_sweep(path)
        if sweep.name != phase.sweep.name:
            raise RequestError(
                f"{path}: a phase is found by its name; keep `name: {phase.sweep.name}` instead of {sweep.name!r}"
            )
        left_s = None if self._ends_at_s is None else max(self._ends_at_s - self._clocks.elapsed_s(), 0.0)
        budget = None if left_s is None else f"{left_s:.0f}s"
        return dataclasses.replace(sweep, resources=dataclasses.replace(sweep.resources, time_budget=budget))

    def _finish(self, phase: Phase, sweep: Sweep, analysis: Analysis) -> None:
        """Notes what a phase decided, and makes the file of the next one."""
        self._done.append(Done(phase=phase, sweep=sweep, analysis=analysis))
        problem = problem_of(self._done[-1])
        if problem is not None:
            raise WorkError(f"{problem}; see {SweepFolder.of(self._output_dir, sweep.name).ledger}")
        place = len(self._done)
        following: NextSweep | None = None
        file: Path | None = None
        if place < len(self._sweep.phases):
            following = prepare(self._sweep, self._sweep.phases[place], self._done)
            file = self._phase_folder(phase).next_sweep
            write_text(file, following.text())
        for trial in self._done[-1].trials:
            self._folder.append(trial)
        self._records.append(
            PhaseRecord(
                name=phase.name,
                kind=phase.kind,
                sweep=sweep.name,
                folder=str(self._phase_folder(phase).path),
                trials=len(analysis.ledger.trials),
                best=analysis.candidates[0].score,
                span_s=analysis.cost.span_s,
                decision=describe(self._done, following),
                reasons=dict(following.reasons) if following is not None else {},
                following=None if file is None else str(file),
            )
        )
        write_json(self._state, {"sweep": self._sweep.name, "phases": [asdict(one) for one in self._records]})

    def _read_state(self) -> None:
        """Goes through the phases that an earlier run finished."""
        if not self._state.exists():
            return
        state = json.loads(self._state.read_text(encoding="utf-8"))
        self._records = [from_mapping(PhaseRecord, one, where=str(self._state)) for one in state["phases"]]
        for phase, record in zip(self._sweep.phases, self._records, strict=False):
            folder = self._phase_folder(phase)  # and not the written one: the results may have been moved
            if phase.name != record.name or not folder.sweep_file.exists():
                raise RequestError(
                    f"{self._state}: phase {record.name} in {folder.path} is not what {self._sweep.source} asks for "
                    f"({phase.name}); run the sweep without --resume"
                )
            self._done.append(Done(phase=phase, sweep=load_sweep(folder.sweep_file), analysis=analyse(folder.load())))
            self._view.event(f"phase {record.name} is over: {record.decision}")

    def _phase_folder(self, phase: Phase) -> SweepFolder:
        return SweepFolder.of(self._output_dir, phase.sweep.name)

    def _outcome(self, *, interrupted: bool) -> StagedOutcome:
        """Finds the winner and builds the reports of the whole."""
        analysis = _deciding(self._done)
        best = analysis.candidates[0] if analysis is not None and analysis.candidates else None
        if best is not None:
            self._folder.write_best_config(best.best.trial)
            if not self._hurried:
                reported(self._folder)
        return StagedOutcome(
            folder=self._folder,
            metric=self._sweep.metric.name,
            phases=tuple(self._records),
            best=best.best.trial if best is not None else None,
            score=best.score if best is not None else None,
            interrupted=interrupted,
            simulated=self._simulated,
        )

    def _sweep_record(self, inventory: Inventory) -> SweepRecord:
        record = sweep_record(self._sweep, self._options, self._clocks.now(), (), inventory)
        method = " -> ".join(phase.name for phase in self._sweep.phases)
        return dataclasses.replace(record, method=method, stopping="", cards=[])  # those are of the phases


def _deciding(done: Sequence[Done]) -> Analysis | None:
    """The analysis that names the winner: the confirmation's, else that of all searching phases together."""
    if not done:
        return None
    if done[-1].phase.kind in ("confirm", "generation"):
        return done[-1].analysis
    return pooled(done) if any(one.phase.kind in SEARCHED for one in done) else done[-1].analysis
