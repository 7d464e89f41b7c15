"""Population based training: who copies from whom as in Ray, values inside their ranges, and what is written down."""

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialsum.config import RunConfig
from tests.tune_jobs.ordered import order_of
from tune_jobs.config.rules import Rules, resolve
from tune_jobs.config.sections import SearchOptions
from tune_jobs.config.space import Bell, Categorical, Constant, Range, Space, Value
from tune_jobs.driver.exploit import Exploiter
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import TrialOrder
from tune_jobs.records.trial_state import INHERITED_FILE
from tune_jobs.search.population import PopulationRule, explore, quantiles
from tune_jobs.search.samplers import Sampled

SPACE = Space(
    parameters=(
        Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3),
        Range(name="dropout", distribution="q_uniform", low=0.0, high=0.3, q=0.1),
        Categorical(name="label_smoothing", options=(0.0, 0.05, 0.1)),
        Bell(name="max_grad_norm", distribution="log_normal", mu=0.0, sigma=0.1),
        Constant(name="batch_size", value=8),
    )
)
RULE = PopulationRule(
    space=SPACE, goal="maximize", options=SearchOptions(exploit_fraction=0.25, perturbation_interval=2)
)
START: dict[str, Value] = {
    "learning_rate": 1e-4, "dropout": 0.1, "label_smoothing": 0.05, "max_grad_norm": 1.0, "batch_size": 8,
}  # fmt: skip


@given(
    st.dictionaries(st.integers(1, 20), st.integers(0, 30).map(float), max_size=12), st.sampled_from([0.1, 0.25, 0.5])
)
def test_top_and_bottom_are_rays_on_any_scores(scores: dict[int, float], fraction: float) -> None:
    schedulers = pytest.importorskip("ray.tune.schedulers.pbt")
    theirs = schedulers.PopulationBasedTraining(
        metric="m", mode="max", quantile_fraction=fraction, hyperparam_mutations={"a": [1, 2]}
    )

    class Trial:
        def __init__(self, number: int) -> None:
            self.number, self.experiment_tag = number, ""

        def is_finished(self) -> bool:
            return False

        def __lt__(self, other: "Trial") -> bool:
            return self.number < other.number

    for number, score in sorted(scores.items()):
        trial = Trial(number)
        theirs._trial_state[trial] = schedulers._PBTTrialState(trial)
        theirs._trial_state[trial].last_score = score
    bottom, top = theirs._quantiles()
    assert quantiles(scores, fraction, "maximize") == ([one.number for one in bottom], [one.number for one in top])


def test_low_scores_are_at_the_top_when_the_goal_says_so() -> None:
    assert quantiles({1: 1.0, 2: 2.0, 3: float("nan")}, 0.25, "minimize") == ([2], [1])
    assert quantiles({1: 1.0}, 0.5, "minimize") == ([], [])


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.25, 1.0]))
def test_changed_values_stay_in_their_ranges_and_the_seed_decides(seed: int, resample: float) -> None:
    values, changes = explore(SPACE, START, random.Random(seed), resample)
    assert SPACE.contains(values)
    assert (values["batch_size"], len(changes)) == (8, 4)
    assert explore(SPACE, START, random.Random(seed), resample) == (values, changes)
    if resample == 0.0:  # as Ray's: a factor, or the neighbour in the list
        assert values["learning_rate"] in (pytest.approx(8e-5), pytest.approx(1.2e-4))
        assert values["label_smoothing"] in (0.0, 0.1)


def test_at_the_bounds_values_stay() -> None:
    top: dict[str, Value] = {**START, "learning_rate": 1e-3, "dropout": 0.3, "label_smoothing": 0.1}
    found = [explore(SPACE, top, random.Random(seed), 0.0)[0] for seed in range(20)]
    assert {one["learning_rate"] for one in found} == {8e-4, 1e-3}
    assert {one["label_smoothing"] for one in found} == {0.05, 0.1}
    assert {one["dropout"] for one in found} == {0.2, 0.3}


def test_only_the_bottom_copies_from_the_top_that_has_weights() -> None:
    scores = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    sampled = dict.fromkeys(scores, START)
    assert [RULE.is_due(evaluation) for evaluation in (1, 2, 3, 4)] == [False, True, False, True]
    assert [RULE.decide(number, 2, scores, sampled) is not None for number in scores] == [True, False, False, False]
    move = RULE.decide(1, 2, scores, sampled)
    assert move is not None
    assert (move.donor, move) == (4, RULE.decide(1, 2, scores, sampled))
    assert RULE.decide(1, 2, scores, {1: START, 3: START}) is None


class Population:
    """A journal with trials that have weights, as Tune would leave them."""

    def __init__(self, folder: Path, scores: Mapping[int, float], *, taking_turns: bool = False) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl")
        for number, score in scores.items():
            config = RunConfig(learning_rate=1e-4, train_file="/data/train.jsonl")
            place = str(folder / f"t{number}")
            order = order_of(folder, f"t{number}", config, number=number, sampled=dict(START), folder=place)
            self.journal.write("ordered", number, order=order.to_dict())
            self.journal.write("started", number, bundle=dataclasses.asdict(order.bundle), at=1.0, elapsed_s=1.0)
            self.report(number, 2, score)
        self.exploiter = Exploiter(RULE, self.journal, folder, self.resolved, taking_turns=taking_turns)

    def report(self, number: int, evaluation: int, score: float) -> None:
        checkpoint = self.folder / "tune" / f"t{number}" / f"checkpoint_{evaluation}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(f"of {number}")
        (checkpoint / "history.json").write_text(f'["past of {number}"]')
        (checkpoint / "trial_state.json").write_text(json.dumps({"evaluations": evaluation}))
        self.journal.write("reported", number, evaluation=evaluation, value=score, metrics={}, at=2.0, elapsed_s=2.0)
        self.journal.write("saved", number, folder=str(checkpoint))

    @staticmethod
    def resolved(sampled: Sampled) -> object:
        return resolve(RunConfig(), sampled, Rules(set={"warmup_ratio": "0.5"}))


def test_a_copy_survives_the_donor_and_is_written_down(tmp_path: Path) -> None:
    population = Population(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    why = population.exploiter.consider(1, 2)
    assert why is not None
    assert why.startswith("goes on with the weights of trial 4; learning_rate 0.0001 -> ")
    assert [population.exploiter.consider(number, 2) for number in (2, 3, 4)] == [None, None, None]
    for file in (tmp_path / "tune" / "t4" / "checkpoint_2").iterdir():
        file.unlink()  # Tune keeps the last two only
    population.exploiter.carry_out(1)

    again = Journal(tmp_path / "journal.jsonl").trials[1]  # as a resumed driver reads it
    assert again.checkpoint == tmp_path / "population" / "1_2" / "checkpoint"
    assert (again.checkpoint / "weights").read_text() == "of 4"
    assert json.loads((again.checkpoint / "history.json").read_text()) == ["past of 1"]
    assert json.loads((again.checkpoint / INHERITED_FILE).read_text()) == {"donor": 4, "evaluation": 2}
    (copy,) = again.copies
    assert (copy["donor"], copy["evaluation"], copy["donor_evaluation"], copy["before"]) == (4, 2, 2, START)
    order = TrialOrder.from_dict(again.order)
    assert order.sampled != START
    assert order.config["learning_rate"] == order.sampled["learning_rate"]
    assert (order.config["train_file"], order.config["warmup_ratio"]) == ("/data/train.jsonl", 0.5)
    assert (order.name, order.folder) == ("t1", str(tmp_path / "t1"))


def test_a_failed_start_forgets_what_was_decided(tmp_path: Path) -> None:
    population = Population(tmp_path, {1: 1.0, 2: 2.0})
    assert population.exploiter.consider(1, 2)
    population.exploiter.forget(1)
    population.exploiter.carry_out(1)
    assert population.journal.trials[1].copies == []


def test_where_trials_take_turns_each_is_decided_on_when_all_are_as_far(tmp_path: Path) -> None:
    population = Population(tmp_path, {1: 2.0}, taking_turns=True)
    assert population.exploiter.consider(1, 1) is None
    assert population.exploiter.consider(1, 2) == "the others catch up"
    population = Population(tmp_path / "more", {1: 1.0, 2: 2.0}, taking_turns=True)
    population.exploiter.goes_on(2)
    population.exploiter.goes_on(1)
    population.exploiter.goes_on(1)  # a resumed driver asks again
    assert [len(population.journal.trials[number].copies) for number in (1, 2)] == [1, 0]


def test_a_round_is_decided_once_for_all_from_scores_of_the_same_evaluation(tmp_path: Path) -> None:
    population = Population(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, taking_turns=True)
    journal, exploiter = population.journal, population.exploiter
    assert exploiter.next_of([1, 2, 3]) is None, "4 has reported the same evaluation, and not yet saved it"
    assert exploiter.next_of([1, 2, 3, 4]) == 1
    population.report(3, 4, 9.0)  # it is further by mistake: nobody who is behind waits for it
    assert exploiter.next_of([3]) is None, "the others are behind it"
    assert exploiter.next_of([3, 4, 2, 1]) == 4

    exploiter.goes_on(2)
    assert [len(journal.trials[number].copies) for number in (1, 2, 3, 4)] == [1, 0, 0, 0], "the whole round at once"
    (copy,) = journal.trials[1].copies
    assert (copy["donor"], copy["donor_evaluation"]) == (4, 2), "3 is further, so it gives nothing at this evaluation"
    population.report(2, 4, 0.0)
    population.report(4, 4, 5.0)
    assert exploiter.next_of([1]) == 1, "its round is settled: it goes on as soon as a slot is free"
    exploiter.goes_on(1)
    assert len(journal.trials[1].copies) == 1


def test_without_turns_who_waits_longest_goes_on(tmp_path: Path) -> None:
    population = Population(tmp_path, {1: 1.0, 2: 2.0})
    population.report(2, 3, 1.0)
    assert population.exploiter.next_of([2, 1]) == 2
