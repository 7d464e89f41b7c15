"""Whatever happens to a sweep, its state and its broker agree, and every trial ends."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.scheduling.events import Pause
from tests.tune_jobs.driver.driven_sweep import DrivenSweep, Setup
from tests.tune_jobs.driver.schedulers import LONGEST, SCHEDULERS, score_of
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.sweep_driver import SweepDriver
from tune_jobs.search.samplers import ListSampler

CARDS = "1xA:24GiB,1xB:40GiB"
NEEDS_GIB = {1: 11.0, 2: 20.0, 3: 30.0, 4: 99.0, 5: 5.0, 6: 11.0}  # the fourth is refused


class TunerLeft(BaseException):
    """Tune was given up by the test."""


class Player:
    """Lets things happen to a sweep, and restarts its driver.

    Args:
        folder: Of the sweep.
        scheduler: One of SCHEDULERS.
        seed: Of the scores.
    """

    def __init__(self, folder: Path, scheduler: str, seed: int) -> None:
        self._folder, self._score = folder, score_of(seed)
        self._setup = Setup(
            cards=CARDS,
            sampler=lambda: ListSampler([{"learning_rate": 1e-4 * number} for number in NEEDS_GIB]),
            scheduler=SCHEDULERS[scheduler],
            needs_gib=NEEDS_GIB,
            longest=LONGEST,
            retry=RetryPolicy(retries=1, anomalies=Anomalies(stall_after="5m")),
        )
        self.sweep = DrivenSweep(folder, self._setup)

    def play(self, action: str, choice: int) -> None:
        """Lets one thing happen; `choice` decides to whom."""
        sweep = self.sweep
        if action == "time":
            sweep.tick(float(choice))
            self._end_killed()
        elif action == "send":
            sweep.send()
        elif action == "cancel":
            sweep.cancel()
        elif action == "cards":
            sweep.change_cards((CARDS, "1xA:24GiB", "1xB:40GiB", "1xZ:24GiB")[choice % 4])
        elif action == "restart":
            self.sweep = DrivenSweep(self._folder, self._setup)
        elif action == "stop":
            self._stop()
        elif action == "start":
            if sweep.sent:
                sweep.start(sorted(sweep.sent)[choice % len(sweep.sent)])
        elif sweep.running:
            self._happen(action, sorted(sweep.running)[choice % len(sweep.running)])

    def _happen(self, action: str, number: int) -> None:
        sweep = self.sweep
        if action == "evaluate":
            if sweep.running[number].evaluations >= LONGEST:
                sweep.end(number)
            else:
                sweep.run_evaluation(number, self._score(number, sweep.running[number].evaluations + 1))
        elif action == "pause":
            sweep.broker.pauses.append(Pause(name=f"sample/{number}", reason="jun asked"))
            sweep.tick()
        elif action == "lose":
            sweep.lose(number)
        elif action == "lose twice":
            sweep.lose(number)
            sweep.driver.ended(number, "ActorDiedError: the process died")
        elif action == "out of memory":
            sweep.fail(number, "out_of_memory")
        elif action == "error":
            sweep.fail(number, "error", f"broken {number}")  # alike, they would stop the sweep
        elif action == "tuner":
            self._kill_tuner(sweep.running[number].pid)

    def _kill_tuner(self, pid: int) -> None:
        sweep, calls = self.sweep, []

        def run(driver: SweepDriver) -> None:
            calls.append(driver)
            if len(calls) > 1:
                raise TunerLeft
            sweep.send()
            sweep.sent.clear()
            sweep.running.clear()
            raise RuntimeError(f"a task (pid={pid}) was killed")

        sweep.change_cards(CARDS)  # else the driver waits for nodes
        if not sweep.driver.has_launch():
            return
        with pytest.raises(TunerLeft):
            sweep.driver.run(run)

    def _end_killed(self) -> None:
        for number in [number for number, one in self.sweep.running.items() if self._was_killed(one.pid)]:
            self.sweep.lose(number)

    def _was_killed(self, pid: int) -> bool:
        return any(location["pid"] == pid for location in self.sweep.killed)

    def _stop(self) -> None:
        sweep = self.sweep
        sweep.stop.request()
        sweep.tick()
        sweep.cancel()
        for number in list(sweep.running):
            assert sweep.report_other(number, interrupted=True)
            sweep.save(number)
            sweep.end(number)
        assert (sweep.holding, sweep.waiting, sweep.state.is_idle) == (set(), [], True)
        self.sweep = DrivenSweep(self._folder, self._setup)

    def check(self) -> None:
        """Compares state and broker."""
        sweep = self.sweep
        assert set(sweep.running) | set(sweep.sent) <= sweep.holding
        ended = {number for number, trial in sweep.trials.items() if trial.status is not None}
        assert not ended & (sweep.holding | set(sweep.waiting)), "an ended trial holds or asks for a share"
        assert {number for number, trial in sweep.trials.items() if trial.running} == set(sweep.running)

    def finish(self) -> DrivenSweep:
        """Lets all trials end on the cards of the beginning."""
        self.sweep.change_cards(CARDS)
        return self.sweep.finish(self._score)


ACTIONS = (
    *("time", "send", "send", "start", "start", "start", "evaluate", "evaluate", "evaluate", "evaluate"),
    *("pause", "lose", "lose twice", "out of memory", "error", "tuner", "cancel", "cards", "restart", "stop"),
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
@given(
    scheduler=st.sampled_from(sorted(SCHEDULERS)),
    seed=st.integers(0, 100),
    history=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 90)), min_size=5, max_size=40),
)
def test_no_ended_trial_holds_a_share_and_every_request_is_given_back(
    quick_disk: None, scheduler: str, seed: int, history: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        player = Player(Path(folder), scheduler, seed)
        for action, choice in history:
            player.play(action, choice)
            player.check()
        sweep = player.finish()
        player.check()
        assert (sweep.holding, sweep.waiting) == (set(), [])
        assert set(sweep.statuses) == set(NEEDS_GIB)
        assert sweep.statuses[4] == "refused"
        assert {number: trial.status for number, trial in sweep.trials.items()} == {
            number: "failed" if status == "oom" else status for number, status in sweep.statuses.items()
        }
