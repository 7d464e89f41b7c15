"""Trials pause for others, are asked to stop, run out of time, and continue from there."""

from pathlib import Path

import pytest

from cluster.scheduling.events import Pause
from tests.tune_jobs.driver.driven_sweep import DrivenSweep, ObservedList, Setup
from tests.tune_jobs.driver.schedulers import LONGEST, SCHEDULERS, score_of
from tune_jobs.driver.trial_queue import LAUNCH_LIMIT_S
from tune_jobs.records.trial_spec import STOP_FILE
from tune_jobs.search.samplers import ListSampler
from tuning_common.files import read_jsonl

ONE_CARD = Setup(cards="1xA:24GiB", sampler=lambda: ObservedList(2), needs_gib={1: 20.0, 2: 20.0})


def ask_back(sweep: DrivenSweep, number: int) -> None:
    """The broker wants a share back."""
    sweep.broker.pauses.append(Pause(name=f"sample/{number}", reason="jun asked"))
    sweep.tick()


def test_a_trial_pauses_at_its_report_and_continues_from_there_behind_those_that_wait(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, ONE_CARD)
    assert (sweep.start().number, sweep.waiting) == (1, [2])
    ask_back(sweep, 1)
    assert sweep.report(1, 20.0)
    sweep.save(1, "bs1_a/checkpoint_000000")
    assert sweep.holding == {1}, "it holds its share until its process has ended"
    sweep.end(1)
    assert (sweep.holding, sweep.waiting) == ({2}, [1])
    assert sweep.statuses == {}
    paused = sweep.progress().trials[1]
    assert (paused.status, paused.reason) == ("paused", "jun asked")
    assert not sweep.state.is_over

    assert sweep.start().number == 2
    sweep.now_s += 1000.0
    assert not sweep.report(2, 30.0)
    sweep.end(2)
    again = sweep.start()
    assert (again.number, str(again.resume_from)[-23:]) == (1, "bs1_a/checkpoint_000000")
    assert not sweep.report(1, 21.0)
    assert not sweep.state.is_over
    sweep.end(1)
    assert sweep.state.is_over
    record = sweep.records[1]
    assert (record.status, round(record.gpu_seconds, 3), record.retries) == ("finished", 17.5, 0)
    assert [(row["iteration"], row["wall_s"]) for row in record.history] == [(1.0, 10.0), (2.0, 20.0)]
    assert "trial 1 pauses after evaluation 1: jun asked" in sweep.shown
    assert any(line.startswith("trial 1 continues after a pause") for line in sweep.shown)


def test_a_trial_that_is_about_to_end_is_not_paused(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, ONE_CARD)
    sweep.start(1)
    assert [sweep.report(1, 20.0) for _ in range(2)] == [False, False]
    ask_back(sweep, 1)
    assert not sweep.report(1, 20.0)
    sweep.end(1)
    assert sweep.statuses == {1: "finished"}


def test_a_pause_that_a_lost_attempt_was_asked_for_is_not_asked_of_the_next(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    ask_back(sweep, 1)
    sweep.lose(1)
    sweep.start(1)
    assert not sweep.report(1, 5.0)


def test_a_driver_killed_in_a_pause_is_followed_by_one_that_continues(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, ONE_CARD)
    sweep.start(1)
    ask_back(sweep, 1)
    sweep.report(1, 20.0)
    sweep.save(1)
    sweep.end(1)
    second = DrivenSweep(tmp_path, ONE_CARD)
    assert str(second.start(1).resume_from).endswith("checkpoint_1")
    second.report(1, 22.0)
    second.end(1)
    record = second.records[1]
    assert (record.status, record.retries, record.gpu_seconds) == ("finished", 0, 17.5)


def test_asked_to_stop_trials_save_where_they_are_and_none_starts(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB"))
    assert sweep.start_all() == [1, 2]
    assert not (tmp_path / "stop").exists()
    sweep.stop.request()
    sweep.tick()
    assert (tmp_path / "stop").exists()
    assert (sweep.waiting, sweep.state.stopping, sweep.state.is_idle) == ([], True, False)
    assert sweep.shown.count("asked to stop: trials save a checkpoint at their next step and end") == 1
    assert sweep.report_other(1, interrupted=True)
    checkpoint = sweep.save(1)
    sweep.end(1)
    assert sweep.report(2, 5.0), "its evaluation has a checkpoint of its own"
    sweep.end(2)
    assert (sweep.send(), sweep.holding, sweep.waiting) == ([], set(), [])
    assert sweep.state.is_idle
    assert not sweep.state.is_over
    assert sweep.statuses == {}

    second = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB"))
    assert str(second.start(1).resume_from) == str(checkpoint)
    assert any(line.startswith("trial 1 continues after a pause") for line in second.shown)
    assert second.start(2).number == 2


def test_asked_to_stop_launches_that_ray_has_not_started_are_taken_back(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sent = sweep.driver.next_launch()
    assert sent is not None
    sweep.sent[sent.number] = sent
    sweep.stop.request()
    sweep.tick()
    assert sweep.holding == {1}, "Tune still has it"
    assert not sweep.driver.has_launch()
    assert sweep.cancel() == [1]
    assert (sweep.holding, sweep.waiting) == (set(), [])
    assert sweep.state.is_idle


def test_a_launch_that_starts_while_the_driver_stops_saves_and_ends(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(1)))
    sweep.send()
    sweep.stop.request()
    sweep.tick()
    sweep.start(1)
    assert sweep.report_other(1, interrupted=True)
    sweep.end(1)
    assert (sweep.holding, sweep.statuses, sweep.state.is_idle) == (set(), {}, True)


def test_asked_to_stop_a_trial_that_has_just_made_its_last_evaluation_ends_as_usual(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    sweep.stop.request()
    sweep.tick()
    assert not sweep.report(1, 5.0, evaluation=3)
    sweep.end(1)
    assert sweep.statuses == {1: "finished"}


def test_a_second_request_to_stop_ends_every_attempt_at_once(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    assert not sweep.driver.must_end()
    sweep.stop.force()
    assert sweep.driver.must_end()


def test_when_the_time_is_over_trials_end_at_their_next_report_and_none_starts(tmp_path: Path) -> None:
    setup = Setup(cards="1xA:24GiB", ends_at_s=1015.0)
    sweep = DrivenSweep(tmp_path, setup)
    assert sweep.start_all() == [1, 2]
    assert not sweep.report(1, 20.0)
    assert sweep.report(1, 20.0)
    sweep.end(1)
    assert (sweep.send(), sweep.waiting) == ([], [])
    assert sweep.report(2, 20.0)
    sweep.end(2)
    assert sweep.state.is_over
    assert sweep.statuses == {1: "stopped", 2: "stopped"}
    assert sweep.trials[1].reason == "the sweep's time is over"


def test_when_the_time_is_over_trials_that_paused_end_where_they_are(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB", ends_at_s=1100.0, needs_gib={1: 20.0}))
    sweep.start(1)
    ask_back(sweep, 1)
    assert sweep.report(1, 20.0)
    sweep.end(1)
    assert sweep.start_all() == [2, 3]
    sweep.tick(200.0)
    assert sweep.statuses == {1: "stopped"}
    assert sweep.waiting == []


def test_a_trial_that_ray_does_not_start_in_time_returns_to_the_queue(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB,1xB:24GiB", sampler=lambda: ObservedList(1)))
    sweep.send()
    first = sweep.sent[1].bundle.nodes
    sweep.tick(LAUNCH_LIMIT_S)
    assert sweep.cancel() == []
    sweep.tick(1.0)
    assert sweep.cancel() == [1]
    assert "trial 1 waits: Ray did not start it within 1 min 00 s" in sweep.shown
    sweep.tick()
    second = sweep.start(1).bundle.nodes
    assert second != first, "the broker keeps it off that node for a while"
    assert sweep.progress().trials[1].reason == ""
    assert sweep.trials[1].starts == 1
    events, _ = read_jsonl(tmp_path / "journal.jsonl")
    assert [event["event"] for event in events] == ["submitted", "allocated", "allocated", "started", "located"]


def test_a_launch_that_tune_has_not_taken_returns_to_the_queue_too(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="2xA:24GiB", sampler=lambda: ObservedList(1)))
    assert sweep.driver.has_launch()
    sweep.tick(LAUNCH_LIMIT_S + 1.0)
    assert not sweep.driver.has_launch()
    assert (sweep.waiting, sweep.holding) == ([1], set())
    sweep.tick()
    sweep.tick(LAUNCH_LIMIT_S)
    assert sweep.start(1).number == 1, "the only node again, after a while"


def test_a_stop_file_that_a_person_left_stops_the_sweep_once(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    assert sweep.start_all() == [1, 2, 3, 4]
    (tmp_path / STOP_FILE).touch()
    for number in (1, 2, 3, 4):
        sweep.save(number)
        assert sweep.report_other(number, interrupted=True), "its attempt ends"
        sweep.end(number)
    assert (sweep.state.stopping, sweep.state.leaves_stop_file) == (True, True)
    assert (sweep.send(), sweep.waiting, sweep.state.is_idle) == ([], [], True)
    assert sweep.text.count("asked to stop: trials save") == sweep.text.count("somebody left a file 'stop'") == 1
    assert [trial.starts for trial in sweep.trials.values()] == [1, 1, 1, 1]
    second = DrivenSweep(tmp_path)
    assert second.start_all() == [1, 2, 3, 4]
    assert not second.state.stopping


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scheduler", ["HyperBandScheduler", "hyperband", "asha", "synchronous pbt"])
def test_a_trial_that_is_stopped_while_its_process_still_pauses_ends(tmp_path: Path, scheduler: str, seed: int) -> None:
    """The last report of a round stops trials that were told to pause and have not ended yet."""
    setup = Setup(
        sampler=lambda: ListSampler([{"learning_rate": 1e-4 * number} for number in range(1, 10)]),
        scheduler=SCHEDULERS[scheduler],
        longest=LONGEST,
    )
    sweep, score = DrivenSweep(tmp_path, setup), score_of(seed)
    for _ in range(30):
        sweep.start_all()
        done = []
        for number, attempt in sorted(sweep.running.items()):
            if sweep.report(number, score(number, attempt.evaluations + 1)) or attempt.evaluations >= LONGEST:
                done.append(number)
            sweep.save(number)
        for number in done:
            sweep.end(number)
    assert sweep.state.is_over, sweep.statuses
    assert set(sweep.statuses.values()) <= {"finished", "stopped"}
