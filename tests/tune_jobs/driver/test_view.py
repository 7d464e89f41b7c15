"""How far a sweep is, derived from its journal, and how it is shown."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tune_jobs.driver.view import LogView, TerminalView, screen, summary_line, view_for
from tune_jobs.records.journal import Journal
from tune_jobs.records.progress import SweepFrame, SweepProgress, progress_of
from tuning_common.goal import better

FRAME = SweepFrame(
    sweep="sample", metric="eval/loss", goal="minimize", total=4, longest=4, slots=2, rungs=(1,), started_s=100.0
)


def at(seconds: float) -> dict[str, float]:
    return {"at": 5000.0 + seconds, "elapsed_s": seconds}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Two of four trials have started; the second was stopped at the first rung."""
    journal = Journal(tmp_path / "journal.jsonl")
    for number, name, value in ((1, "one", 3.0), (2, "two", 5.0)):
        journal.write("submitted", number, spec={"name": name})
        journal.write("started", number, bundle={"gpus": 0.5}, **at(100.0))
        journal.write("reported", number, evaluation=1, value=value, metrics={}, **at(110.0))
    journal.write("ended", 2, status="stopped", reason="asha stopped it at evaluation 1", **at(110.0))
    return journal


def progress(journal: Journal, now_s: float = 110.0, frame: SweepFrame = FRAME) -> SweepProgress:
    return progress_of(frame, journal.trials, now_s)


def test_trials_are_counted_and_the_lowest_loss_is_the_best(journal: Journal) -> None:
    found = progress(journal)
    assert (found.count("running"), found.count("waiting"), found.count("stopped")) == (1, 2, 1)
    best = found.best()
    assert best is not None
    assert (best.number, best.best, best.rung) == (1, 3.0, 0)


def test_texts_that_are_cut_are_shown_with_the_trials(journal: Journal) -> None:
    cut = "train.csv: 117 of 120 dialogues cut at 256 tokens (kobart)"
    assert screen(progress(journal, frame=replace(FRAME, cut_texts=(cut,)))).split("\n")[1] == cut


def test_time_left_is_the_evaluations_to_come_shared_among_the_slots(journal: Journal) -> None:
    # 20 s for 2 evaluations; 3 of trial 1 and 2 x 4 of the waiting trials are to come, two trials side by side
    assert progress(journal).left_s() == (3 + 8) * 10.0 / 2


def test_before_the_first_report_no_time_is_promised(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "one"})
    journal.write("started", 1, bundle={}, **at(0.0))
    frame = SweepFrame(sweep="s", metric="m", goal="maximize", total=1, longest=1, slots=1)
    found = progress(journal, 5.0, frame)
    assert found.left_s() is None
    assert summary_line(found) == "0 of 1 trials ended, 1 running | 5.0 s"


def test_a_second_attempt_adds_to_the_same_trial_and_its_run_time(journal: Journal) -> None:
    journal.write("retried", 1, kind="out_of_memory", message="no bytes", **at(112.0))
    assert progress(journal, 120.0).trials[1].status == "waiting"
    journal.write("started", 1, bundle={"gpus": 1.0}, **at(130.0))
    journal.write("reported", 1, evaluation=2, value=2.0, metrics={}, **at(133.0))
    trial = progress(journal, 135.0).trials[1]
    assert (trial.attempts, trial.retries, trial.share, trial.run_s, trial.best) == (2, 1, 1.0, 17.0, 2.0)


def test_a_trial_that_runs_when_its_driver_ends_is_interrupted(journal: Journal) -> None:
    found = progress_of(FRAME, journal.trials, 110.0, driver_ended=True)
    assert {number: trial.status for number, trial in found.trials.items()} == {1: "interrupted", 2: "stopped"}


def test_why_a_trial_waits_now_goes_before_what_the_journal_holds(journal: Journal) -> None:
    journal.write("paused", 1, reason="jun asked", **at(112.0))
    assert progress(journal).trials[1].reason == "jun asked"
    found = progress_of(FRAME, journal.trials, 120.0, waiting={1: "for 30 s"})
    assert (found.trials[1].status, found.trials[1].reason) == ("paused", "for 30 s")


def test_no_number_is_never_the_best() -> None:
    assert not better(math.nan, 1.0, "minimize")
    assert better(1.0, math.nan, "minimize")


def test_the_screen_shows_that_cards_are_simulated_and_which_trials_were_stopped(journal: Journal) -> None:
    text = screen(progress(journal, frame=replace(FRAME, simulated=True)))
    assert "[simulated cards]" in text
    assert "stopped early" in text
    assert "asha" not in text  # the columns of status and rung say it
    assert text.endswith("\nbest 3.000 (trial 1) | 10 s, at most 55 s left")


def test_a_terminal_is_redrawn_in_place_and_events_scroll_above(journal: Journal) -> None:
    stream = io.StringIO()
    view = TerminalView(stream)
    view.refresh(progress(journal))
    drawn = len(screen(progress(journal)).split("\n"))
    first = stream.getvalue()
    view.event("trial 2 stopped")
    again = stream.getvalue()[len(first) :]
    assert again.count("\x1b[1A") == drawn - 1  # up to the first line of the screen, which is erased
    assert again.index("trial 2 stopped") < again.index("sweep sample")
    view.close(progress(journal))
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    assert shown.rstrip().endswith("best 3.000 (trial 1) | 10 s, at most 55 s left")
    assert max(map(len, re.split(r"[\r\n]", shown))) <= 80


def test_the_next_phase_is_drawn_below_and_the_cursor_stays_visible(journal: Journal) -> None:
    stream = io.StringIO()
    view = TerminalView(stream)
    view.close(progress(journal))
    first = stream.getvalue()
    view.refresh(progress(journal))
    assert "\x1b[1A" not in stream.getvalue()[len(first) :]
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_the_best_trials_are_shown_with_their_settings_in_80_columns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for number in range(1, 31):
        sampled = {"learning_rate": number * 1e-5, "batch_size": 8, "label_smoothing": 0.1, "model": "kobart"}
        journal.write("submitted", number, spec={"name": f"long_name_of_a_sweep_{number}", "sampled": sampled})
        journal.write("started", number, bundle={"gpus": 0.5}, **at(100.0))
        journal.write("reported", number, evaluation=1, value=abs(number - 3.0), metrics={}, **at(110.0))
    text = screen(progress(journal, frame=replace(FRAME, total=30)), columns=80)
    rows = [line for line in text.split("\n") if "lr " in line]
    assert len(rows) == 12
    assert "lr 2e-5, bs 8" in rows[0]  # the best three are 2, 3 and 4; the others are the last ones
    assert "long_name" not in text
    assert max(map(len, text.split("\n"))) <= 80


def test_a_log_gets_events_and_summaries_as_plain_lines(journal: Journal) -> None:
    stream = io.StringIO()
    view = LogView(stream)
    view.event("started")
    view.refresh(progress(journal))
    assert stream.getvalue() == (
        "started\n1 of 4 trials ended, 1 stopped early, 1 running, 2 waiting | best 3.000 (trial 1) | 10 s, at most"
        " 55 s left\n"
    )
    assert isinstance(view_for(stream), LogView)


def test_when_all_trials_have_ended_no_time_is_left(journal: Journal) -> None:
    journal.write("ended", 1, status="finished", reason="", **at(120.0))
    text = summary_line(progress(journal, 120.0, replace(FRAME, total=2)))
    assert text == "2 of 2 trials ended, 1 stopped early | best 3.000 (trial 1) | 20 s"
