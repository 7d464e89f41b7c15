"""Lets a scheduler of Ray Tune decide about trials outside of Tune: which continue, pause, stop, or copy from another.

A trial outlives attempts, pauses and drivers, while each attempt is a Tune trial of its own. So the scheduler sees one
stand-in per trial for the whole sweep. Replaying the same calls into fresh objects gives the same rulings. Starts no
cluster. Importing this module imports ray.tune (about one second).
"""

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from tune_jobs.config.space import Value
from tune_jobs.search.scheduler_controller import SchedulerController

Decision = Literal["continue", "pause", "stop"]
EVALUATION = "training_iteration"  # Tune's own key; one iteration is one evaluation
_NUMBER = "trial"  # in a stand-in's configuration: after an exploit it names the donor


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploit:
    """A trial continues with the weights and the changed values of a better one.

    Attributes:
        number: The trial.
        donor: The trial whose checkpoint it continues from.
        donor_evaluation: The donor's last evaluation; its checkpoint may still be on the way to the storage.
        sampled: Its values from now on.
        changes: The values that differ from the donor's, for people.
    """

    number: int
    donor: int
    donor_evaluation: int
    sampled: Mapping[str, Value]
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """What a scheduler decided after one event.

    Attributes:
        decision: For the trial of the event.
        stopped: Paused trials that the scheduler ended meanwhile.
        exploits: Trials that copy from another; each of them is paused, and runnable again when the scheduler says so.
    """

    decision: Decision = "continue"
    stopped: tuple[int, ...] = ()
    exploits: tuple[Exploit, ...] = ()


class EarlyStopping:
    """Hosts one scheduler for one sweep.

    A trial that waits for resources or runs counts as running, also while it is paused for a quota. Reports of an
    evaluation that was reported before (after a restart from an older checkpoint) change nothing. At its last
    evaluation a trial has ended for the scheduler, as it has for Tune's `stop`: it is not stopped or paused any more,
    and nobody waits for it.

    Args:
        scheduler: Fresh, with its metric and mode.
        seed: Of the sweep. Ray's schedulers draw from the global generators of numpy and random; these are seeded per
            (seed, trial, evaluation) during each call and restored afterwards.
        last: Evaluations of a trial that is never stopped; None where trials differ.
    """

    def __init__(self, scheduler: TrialScheduler, *, seed: int, last: int | None = None) -> None:
        self._seed, self._last = seed, last or sys.maxsize
        self._controller = SchedulerController(scheduler)
        self._can_exploit = isinstance(scheduler, PopulationBasedTraining)  # no other class changes configurations
        self._trials: dict[int, Trial] = {}
        self._evaluations: dict[int, int] = {}
        self._runnable: list[int] = []

    def add(self, number: int, sampled: Mapping[str, Value]) -> None:
        """Adds a trial, or adds one again that failed and is taken up by a resumed sweep.

        Args:
            number: Unique in the sweep.
            sampled: Its values.
        """
        assert number not in self._trials or self._trials[number].is_finished(), f"trial {number} is there already"
        trial_id = f"{number:05d}"
        config = {**sampled, _NUMBER: number}
        # The path makes `trial.checkpoint` exist, which PopulationBasedTraining asks for; nobody reads it.
        trial = Trial("trial", stub=True, trial_id=trial_id, config=config, restore_path=f"/{trial_id}")
        self._trials[number] = trial
        self._evaluations.setdefault(number, 0)
        with self._seeded(number):
            self._controller.add(trial)
        self._choose()

    def report(self, number: int, result: Mapping[str, object]) -> Ruling:
        """Takes in one evaluation.

        Args:
            number: The trial.
            result: The metric, training_iteration (the evaluation, from 1), and whatever else time_attr names.
        """
        trial, evaluation = self._trials[number], int(cast("int", result[EVALUATION]))
        if trial.is_finished():
            return Ruling(decision="continue" if self._evaluations[number] >= self._last else "stop")
        if trial.status == Trial.PAUSED:  # its process ran on for one more evaluation
            return Ruling(decision="pause")
        if evaluation <= self._evaluations[number]:
            return Ruling()
        self._evaluations[number] = evaluation
        with self._seeded(number):
            if evaluation >= self._last:
                self._controller.complete_trial(trial, result)
            else:
                self._controller.report(trial, result)
        return self._ruling(number)

    def complete(self, number: int) -> Ruling:
        """Ends a trial that made its last evaluation or was stopped for another reason than its score."""
        with self._seeded(number):
            self._controller.stop_trial(self._trials[number])
        return self._ruling(number)

    def fail(self, number: int) -> Ruling:
        """Ends a trial that failed and will not be tried again."""
        with self._seeded(number):
            self._controller.fail_trial(self._trials[number])
        return self._ruling(number)

    def remove(self, number: int) -> Ruling:
        """Ends a trial that never ran, such as a refused one."""
        trial = self._trials[number]
        if not trial.is_finished():
            self._controller.set_status(trial, Trial.PENDING)  # for which schedulers expect on_trial_remove
        return self.complete(number)

    def keep(self, number: int, sampled: Mapping[str, Value]) -> None:
        """Undoes the new values of an exploit that could not be carried out."""
        self._trials[number].set_config({**sampled, _NUMBER: number})

    def runnable(self) -> list[int]:
        """Returns trials that may run and were not returned before, in the order in which the scheduler chose them.

        These are new ones and unpaused ones; the process of an unpaused one may still be writing its checkpoint. After
        a replay these are all trials that the next driver has to start.
        """
        found = [number for number in self._runnable if self._trials[number].status == Trial.RUNNING]
        self._runnable = []
        return list(dict.fromkeys(found))

    def is_running(self, number: int) -> bool:
        """Returns whether a trial may run: it has neither ended nor was it paused by the scheduler."""
        return bool(self._trials[number].status == Trial.RUNNING)

    def is_finished(self, number: int) -> bool:
        """Returns whether a trial has ended, by the scheduler's decision or the driver's."""
        return bool(self._trials[number].is_finished())

    def _choose(self) -> None:
        """Lets the scheduler choose at once, so that decisions do not depend on when `runnable` is called."""
        self._runnable += [int(trial.trial_id) for trial in self._controller.choose_trials_to_run()]

    def _ruling(self, number: int) -> Ruling:
        trial = self._trials[number]
        exploits = self._new_exploits()
        decision: Decision = "pause" if trial.status == Trial.PAUSED else "continue"
        self._choose()
        exploits += self._wake()
        if trial.is_finished() and self._evaluations[number] < self._last:
            decision = "stop"
        ended = [int(one.trial_id) for one in self._controller.stopped if one is not trial]
        self._controller.stopped.clear()
        return Ruling(decision=decision, stopped=tuple(ended), exploits=tuple(exploits))

    def _wake(self) -> list[Exploit]:
        """Repeats last results while all trials are paused and the scheduler chooses none.

        Ray's synchronous PopulationBasedTraining and HyperBandScheduler decide on a round when its last result comes.
        Where the trial whose result they wait for ends without one, Tune would wait for ever.
        """
        exploits: list[Exploit] = []
        for trial in self._controller.get_live_trials() if self._controller.all_paused else ():
            if not self._controller.all_paused:
                break
            if trial.is_finished():  # a repeated result ended it
                continue
            number = int(trial.trial_id)
            with self._seeded(number):
                self._controller.repeat_report(trial)
            exploits += self._new_exploits()
            if trial.status == Trial.RUNNING:
                self._runnable.append(number)
            self._choose()
        return exploits

    def _new_exploits(self) -> list[Exploit]:
        """Finds the trials whose configuration came from another one, and gives them their own number back."""
        found = []
        for number, trial in self._trials.items() if self._can_exploit else ():
            donor = trial.config[_NUMBER]
            if donor == number:
                continue
            trial.set_config({**trial.config, _NUMBER: number})
            before, after = self._sampled(donor), self._sampled(number)
            changes = tuple(
                f"{name} {_short(before[name])} -> {_short(value)}"
                for name, value in after.items()
                if value != before[name]
            )
            exploit = Exploit(
                number=number, donor=donor, donor_evaluation=self._evaluations[donor], sampled=after, changes=changes
            )
            found.append(exploit)
        for exploit in found:
            self._evaluations[exploit.number] = 0  # it continues to count from the donor's checkpoint
        return found

    def _sampled(self, number: int) -> dict[str, Value]:
        return {name: value for name, value in self._trials[number].config.items() if name != _NUMBER}

    @contextlib.contextmanager
    def _seeded(self, number: int) -> Iterator[None]:
        """Seeds the global generators for one call into the scheduler."""
        state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(f"{self._seed}/{number}/{self._evaluations[number]}")
        np.random.seed(random.getrandbits(32))
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
