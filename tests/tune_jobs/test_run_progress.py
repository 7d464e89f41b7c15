"""The state of a sweep and how it is shown."""

import io
import math

from common.goal import better
from tune_jobs.driver.view import LogView, TerminalView, screen, summary_line, view_for
from tune_jobs.records.progress import SweepProgress


def small_sweep() -> SweepProgress:
    progress = SweepProgress(
        sweep="sample", metric="eval/loss", goal="minimize", total=4, longest=4, slots=2, started_s=100.0
    )
    progress.started(1, "one", now_s=100.0, share=0.5)
    progress.started(2, "two", now_s=100.0, share=0.5)
    progress.reported(1, iteration=1, value=3.0, rung=1, now_s=110.0)
    progress.reported(2, iteration=1, value=5.0, rung=1, now_s=110.0)
    progress.ended(2, status="stopped", reason="5 against 3 at rung 1", now_s=110.0)
    return progress


def test_trials_are_counted_and_the_lowest_loss_is_the_best() -> None:
    progress = small_sweep()
    assert progress.count("running") == 1
    assert progress.count("waiting") == 2
    best = progress.best()
    assert best is not None
    assert (best.number, best.best) == (1, 3.0)


def test_time_left_is_the_evaluations_to_come_shared_among_the_slots() -> None:
    # 20 s for 2 evaluations; 3 of trial 1 and 2 x 4 of the waiting trials are to come, two trials side by side
    assert small_sweep().left_s(110.0) == (3 + 8) * 10.0 / 2


def test_before_the_first_report_no_time_is_promised() -> None:
    progress = SweepProgress(sweep="s", metric="m", goal="maximize", total=1, longest=1, slots=1, started_s=0.0)
    progress.started(1, "one", now_s=0.0)
    assert progress.left_s(5.0) is None
    assert summary_line(progress, 5.0) == "0 of 1 trials ended, 1 running | 5.0 s"


def test_a_second_attempt_adds_to_the_same_trial_and_its_run_time() -> None:
    progress = small_sweep()
    progress.ended(1, status="waiting", reason="out of memory", now_s=112.0)
    progress.started(1, "one", now_s=130.0, share=1.0)
    progress.reported(1, iteration=2, value=2.0, rung=2, now_s=133.0)
    trial = progress.trials[1]
    assert (trial.attempts, trial.share, trial.run_s, trial.best, trial.rung) == (2, 1.0, 15.0, 2.0, 2)


def test_no_number_is_never_the_best() -> None:
    assert not better(math.nan, 1.0, "minimize")
    assert better(1.0, math.nan, "minimize")


def test_the_screen_says_simulated_and_why_a_trial_was_stopped() -> None:
    progress = small_sweep()
    progress.simulated = True
    text = screen(progress, 110.0)
    assert "[simulated cards]" in text
    assert "5 against 3 at rung 1" in text
    assert text.endswith("\nbest 3.000 (trial 1) | 10 s, at most 55 s left")


def test_a_terminal_is_redrawn_in_place_and_events_scroll_above() -> None:
    stream, now = io.StringIO(), [0.0]
    view = TerminalView(stream, clock=lambda: now[0])
    progress = small_sweep()
    view.refresh(progress)
    drawn = len(screen(progress, 0.0).split("\n"))
    view.refresh(progress)  # too early: nothing
    first = stream.getvalue()
    view.event("trial 2 stopped")
    assert stream.getvalue()[len(first) :] == f"\x1b[{drawn}F\x1b[Jtrial 2 stopped\n"
    now[0] = 1.0
    view.close(progress)
    assert stream.getvalue().endswith("left\n")


def test_a_log_gets_events_at_once_and_a_summary_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    view = LogView(stream, every_s=30, clock=lambda: now[0])
    progress = small_sweep()
    view.event("started")
    view.refresh(progress)
    assert stream.getvalue() == "started\n"
    now[0] = 130.0
    view.refresh(progress)
    view.refresh(progress)
    assert stream.getvalue().count("trials ended") == 1
    assert isinstance(view_for(stream), LogView)


def test_when_all_is_over_no_time_is_left_to_speak_of() -> None:
    progress = small_sweep()
    progress.total = 2
    progress.ended(1, status="finished", reason="", now_s=120.0)
    assert summary_line(progress, 120.0) == "2 of 2 trials ended, 1 stopped early | best 3.000 (trial 1) | 20 s"
