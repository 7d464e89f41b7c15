"""What a scheduler of Ray Tune sees in place of Tune's controller: stand-in trials without processes."""

from collections import Counter
from collections.abc import Mapping

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler


class SchedulerController:
    """The part of Ray's TuneController that schedulers call, under Tune's names.

    Attributes:
        search_alg: None, because configurations do not come from a searcher of Tune.
        stopped: Trials that ended in the present event.
    """

    search_alg: None = None

    def __init__(self, scheduler: TrialScheduler) -> None:
        self._scheduler = scheduler
        self._trials: dict[str, Trial] = {}
        self._results: dict[str, dict[str, object]] = {}
        self._count: Counter[str] = Counter()
        self.stopped: list[Trial] = []

    def add(self, trial: Trial) -> None:
        """Adds a stand-in; one of the same id that failed is replaced."""
        earlier = self._trials.pop(trial.trial_id, None)
        if earlier is not None:
            self._count[earlier.status] -= 1
        self._trials[trial.trial_id] = trial
        self._count[trial.status] += 1
        self._scheduler.on_trial_add(self, trial)

    def get_trials(self) -> list[Trial]:
        """Returns all trials, those that ended included."""
        return list(self._trials.values())

    def get_live_trials(self) -> list[Trial]:
        """Returns the trials that have not ended."""
        return [trial for trial in self._trials.values() if not trial.is_finished()]

    @property
    def all_paused(self) -> bool:
        """Whether there are paused trials, and no others that have not ended."""
        return self._count[Trial.PAUSED] > 0 and not self._count[Trial.RUNNING] + self._count[Trial.PENDING]

    def report(self, trial: Trial, result: Mapping[str, object]) -> None:
        """Passes a result to the scheduler and does to the trial what Tune would do."""
        self._results[trial.trial_id] = dict(result)
        decision = self._scheduler.on_trial_result(self, trial, dict(result))
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif decision == TrialScheduler.PAUSE:
            self.pause_trial(trial)

    def complete_trial(self, trial: Trial, result: Mapping[str, object]) -> None:
        """Ends a trial with its last result, which the scheduler may compare others with."""
        self._results[trial.trial_id] = dict(result)
        self.stop_trial(trial)

    def repeat_report(self, trial: Trial) -> None:
        """Passes a paused trial's last result again."""
        self.set_status(trial, Trial.RUNNING)
        self.report(trial, self._results[trial.trial_id])

    def choose_trials_to_run(self) -> list[Trial]:
        """Starts what the scheduler chooses until it chooses none, and returns that."""
        chosen = []
        while self._count[Trial.PENDING] + self._count[Trial.PAUSED]:
            trial = self._scheduler.choose_trial_to_run(self)
            if trial is None:
                break
            self.set_status(trial, Trial.RUNNING)
            chosen.append(trial)
        return chosen

    def stop_trial(self, trial: Trial) -> None:
        """Ends a trial; called by schedulers too."""
        if trial.is_finished():
            return
        result = self._results.get(trial.trial_id)
        if trial.status == Trial.RUNNING and result is not None:
            self._scheduler.on_trial_complete(self, trial, result)
        else:
            self._scheduler.on_trial_remove(self, trial)
        self.set_status(trial, Trial.TERMINATED)
        self.stopped.append(trial)

    def fail_trial(self, trial: Trial) -> None:
        """Ends a trial that failed and will not be tried again."""
        if trial.is_finished():
            return
        if trial.status == Trial.RUNNING:
            self._scheduler.on_trial_error(self, trial)
        else:
            self._scheduler.on_trial_remove(self, trial)
        self.set_status(trial, Trial.ERROR)

    def pause_trial(self, trial: Trial, should_checkpoint: bool = True) -> None:
        """Pauses a trial; called by schedulers too. Its checkpoint is the driver's matter."""
        self.set_status(trial, Trial.PAUSED)

    def set_status(self, trial: Trial, status: str) -> None:
        """Changes a trial's status."""
        self._count[trial.status] -= 1
        trial.set_status(status)
        self._count[status] += 1

    def _schedule_trial_save(self, trial: Trial, result: Mapping[str, object] | None = None) -> object:
        """Returns the trial's checkpoint.

        The one private name of Tune's controller that is needed: PopulationBasedTraining calls it for a running donor.
        A checkpoint comes with every report, so there is nothing to save.
        """
        return trial.checkpoint
