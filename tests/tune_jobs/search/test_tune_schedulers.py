"""From a sweep file to a scheduler of Ray Tune: names, arguments, errors with their remedies, what is made of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune import schedulers

from tests.tune_jobs.search.stand_in_driver import StandInDriver
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.sections import Metric, SearchOptions
from tune_jobs.config.space import Bell, Categorical, Constant, Range, Space, Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tune_jobs.planning.expected_stops import expected_evaluations, left_at
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping
from tune_jobs.search.tune_schedulers import nearest_value, scheduler_for
from tune_jobs.search.wandb_hyperband import WandbHyperBand
from tuning_common.errors import RequestError

RATE = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3)
SPACE = Space(
    parameters=(
        RATE,
        Range(name="dropout", distribution="q_uniform", low=0.0, high=0.3, q=0.1),
        Range(name="num_beams", distribution="int_uniform", low=1, high=6),
        Categorical(name="label_smoothing", options=(0.0, 0.05, 0.1)),
        Bell(name="max_grad_norm", distribution="log_normal", mu=0.0, sigma=0.1),
        Bell(name="weight_decay", distribution="q_normal", mu=0.1, sigma=0.1, q=0.01),
        Constant(name="batch_size", value=8),
    )
)
START: dict[str, Value] = {
    "learning_rate": 1e-4, "dropout": 0.1, "num_beams": 5, "label_smoothing": 0.05, "max_grad_norm": 1.0,
    "weight_decay": 0.1, "batch_size": 8,
}  # fmt: skip


def loaded(folder: Path, early_terminate: str, method: str = "random") -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(
        f"method: {method}\ncount: 4\nparameters:\n  learning_rate: {{min: 1e-5, max: 1e-3}}\n"
        f"metric: {{name: eval/loss}}\nearly_terminate: {early_terminate}\n"
    )
    return load_sweep(path)


def problems(folder: Path, early_terminate: str, method: str = "random") -> list[str]:
    with pytest.raises(RequestError) as caught:
        loaded(folder, early_terminate, method)
    return [problem.removeprefix(f"{folder}/sweep.yaml:") for problem in caught.value.problems or (str(caught.value),)]


def sweep_of(method: str = "random", *, trials: int = 4, search: SearchOptions | None = None, **stop: object) -> Sweep:
    return Sweep(
        name="a",
        source="a.yaml",
        method=method,  # type: ignore[arg-type]
        space=SPACE,
        count=trials,
        metric=Metric(name="eval/rouge_combined_f1"),
        early_terminate=EarlyTerminate(**stop),  # type: ignore[arg-type]
        search=search or SearchOptions(),
    )


# Names and arguments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{type: asha, brackets: 2}", schedulers.ASHAScheduler),
        ("{type: median}", schedulers.MedianStoppingRule),
        ("{type: hyperband, min_iter: 1}", WandbHyperBand),
        ("{type: none}", schedulers.FIFOScheduler),
        ("{type: HyperBandScheduler, max_t: 27, reduction_factor: 3}", schedulers.HyperBandScheduler),
        ("{type: ASHAScheduler, max_t: 9, brackets: 2, time_attr: time_total_s}", schedulers.AsyncHyperBandScheduler),
        ("{type: AsyncHyperBandScheduler}", schedulers.AsyncHyperBandScheduler),
        ("{type: MedianStoppingRule, hard_stop: false, grace_period: 2}", schedulers.MedianStoppingRule),
        ("{type: FIFOScheduler}", schedulers.FIFOScheduler),
    ],
)
def test_a_type_becomes_a_scheduler_of_ray(tmp_path: Path, text: str, expected: type) -> None:
    sweep = loaded(tmp_path, text)
    scheduler = scheduler_for(sweep, last=9, side_by_side=2)
    assert type(scheduler) is expected
    assert scheduler.metric == "eval/loss"
    (tmp_path / "again.yaml").write_text(sweep_text(sweep))
    assert load_sweep(tmp_path / "again.yaml").early_terminate == sweep.early_terminate


def test_a_population_can_be_set_by_rays_own_arguments(tmp_path: Path) -> None:
    text = "{type: PopulationBasedTraining, perturbation_interval: 3, perturbation_factors: [0.5, 2.0]}"
    sweep = loaded(tmp_path, text, method="pbt")
    assert sweep.early_terminate.arguments == {"perturbation_interval": 3, "perturbation_factors": (0.5, 2.0)}
    assert isinstance(scheduler_for(sweep, last=9, side_by_side=2), schedulers.PopulationBasedTraining)


@pytest.mark.parametrize(
    ("text", "method", "expected"),
    [
        (
            "{type: HyperBandScheduler, max_T: 27}",
            "random",
            "6: early_terminate: max_T is no argument of HyperBandScheduler; did you mean 'max_t'?; it has"
            " time_attr='training_iteration', max_t=81, reduction_factor=3, stop_last_trials=True",
        ),
        (
            "{type: HyperBandScheduler, max_t: long}",
            "random",
            "6: early_terminate: max_t must be a whole number, but is",
        ),
        ("{type: ASHAScheduler, metric: a}", "random", "6: early_terminate: metric comes from `metric.name`"),
        (
            "{type: FIFOScheduler, max_t: 3}",
            "random",
            "6: early_terminate: max_t is no argument of FIFOScheduler; it has",
        ),
        (
            "{type: ASHAScheduler, max_t: 3, grace_period: 4}",
            "random",
            "6: early_terminate: ASHAScheduler(max_t=3, grace_period=4) is refused by Ray: grace_period must be",
        ),
        (
            "{type: ASHAScheduler, time_attr: epochs}",
            "random",
            "6: early_terminate: time_attr must be one of training_iteration, time_total_s, but is 'epochs'",
        ),
        (
            "{type: HyperBandSchedule}",
            "random",
            "6: early_terminate: HyperBandSchedule is no class of ray.tune.schedulers; did you mean",
        ),
        ("{type: HyperBandForBOHB}", "random", "6: early_terminate: HyperBandForBOHB needs Ray's TuneBOHB"),
        ("{type: PB2}", "random", "6: early_terminate: PB2 needs the packages GPy"),
        ("{type: ResourceChangingScheduler}", "random", "6: early_terminate: ResourceChangingScheduler changes what"),
        (
            "{type: PopulationBasedTrainingReplay}",
            "random",
            "6: early_terminate: PopulationBasedTrainingReplay replays",
        ),
        ("{type: PopulationBasedTraining}", "random", "6: PopulationBasedTraining moves weights between trials; write"),
        (
            "{type: PopulationBasedTraining, hyperparam_mutations: {dropout: [0.1]}}",
            "pbt",
            "6: early_terminate: hyperparam_mutations comes from `parameters`",
        ),
        ("{type: ASHAScheduler}", "pbt", "6: pbt never stops a trial"),
        ("{type: FIFOScheduler}", "bohb", "6: bohb is bayes with hyperband or asha"),
        (
            "{type: Asha}",
            "random",
            "6: early_terminate.type must be one of asha, hyperband, median, none, or a class of",
        ),
        ("{type: asha, s: 2}", "random", "6: early_terminate of type asha has no key 's'; it has min_iter, max_iter,"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(tmp_path: Path, text: str, method: str, expected: str) -> None:
    assert problems(tmp_path, text, method)[0].startswith(expected)


@pytest.mark.parametrize(("text", "is_imported"), [("{type: asha}", False), ("{type: FIFOScheduler}", True)])
def test_a_sweep_file_that_names_no_class_of_ray_is_read_without_ray(
    tmp_path: Path, text: str, is_imported: bool
) -> None:
    loaded(tmp_path, text)
    code = (
        "import sys, pathlib; from tune_jobs.config.sweep_file import load_sweep;"
        f"load_sweep(pathlib.Path({str(tmp_path / 'sweep.yaml')!r})); print('ray' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(is_imported)


# Rungs, for people


@pytest.mark.parametrize(
    ("stop", "last", "expected"),
    [
        ({"type": "asha"}, 27, (1, 3, 9)),
        ({"type": "asha", "min_iter": 2, "eta": 2}, 8, (2, 4)),
        ({"type": "asha", "max_iter": 9}, 27, (1, 3)),
        ({"type": "asha", "min_iter": 4}, 2, ()),
        ({"type": "ASHAScheduler"}, 27, (1, 4, 16)),
        (
            {"type": "ASHAScheduler", "arguments": {"grace_period": 2, "reduction_factor": 1.5, "max_t": 7}},
            9,
            (2, 3, 5),
        ),
        ({"type": "HyperBandScheduler"}, 81, (1, 3, 9, 27)),
        ({"type": "HyperBandScheduler", "arguments": {"time_attr": "time_total_s"}}, 81, ()),
        ({"type": "median"}, 9, ()),
    ],
)
def test_rungs_are_the_documented_ones(stop: dict[str, object], last: int, expected: tuple[int, ...]) -> None:
    assert EarlyTerminate(**stop).rungs(last) == expected  # type: ignore[arg-type]


@given(st.sampled_from([1.5, 2.0, 2.5, 3.0, 4.0]), st.integers(1, 4), st.integers(2, 30), st.integers(0, 99))
def test_asha_stops_trials_at_its_rungs_alone(eta: float, first: int, last: int, seed: int) -> None:
    sweep = sweep_of(type="asha", min_iter=first, eta=eta)
    scheduler = scheduler_for(sweep, last=last, side_by_side=4)
    driver = StandInDriver(
        EarlyStopping(scheduler, seed=0),
        lambda number, made: float((number * 7919 + made * 104729 + seed) % 101),
        last=last,
        metric=sweep.metric.name,
    ).run(range(12))
    assert set(driver.stops().values()) <= set(sweep.early_terminate.rungs(last))


@pytest.mark.parametrize("max_t", [9, 10, 27, 81])
def test_hyperband_compares_trials_at_its_rungs_alone(max_t: int) -> None:
    sweep = sweep_of(type="HyperBandScheduler", arguments={"max_t": max_t})
    scheduler = scheduler_for(sweep, last=max_t, side_by_side=4)
    driver = StandInDriver(
        EarlyStopping(scheduler, seed=0), lambda number, _: float(number % 7), last=max_t, metric=sweep.metric.name
    ).run(range(150))
    pauses = {event.evaluation for event in driver.events if event.ruling.decision == "pause"}
    assert pauses - {max_t} == set(sweep.early_terminate.rungs(max_t))


def test_the_goal_decides_which_values_are_good(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, "{type: asha, eta: 2}")
    assert sweep.metric.goal == "minimize"
    stopping = EarlyStopping(scheduler_for(sweep, last=9, side_by_side=2), seed=0)
    for number in (1, 2, 3):
        stopping.add(number, {})
    decisions = [
        stopping.report(n, {"eval/loss": v, EVALUATION: 1}).decision for n, v in ((1, 10.0), (2, 5.0), (3, 9.0))
    ]
    assert decisions == ["continue", "continue", "stop"]


# Populations


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.25, 1.0]))
def test_changed_values_stay_in_their_ranges_and_the_seed_decides(seed: int, resample: float) -> None:
    found = []
    for _ in range(2):
        sweep = sweep_of("pbt", search=SearchOptions(resample_probability=resample), type="none")
        stopping = EarlyStopping(scheduler_for(sweep, last=9, side_by_side=4), seed=seed)
        for number in range(1, 5):
            stopping.add(number, START)
        for number in (2, 3, 4):
            stopping.report(number, {sweep.metric.name: float(number), EVALUATION: 1})
        (exploit,) = stopping.report(1, {sweep.metric.name: 1.0, EVALUATION: 1}).exploits
        found.append(exploit)
    assert found[0] == found[1]
    assert (found[0].number, found[0].donor) == (1, 4)
    assert SPACE.contains(found[0].sampled)
    assert found[0].sampled["batch_size"] == 8
    if resample == 0.0:
        assert found[0].sampled["learning_rate"] in (pytest.approx(8e-5), pytest.approx(1.2e-4))
        assert found[0].sampled["label_smoothing"] in (0.0, 0.1)


def test_values_at_a_bound_stay_there() -> None:
    assert nearest_value(RATE, 1.2e-3) == 1e-3
    assert nearest_value(SPACE["dropout"], 0.36) == 0.3
    assert nearest_value(SPACE["num_beams"], 0.8) == 1
    assert nearest_value(SPACE["weight_decay"], 0.123) == pytest.approx(0.12)


def test_a_population_that_does_not_fit_side_by_side_is_synchronous() -> None:
    decisions = []
    for side_by_side in (4, 3):
        sweep = sweep_of("pbt", type="none")
        stopping = EarlyStopping(scheduler_for(sweep, last=9, side_by_side=side_by_side), seed=0)
        for number in range(1, 5):
            stopping.add(number, START)
        decisions.append(stopping.report(2, {sweep.metric.name: 2.0, EVALUATION: 1}).decision)
    assert decisions == ["continue", "pause"]


# What a plan expects


def test_asha_lets_more_than_one_in_eta_pass_while_few_have_come() -> None:
    made = expected_evaluations(sweep_of(type="asha"), [9] * 200, side_by_side=10)
    first, second = left_at((1, 3), made)
    assert 200 / 3 * 0.8 < first < 200 / 3 * 1.3
    assert 200 / 9 * 0.8 < second < 200 / 9 * 1.8
    assert sum(expected_evaluations(sweep_of(type="asha"), [9] * 27, side_by_side=4)) == 69


def test_trials_that_nobody_stops_are_expected_to_run_to_their_end() -> None:
    assert expected_evaluations(sweep_of(type="none"), [2, 5, 1], side_by_side=2) == [2, 5, 1]
    assert expected_evaluations(sweep_of(type="asha", min_iter=9), [2, 5, 1], side_by_side=2) == [2, 5, 1]
    assert expected_evaluations(sweep_of("pbt", type="none"), [3] * 4, side_by_side=2) == [3] * 4


def test_many_trials_come_as_far_as_those_that_were_simulated() -> None:
    made = expected_evaluations(sweep_of(type="median"), [9] * 450, side_by_side=10)
    assert made[200:400] == made[:200]
    assert made[400:] == made[:50]


def test_hyperband_is_expected_to_pause_and_to_end() -> None:
    sweep = sweep_of(type="HyperBandScheduler", arguments={"max_t": 9})
    made = expected_evaluations(sweep, [9] * 17, side_by_side=3)
    assert set(made) == {1, 3, 9}
