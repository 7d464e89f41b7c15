"""Winners, ties, costs and importances of ledgers whose truth is known."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tune_jobs.synthetic import METRIC, START, sweep_record, truth, wide_ledger
from tune_jobs.analysis.candidates import Scored, find_noise, group_seeds, score_of
from tune_jobs.analysis.importance import LEAST_TRIALS, find_importances
from tune_jobs.analysis.significance import PairedDifference, paired_bootstrap
from tune_jobs.analysis.sweep_analysis import analyse, describe_settings
from tune_jobs.config.parameters import find_parameters
from tune_jobs.records.ledger import Ledger, SweepRecord, TrialRecord
from tune_jobs.report.summary import tiles


def trial(trial_id: str, score: float | None, **changes: object) -> TrialRecord:
    history = [] if score is None else [{METRIC: score}]
    values: dict[str, object] = {"trial_id": trial_id, "name": f"e{trial_id}", "sweep": "s", "status": "finished"}
    return TrialRecord(**(values | {"history": history} | changes))  # type: ignore[arg-type]


def ledger(*trials: TrialRecord, **sweep: object) -> Ledger:
    return Ledger(sweep=sweep_record(**sweep), trials=trials)


def test_the_best_trial_wins_in_both_directions() -> None:
    high = analyse(ledger(trial("1", 20.0), trial("2", 30.0), trial("3", 25.0)))
    low = analyse(ledger(trial("1", 20.0), trial("2", 30.0), metric=METRIC, goal="minimize"))
    assert high.winner is not None
    assert low.winner is not None
    assert (high.winner.trial.trial_id, high.sureness) == ("2", "clear")
    assert (low.winner.trial.trial_id, low.winner.score) == ("1", 20.0)


def test_half_a_point_of_rouge_is_a_tie() -> None:
    found = analyse(ledger(trial("1", 30.0), trial("2", 29.6), trial("3", 29.4)))
    assert [one.best.trial.trial_id for one in found.tied] == ["1", "2"]
    assert (found.sureness, found.noise.band) == ("tied", 0.5)


def test_equal_scores_are_a_tie_and_the_first_stays_first() -> None:
    found = analyse(ledger(trial("b", 10.0), trial("a", 10.0)))
    assert [one.best.trial.trial_id for one in found.tied] == ["b", "a"]


def test_settings_of_one_trained_model_have_no_noise_of_trainings() -> None:
    found = analyse(ledger(trial("1", 30.0, trained="one"), trial("2", 29.9, trained="one")))
    assert (found.noise.band, found.sureness) == (None, "unknown")
    assert found.noise.source.startswith("one trained model wrote all summaries")


def test_where_some_were_confirmed_the_luckiest_single_run_does_not_win() -> None:
    single = trial("1", 35.0, phase="narrow", sampled={"learning_rate": 1e-4})
    means = [
        trial(str(10 * rate + seed), score, phase="confirm", sampled={"learning_rate": rate, "seed": seed})
        for rate, seed, score in ((2, 1, 31.0), (2, 2, 32.0), (3, 1, 30.0), (3, 2, 30.5))
    ]
    found = analyse(ledger(single, *means))
    assert [candidate.score for candidate in found.candidates] == [31.5, 30.25]
    assert len(found.scored) == 5, "charts show every trial"


def test_the_noise_of_a_loss_is_not_made_up() -> None:
    loss = {"history": [{"eval/loss": 2.0}]}
    found = analyse(
        ledger(
            trial("1", None, **loss),
            trial("2", None, history=[{"eval/loss": 2.1}]),
            metric="eval/loss",
            goal="minimize",
        )
    )
    assert (found.sureness, found.noise.band) == ("unknown", None)
    assert "was not measured" in found.noise.source


def test_few_dialogues_make_more_noise() -> None:
    trials = (trial("1", 30.0, resolved={"model": "kobart"}), trial("2", 29.2))
    many, few = analyse(ledger(*trials), dialogues=2000), analyse(ledger(*trials), dialogues=80)
    assert (many.noise.band, many.sureness) == (0.5, "clear")
    assert (few.noise.band, few.sureness) == (1.25, "tied")
    assert few.noise.source == "seeds alone make 0.50 on 500 dialogues, and these are 80"


def test_the_noise_of_models_from_scratch_is_not_made_up() -> None:
    found = analyse(ledger(trial("1", 30.0, resolved={"model": "tiny-bart"}), trial("2", 20.0)))
    assert (found.noise.band, found.sureness) == (None, "unknown")
    assert "trained from scratch" in found.noise.source


def test_a_lead_that_other_dialogues_would_turn_round_is_uncertain() -> None:
    trials = (trial("1", 30.0), trial("2", 28.0))
    sure = PairedDifference(mean=2.0, low=0.4, high=3.6, count=500)
    unsure = PairedDifference(mean=2.0, low=-0.4, high=4.4, count=500)
    clear = analyse(ledger(*trials), paired=sure)
    assert clear.sureness == "clear"
    (tile,) = [one for one in tiles(clear) if one.label == "How sure"]
    assert tile.value.startswith("clear, by")
    assert "may be chance" not in tile.detail
    assert analyse(ledger(*trials), paired=unsure).sureness == "uncertain"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=40))
def test_paired_intervals_hold_their_mean_and_turn_with_the_order(pairs: list[tuple[float, float]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    found, turned = paired_bootstrap(one, other), paired_bootstrap(other, one)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert turned.mean == pytest.approx(-found.mean, abs=1e-9)
    assert (turned.low, turned.high) == (pytest.approx(-found.high, abs=1e-6), pytest.approx(-found.low, abs=1e-6))


def test_a_small_difference_needs_many_examples() -> None:
    rng = random.Random(0)
    one = [rng.gauss(30.5, 10) for _ in range(4000)]
    other = [score - 0.5 + rng.gauss(0, 3) for score in one]
    assert paired_bootstrap(one, other).is_clear is True
    assert paired_bootstrap(one[:20], other[:20]).is_clear is False


def test_seeds_of_one_configuration_are_averaged_and_measure_the_noise() -> None:
    def seeded(name: str, rate: float, *scores: float) -> list[TrialRecord]:
        return [
            trial(f"{name}{i}", score, sampled={"learning_rate": rate, "seed": i}) for i, score in enumerate(scores)
        ]

    found = analyse(ledger(*seeded("a", 1e-4, 30.0, 28.0, 29.0), *seeded("b", 3e-5, 29.5, 29.4, 29.6)))
    assert [(one.score, len(one.trials)) for one in found.candidates] == [
        (pytest.approx(29.5), 3),
        (pytest.approx(29.0), 3),
    ]
    assert found.winner is not None
    assert found.winner.trial.trial_id == "b2"
    pooled = ((2 * 1.0 + 2 * 0.01) / 4) ** 0.5
    assert found.noise.band == pytest.approx(2.78 * 2**0.5 * pooled)
    assert "6 runs of this sweep differ only in their seed" in found.noise.source
    assert found.sureness == "tied"
    assert found.noise.between(*found.candidates) == pytest.approx(found.noise.band / 3**0.5)


def test_a_stopped_seed_does_not_pull_the_mean_down() -> None:
    settings = {"learning_rate": 1e-4}
    group = [
        Scored(trial=trial("1", 30.0, sampled=settings | {"seed": 1}), score=30.0),
        Scored(trial=trial("2", 12.0, sampled=settings | {"seed": 2}, status="stopped"), score=12.0),
    ]
    assert [one.score for one in group_seeds(group, "maximize")] == [30.0]
    assert find_noise(METRIC, group_seeds(group, "maximize")).band == 0.5


def test_best_values_under_their_trainer_names_are_found() -> None:
    record = trial("1", 20.0, best_metrics={"best/rouge_combined_f1": 22.0}, metrics={METRIC: float("nan")})
    assert score_of(record, METRIC, "maximize") == 22.0
    assert score_of(trial("2", None), METRIC, "maximize") is None


def test_sweeps_without_any_score_have_no_winner() -> None:
    for found in (
        analyse(Ledger()),
        analyse(ledger(trial("1", None, status="failed"), trial("2", None, status="oom"))),
    ):
        assert (found.winner, found.sureness, found.candidates) == (None, "nothing", ())
    assert analyse(ledger(trial("1", None, status="refused"))).count("refused") == 1


def test_a_ledger_without_its_first_line_is_read_with_the_metric_of_its_trials() -> None:
    found = analyse(Ledger(trials=(trial("1", None, history=[{"eval/loss": 3.0}]),)))
    assert (found.sweep.metric, found.sweep.goal, found.sureness) == ("eval/loss", "minimize", "single")


def test_quick_checks_do_not_win_beside_real_trials() -> None:
    quick = trial("q", 99.0, phase="quick_check")
    both = analyse(ledger(quick, trial("1", 20.0, phase="wide")))
    alone = analyse(ledger(quick))
    assert both.winner is not None
    assert alone.winner is not None
    assert (both.winner.trial.trial_id, alone.winner.trial.trial_id) == ("1", "q")
    assert [(one.name, one.trials, one.best) for one in both.phases] == [("quick_check", 1, 99.0), ("wide", 1, 20.0)]


def test_costs_are_added_up_by_outcome() -> None:
    four = [{METRIC: 1.0 + i} for i in range(4)]
    found = analyse(
        ledger(
            trial("1", None, history=four, wall_s=400.0, gpu_seconds=100.0, started_at=START, ended_at=START + 400),
            trial(
                "2", 1.0, status="stopped", wall_s=90.0, gpu_seconds=45.0, started_at=START + 10, ended_at=START + 100
            ),
            trial("3", None, status="failed", wall_s=5.0, started_at=START + 450, ended_at=START + 455),
            trial("4", None, status="refused"),
        )
    ).cost
    assert (found.span_s, found.evaluations) == (455.0, 5)
    assert found.trial_s == {"finished": 400.0, "stopped": 90.0, "failed": 5.0, "refused": 0.0}
    assert (found.gpu_s["finished"], found.gpu_s["stopped"], found.on_gpus) == (100.0, 45.0, True)
    assert found.saved_s == 270.0  # three more evaluations of 90 s


def test_scales_follow_the_sweep_file_and_else_the_values() -> None:
    specs: dict[str, dict[str, object]] = {
        "warmup_ratio": {"distribution": "uniform", "min": 0.0, "max": 0.2},
        "weight_decay": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    }
    sampled: list[dict[str, object]] = [
        {"weight_decay": 1e-3, "warmup_ratio": 0.1, "learning_rate": 1e-5, "model": "t5", "num_beams": 4, "seed": 1},
        {"weight_decay": 1e-2, "warmup_ratio": 0.05, "learning_rate": 1e-3, "model": "한글", "num_beams": 4, "seed": 2},
    ]
    found, fixed = find_parameters(sampled, specs)
    assert [(one.name, one.scale) for one in found] == [
        ("learning_rate", "log"),
        ("weight_decay", "log"),
        ("warmup_ratio", "linear"),
        ("model", "category"),
    ]
    assert fixed == {"num_beams": 4}
    assert (found[1].low, found[1].high, found[1].position(1e-4)) == (1e-4, 1e-1, 0.0)
    assert found[3].position("한글") == 1.0
    assert describe_settings(sampled[0], found) == "learning_rate 1e-5, weight_decay 1e-3, warmup_ratio 0.1, model t5"


def test_categories_of_numbers_rise_and_lists_and_none_are_values() -> None:
    found, _ = find_parameters(
        [{"batch_size": 32, "w": [0.3, 0.7]}, {"batch_size": 8, "w": None}, {"batch_size": 16, "w": [0.3, 0.7]}], {}
    )
    assert [(one.values, one.scale) for one in found] == [((8, 16, 32), "category"), (((0.3, 0.7), None), "category")]
    assert found[1].position([0.3, 0.7]) == 0.0


def test_importances_find_the_parameter_that_matters_and_repeat() -> None:
    found = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(80))))
    first = find_importances(found.scored, found.parameters, maximize=True)
    again = find_importances(found.scored, found.parameters, maximize=True)
    assert first == again
    top = first.parameters[0]
    assert (top.name, top.stands_out) == ("learning_rate", True)
    assert 0.5 < top.low <= top.part <= top.high <= 1.0
    assert sum(one.part for one in first.parameters) == pytest.approx(1.0)
    assert {one.name: one.stands_out for one in first.parameters}["label_smoothing"] is False


@pytest.mark.parametrize(
    ("count", "names", "reason"),
    [
        (LEAST_TRIALS - 1, ("learning_rate", "batch_size"), "importances need 8 or more"),
        (12, ("learning_rate",), "only learning_rate took more than one value"),
        (0, ("learning_rate", "batch_size"), "0 trials have a score"),
    ],
)
def test_importances_say_why_there_are_none(count: int, names: tuple[str, ...], reason: str) -> None:
    found = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(24))))
    chosen = [one for one in found.parameters if one.name in names]
    assert reason in find_importances(found.scored[:count], chosen, maximize=True).reason


def test_equal_scores_have_no_importances() -> None:
    found = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(24))))
    same = [Scored(trial=one.trial, score=1.0) for one in found.scored]
    assert "all trials have the same score" in find_importances(same, found.parameters, maximize=True).reason


def test_the_made_up_ledger_has_the_winner_that_it_was_made_with() -> None:
    found = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger())))
    assert found.winner is not None
    best = max(truth(one.trial.sampled) for one in found.scored)
    assert truth(found.winner.trial.sampled) == pytest.approx(best, abs=0.5)
    assert isinstance(found.sweep, SweepRecord)
    assert Path(found.winner.trial.experiment_dir).parent == Path("outputs/experiments")
