"""What phases decide, from ledgers whose truth is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import METRIC, sweep_record
from tune_jobs.analysis.significance import PairedDifference
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.config.space import Constant, Range
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.ledger import Ledger, TrialError, TrialRecord
from tune_jobs.search.grid import sampled_configs
from tune_jobs.search.phase_decisions import Done, describe, prepare, problem_of

STAGED = """
name: s
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}
  batch_size: {values: [8, 16]}
search: {startup_trials: 3}
phases:
  - {name: quick_check}
  - {name: wide, method: random, count: 6}
  - {name: narrow, method: bayes, count: 9, keep_fraction: 0.5}
  - {name: closer, kind: narrow, count: 9, set: {num_epochs: 9}}
  - {name: confirm, winners: 2, seeds: [1, 2]}
"""
RATES = (1e-5, 3e-5, 1e-4, 2e-4, 3e-4, 9e-4)


@pytest.fixture
def whole(tmp_path: Path) -> Sweep:
    path = tmp_path / "s.yaml"
    path.write_text(STAGED)
    return load_sweep(path)


def trial(number: int, score: float | None, **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "trial_id": str(number), "name": f"t{number}", "sweep": "s", "status": "finished", "wall_s": 10.0,
        "history": [] if score is None else [{METRIC: score}], "resolved": {"model": "kobart"},
    }  # fmt: skip
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def done(
    whole: Sweep, name: str, trials: list[TrialRecord], sweep: Sweep | None = None, goal: str = "maximize"
) -> Done:
    phase = next(phase for phase in whole.phases if phase.name == name)
    ledger = Ledger(sweep=sweep_record(sweep=f"s_{name}", metric=METRIC, goal=goal), trials=tuple(trials))
    return Done(phase=phase, sweep=sweep or phase.sweep, analysis=analyse(ledger))


def wide(whole: Sweep, scores: tuple[float, ...] = (10, 20, 30, 29.8, 25, 12)) -> Done:
    pairs = zip(RATES, scores, strict=True)
    trials = [
        trial(n, score, sampled={"learning_rate": rate, "batch_size": 8 if n % 2 else 16})
        for n, (rate, score) in enumerate(pairs)
    ]
    return done(whole, "wide", trials)


def phase_sweep(whole: Sweep, name: str, before: list[Done]) -> Sweep:
    return prepare(whole, next(phase for phase in whole.phases if phase.name == name), before).sweep


def test_a_narrow_phase_searches_the_box_and_knows_the_best_scores(whole: Sweep) -> None:
    sweep = phase_sweep(whole, "narrow", [wide(whole)])
    rate = sweep.space["learning_rate"]
    assert isinstance(rate, Range)
    assert (rate.low, rate.high) == (
        pytest.approx(1e-4 * 100**-0.05, rel=0.01),
        pytest.approx(3e-4 * 100**0.05, rel=0.01),
    )
    assert (sweep.name, sweep.count, sweep.search.startup_trials) == ("s_narrow", 9, 3)
    assert [(point["learning_rate"], point["score"]) for point in sweep.search.points] == [
        (1e-4, 30), (2e-4, 29.8), (3e-4, 25),
    ]  # fmt: skip


def test_a_second_narrow_phase_cuts_the_first_ones_box_and_scores_of_another_training_are_not_taken_over(
    whole: Sweep,
) -> None:
    first = phase_sweep(whole, "narrow", [wide(whole)])
    trials = [
        trial(n, 40.0 - n, sampled={"learning_rate": rate, "batch_size": 8})
        for n, rate in enumerate((1.5e-4, 1.6e-4, 1.7e-4, 1e-4, 3e-4, 2.5e-4, 2.6e-4, 2.7e-4, 2.8e-4))
    ]
    second = phase_sweep(whole, "closer", [wide(whole), done(whole, "narrow", trials, first)])
    old, new = first.space["learning_rate"], second.space["learning_rate"]
    assert isinstance(old, Range)
    assert isinstance(new, Range)
    twentieth = (old.high / old.low) ** 0.05  # of the first box, not of the whole space
    assert (new.low, new.high) == (
        pytest.approx(1.5e-4 / twentieth, rel=0.01),
        pytest.approx(1.7e-4 * twentieth, rel=0.01),
    )
    assert second.space["num_epochs"] == Constant(name="num_epochs", value=9)
    assert len(second.search.points) == 2
    assert all("score" not in point for point in second.search.points), "nine epochs are another training"


def test_confirm_trains_the_best_of_all_searching_phases_with_the_same_seeds(whole: Sweep) -> None:
    narrow = done(whole, "narrow", [trial(1, 35.0, sampled={"learning_rate": 1.5e-4, "batch_size": 16})])
    check = done(whole, "quick_check", [trial(1, 99.0, sampled={"learning_rate": 1e-3, "batch_size": 8})])
    found = prepare(whole, whole.phases[-1], [check, wide(whole), narrow])
    assert found.head == ("Trains the best 2 of wide and narrow again with 2 seeds each.",)
    assert [(one["learning_rate"], one["batch_size"], one["seed"]) for one in sampled_configs(found.sweep)] == [
        (1.5e-4, 16, 1),
        (1.5e-4, 16, 2),
        (1e-4, 16, 1),
        (1e-4, 16, 2),
    ]
    assert (found.sweep.method, found.sweep.early_terminate.type) == ("grid", "none")
    assert found.reasons["learning_rate"] == "of the best 2: t1: 35, t2: 30"


def test_decisions_are_said_with_their_reasons(whole: Sweep) -> None:
    error = TrialError(type="out_of_memory", message="needs 30 GiB")
    ended = [trial(1, 5.0), trial(2, 4.0, status="stopped", wall_s=30.0), trial(3, None, status="oom", error=error)]
    check = done(whole, "quick_check", ended)
    assert describe([check], None) == (
        "the pipeline runs: 2 of 3 trials ended well, 20 s each; the others: out_of_memory: needs 30 GiB"
    )
    labels = [
        (one.trial_id, one.phase) for part in (check, done(whole, "closer", [trial(1, 1.0)])) for one in part.trials
    ]
    assert (labels[0], labels[-1]) == (("quick_check-1", "quick_check"), ("closer-1", "closer"))
    first = wide(whole)
    following = prepare(whole, whole.phases[2], [first])
    assert describe([first], following) == (
        "best 30 of 6 with a score (t2); the best 3 of 6 trials make the next box: learning_rate 7.94e-5 to 3.78e-4, "
        "batch_size 8, 16"
    )
    better = done(whole, "narrow", [trial(1, 31.0, sampled={"learning_rate": 1.5e-4, "batch_size": 16})])
    assert describe([first, better], None).endswith("; 1 better than wide")
    confirming = prepare(whole, whole.phases[-1], [first, better])
    assert describe([first, better], confirming).endswith("; next, the best 2 are trained again with 2 seeds each")
    tied = done(whole, "narrow", [trial(1, 30.4, sampled={"learning_rate": 1.5e-4, "batch_size": 16})])
    assert "; a tie with wide: 0.4 apart, and 0.5 may be chance" in describe([first, tied], None)
    for score, verdict in ((9.5, "0.5 better"), (10.5, "0.5 worse")):
        loss = [
            done(whole, name, [trial(1, one, resolved={"model": "tiny-t5"})], goal="minimize")
            for name, one in (("wide", 10.0), ("narrow", score))
        ]
        assert f"; {verdict} than wide (how much of it is chance is not known" in describe(loss, None)


def test_decoding_is_searched_with_the_best_model_of_the_phase_before(whole: Sweep) -> None:
    phase = replace(whole.phases[-1], name="generation", kind="generation")
    found = prepare(whole, phase, [wide(whole), done(whole, "confirm", [trial(1, 31.0)])])
    folder = Path(whole.tracking.output_dir, "sweep_results", "s_confirm")
    assert (found.sweep.name, found.sweep.trained_model) == ("s_confirm", str(folder))
    assert found.head == (f"Settings of the decoding, with the best model of {folder}.",)


def test_a_confirmation_tells_a_lead_from_a_tie(whole: Sweep) -> None:
    def confirmed(*scores: float, paired: PairedDifference | None = None) -> str:
        trials = [
            trial(n, score, sampled={"learning_rate": (1e-4, 2e-4)[n % 2], "batch_size": 8, "seed": n // 2})
            for n, score in enumerate(scores)
        ]
        last = done(whole, "confirm", trials)
        analysis = analyse(last.analysis.ledger, paired=paired)
        return describe([replace(last, analysis=analysis)], None)

    lead = PairedDifference(mean=2.0, low=0.5, high=3.5, count=50)
    assert confirmed(30.0, 20.0, 30.2, 20.1, paired=lead) == (
        "t2 has mean 30.1 over 2 seeds (sd 0.14), ahead of the second by 10 (0.48 may be chance)"
        "; on 50 dialogues drawn again the lead is 0.5 to 3.5 (95 %)"
    )
    assert confirmed(30.0, 29.0, 28.0, 29.5).startswith(
        "t3 has mean 29.25 over 2 seeds (sd 0.35); a tie with the second"
    )
    assert confirmed(30.0, 20.0, 30.2, 20.1, paired=replace(lead, low=-0.5)).startswith(
        "t2 has mean 30.1 over 2 seeds (sd 0.14), perhaps ahead"
    )


def test_nothing_follows_from_a_phase_without_a_result(whole: Sweep) -> None:
    broken = TrialError(type="error", message="no such model")
    failed = done(whole, "quick_check", [trial(1, None, status="failed", error=broken)])
    assert problem_of(failed) == "phase quick_check: no trial has a result, so nothing else is started: no such model"
    assert problem_of(wide(whole)) is None
