"""Who waits for what, and for how long: in the shown lines, the view and the journal."""

from pathlib import Path

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, ObservedList, Setup
from tune_jobs.driver.sweep_driver import SHOWN_WAITING, WAIT_NOTICE_S
from tune_jobs.driver.trial_queue import NO_NODE_LIMIT_S, RESUBMIT_S
from tuning_common.files import read_jsonl

LARGE = Setup(cards="1xA:24GiB", sampler=lambda: ObservedList(2), needs_gib={1: 20.0, 2: 20.0})


def lines_of(sweep: DrivenSweep, number: int) -> list[str]:
    return [line for line in sweep.shown if line.startswith(f"trial {number} waits")]


def test_a_long_wait_of_a_trial_that_ran_is_shown_once_and_again_when_it_has_doubled(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, LARGE)
    sweep.start(1)
    sweep.lose(1)  # trial 2 has been granted its card
    sweep.start(2)
    for _ in range(7):
        sweep.tick()
        sweep.now_s += WAIT_NOTICE_S / 2
    shown = lines_of(sweep, 1)
    assert len(shown) == 2
    assert [line.partition(": ")[2].split(": ")[0] for line in shown] == ["for 30 s", "for 1 min 00 s"]
    assert "sample/2" in shown[0] or "trial 2" in shown[0] or "0.875" in shown[0], shown[0]
    events, _ = read_jsonl(tmp_path / "journal.jsonl")
    reasons = [event["reason"] for event in events if event["event"] == "waits"]
    assert reasons == [line.removeprefix("trial 1 waits: ") for line in shown]
    assert sweep.progress().trials[1].reason == reasons[-1]
    sweep.end(2)
    sweep.start(1)
    sweep.tick(10 * WAIT_NOTICE_S)
    assert len(lines_of(sweep, 1)) == 2
    assert sweep.progress().trials[1].reason == ""


def test_that_new_trials_wait_behind_those_that_run_is_no_news(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, LARGE)
    sweep.start(1)
    sweep.tick()
    sweep.tick(10 * WAIT_NOTICE_S)
    assert lines_of(sweep, 2) == []


def test_where_nothing_of_the_sweep_runs_the_first_few_are_shown(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(9)))
    sweep.change_cards("1xZ:24GiB")
    for number in sweep.start_all():
        sweep.lose(number)
    sweep.tick()
    sweep.tick(WAIT_NOTICE_S)
    assert sum(bool(lines_of(sweep, number)) for number in range(1, 10)) == SHOWN_WAITING


def test_trials_that_no_node_can_hold_wait_for_nodes_to_come_back(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, LARGE)
    sweep.start(1)
    sweep.change_cards("1xZ:24GiB")
    sweep.tick(61.0)
    assert sweep.waiting == []
    assert "trial 2 waits: " in sweep.text
    sweep.tick(RESUBMIT_S + 1.0)
    assert sweep.waiting == [2], "it asks again"
    sweep.change_cards("2xA:24GiB")
    sweep.tick()
    assert sweep.start().number == 2
    assert sweep.statuses == {}


def test_with_nothing_running_trials_that_no_node_can_hold_are_given_up_after_a_while(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, LARGE)
    sweep.start(1)
    sweep.change_cards("1xZ:24GiB")
    sweep.end(1)
    for _ in range(int((NO_NODE_LIMIT_S + 200.0) / 10.0)):
        sweep.tick(10.0)
    assert sweep.statuses == {1: "finished", 2: "failed"}
    error = sweep.records[2].error
    assert error is not None
    assert "Z" in error.message
    assert sweep.state.is_over
    assert sweep.waiting == []
