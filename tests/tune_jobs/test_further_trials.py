"""What further trials of a random search would buy, where it is shown, and where it is not."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tune_jobs.synthetic import METRIC, sweep_record
from tune_jobs.analysis.further_trials import LEAST_SCORES, further_gain
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.driver.view import screen, summary_line
from tune_jobs.records.ledger import Ledger, TrialRecord
from tune_jobs.records.progress import SweepFrame, SweepProgress, TrialProgress
from tune_jobs.report.summary import tiles

SCORES = [20.0 - number**0.5 for number in range(LEAST_SCORES)]
SENTENCE = "10 more random trials would probably improve the best score by"


@pytest.mark.parametrize("further", [1, 2])
def test_the_mean_is_that_over_all_subsets_of_the_step_before(further: int) -> None:
    earlier = round(LEAST_SCORES**2 / (LEAST_SCORES + further))
    gains = [max(SCORES) - max(subset) for subset in itertools.combinations(SCORES, earlier)]
    gain = further_gain(SCORES, further)
    assert gain is not None
    assert gain.mean == pytest.approx(sum(gains) / len(gains))


@given(st.lists(st.floats(0, 100), min_size=LEAST_SCORES, max_size=60), st.integers(1, 100))
def test_a_gain_is_never_negative_and_a_loss_mirrors_a_score(scores: list[float], further: int) -> None:
    gain = further_gain(scores, further)
    assert gain is not None
    assert 0 <= gain.mean <= max(scores) - min(scores)
    assert 0 <= gain.high <= max(scores) - min(scores)
    assert further_gain([-score for score in scores], further, "minimize") == gain


def test_the_band_ends_at_the_rank_that_the_chance_asks_for() -> None:
    gains = [further_gain(SCORES, further) for further in (1, 2, 10, 100)]  # ranks 1, 2, 10 and the last
    assert [gain.high for gain in gains if gain] == [
        0.0,
        SCORES[0] - SCORES[1],
        SCORES[0] - SCORES[9],
        SCORES[0] - SCORES[-1],
    ]


def test_few_scores_promise_nothing() -> None:
    assert further_gain(SCORES[1:], 10) is None


def analysed(method: str) -> Analysis:
    trials = tuple(
        TrialRecord(
            trial_id=str(number), name=f"t{number}", sweep="s", status="finished", sampled={"dropout": number / 100},
            history=[{METRIC: score}],
        )
        for number, score in enumerate(SCORES)
    )  # fmt: skip
    return analyse(Ledger(sweep=sweep_record(method=method, trials=len(trials)), trials=trials))


def test_the_report_of_a_random_search_says_it_and_no_other() -> None:
    assert SENTENCE in tiles(analysed("random"))[-1].detail
    assert "random trials" not in tiles(analysed("bayes"))[-1].detail


def test_the_live_view_of_a_random_search_says_it_and_no_other() -> None:
    frame = SweepFrame(sweep="s", metric=METRIC, goal="maximize", total=30, longest=1, slots=1, is_random=True)
    trials = {
        number: TrialProgress(number=number, name="t", status="finished", iteration=1, last=score, best=score)
        for number, score in enumerate(SCORES, start=1)
    }
    progress = SweepProgress(frame=frame, trials=trials)
    assert screen(progress).splitlines()[-1].startswith(SENTENCE)
    assert SENTENCE in summary_line(progress)
    assert "random trials" not in screen(replace(progress, frame=replace(frame, is_random=False)))
