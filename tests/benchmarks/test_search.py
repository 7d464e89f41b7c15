"""The replay of searches on a table, with tables by hand; see benchmarks/search.md."""

import itertools

import pytest

from benchmarks.search import METHODS, repeat
from benchmarks.search_page import coverage
from benchmarks.search_replay import Evaluation, Row, distance
from benchmarks.search_table import CONFIGURATIONS, EVALUATIONS, MODELS, REPEATED, SEEDS, planned


def rows(best: int, count: int = 30) -> list[Row]:
    """The first configurations; one of them reaches 20 at its end, the others 10, and each evaluation takes 2 s."""
    first = [one for one in itertools.islice(planned(), 3 * count) if one.model == "bart"]
    return [
        Row(
            name=one.name, model="bart", configuration=one.configuration, seed=0, sampled=one.sampled,
            evaluations=tuple(
                Evaluation(score=(20 if one.configuration == best else 10) - 1 / step, half=1, loss=1, cpu_s=2 * step)
                for step in range(1, EVALUATIONS + 1)
            ),
        )
        for one in first
    ]  # fmt: skip


def test_every_part_of_the_table_holds_the_models_alike() -> None:
    trials = list(planned())
    assert len({one.name for one in trials}) == len(MODELS) * (CONFIGURATIONS + CONFIGURATIONS // REPEATED * 2)
    assert {one.seed for one in trials} == set(SEEDS)
    for count in (30, 200, len(trials)):
        numbers = [sum(one.model == model for one in trials[:count]) for model in MODELS]
        assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("GP")])
def test_a_search_ends_at_the_target_and_has_paid_for_all_that_ran(method: str) -> None:
    replayed = repeat(rows(best=17), method, seed=3)
    assert replayed.curve[-1][1] >= 20.0 - 1 / EVALUATIONS - 0.5
    assert [score for _, score in replayed.curve] == sorted(score for _, score in replayed.curve)
    assert replayed.spent_s == pytest.approx(replayed.curve[-1][0])
    assert replayed.trials * 2 <= replayed.spent_s + 4 * 2
    assert replayed == repeat(rows(best=17), method, seed=3)


def test_the_distance_of_opposite_corners_is_one() -> None:
    low = {"learning_rate": 1e-4, "batch_size": 8, "warmup_ratio": 0.0, "weight_decay": 1e-4, "dropout": 0.0}
    high = {"learning_rate": 3e-2, "batch_size": 64, "warmup_ratio": 0.3, "weight_decay": 0.3, "dropout": 0.3}
    low |= {"label_smoothing": 0.0, "lr_scheduler": "linear", "encoder_max_len": 32}
    high |= {"label_smoothing": 0.2, "lr_scheduler": "cosine", "encoder_max_len": 64}
    assert distance(low, high) == pytest.approx(1.0)
    assert distance(low, low) == 0.0


def test_the_band_covers_what_further_trials_bring() -> None:
    scores = [20.0 - number / 10 for number in range(100)]
    inside, predicted, real = coverage(scores, 30, 15)
    assert inside >= 0.9
    assert 0 < real <= predicted * 1.1
