"""A plan from a sweep file to its JSON; what was measured before; and a thousand trials in seconds."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from dialsum.config import RunConfig
from tune_jobs.__main__ import main
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.sections import METRIC_GOALS, Metric, Resources
from tune_jobs.config.space import Categorical, Range, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import CPU, Speed, Throughput, observe
from tune_jobs.planning.earlier import earlier_ledgers, importances_of, observations_of
from tune_jobs.planning.expected_stops import expected_evaluations
from tune_jobs.planning.plan import make_plan
from tune_jobs.planning.plan_values import SweepPlan
from tune_jobs.records.ledger import SweepFolder, SweepRecord, TrialRecord
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tune_jobs.search.inputs import DataSizes
from tuning_common import cli
from tuning_common.errors import RequestError

SWEEP = """
name: small
method: random
count: 4
metric: {name: eval/rouge_combined_f1}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-4, max: 1e-2}
  batch_size: {values: [4, 8]}
  num_epochs: {value: 4}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
rules: {scale_learning_rate_from_batch: 8}
"""
CARDS = parse_simulated("4x24GiB,2x80GiB")


def record(number: int, batch: int, *, gpu_model: str | None = None, interval_s: float = 10.0) -> TrialRecord:
    """A trial that took 30 s to its first evaluation and `interval_s` to each further one, half of it for scoring."""
    config = RunConfig(
        model="kobart", batch_size=batch, num_epochs=4, train_file="t", dev_file="d", max_eval_samples=20
    )
    steps = 100
    return TrialRecord(
        trial_id=str(number),
        name=f"t{number}",
        sweep="earlier",
        status="finished",
        sampled={"batch_size": batch, "learning_rate": 10.0**-number},
        resolved=config.to_dict(),
        metrics={"time/total_s": interval_s / 2 / steps},
        best_metrics={"eval/loss": float(number)},
        history=[
            {
                "wall_s": 30.0 + interval_s * place,
                "train/global_step": float(steps * (place + 1)),
                "eval/loss": 1.0 * number,
            }
            for place in range(3)
        ],
        gpu_model=gpu_model,
        simulated=gpu_model is None,
    )


def test_a_trial_of_a_ledger_tells_learning_scoring_and_start_apart() -> None:
    seen = observe(record(1, 8), lambda config: 20)
    assert seen is not None
    assert (seen.card, seen.start_s) == (CPU, 20.0)
    assert seen.train_s == pytest.approx(5 / 100 / 8)
    assert seen.evaluate_s == pytest.approx(5 / 20)
    assert observe(dataclasses.replace(record(1, 8), history=[]), lambda config: 20) is None
    shared = dataclasses.replace(record(1, 8), history=[{**row, "card/slowdown": 2.0} for row in record(1, 8).history])
    beside = observe(shared, lambda config: 20)
    assert seen is not None
    assert beside is not None
    assert (beside.train_s, beside.evaluate_s) == (seen.train_s / 2, seen.evaluate_s / 2)
    assert beside.start_s == seen.start_s


def test_speeds_are_those_of_the_same_card_and_model_and_of_the_nearest_batch() -> None:
    runs = [record(1, 8, gpu_model="A"), record(2, 32, gpu_model="A", interval_s=20), record(3, 8, gpu_model="B")]
    known = Throughput([seen for run in runs if (seen := observe(run, lambda config: 20))])
    config = RunConfig(model="kobart", batch_size=16)
    assert known.cards == ("A", "B")
    speed = known.of(config.with_changes({"batch_size": 32}), "A")
    assert speed is not None
    assert speed.train_s == pytest.approx(10 / 100 / 32)
    assert speed.source == "kobart on A: 1 run of earlier"
    between = known.of(config, "A")
    assert between is not None
    assert between.source.endswith("from batch 8 and 32")
    assert known.of(config, "C") is None
    assert known.of(config.with_changes({"encoder_max_len": 256}), "A") is None
    assert known.of(RunConfig(model="t5"), "A") is None


def test_ledgers_of_an_output_folder_are_read_and_a_broken_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder.of(tmp_path, "earlier")
    folder.append(SweepRecord(sweep="earlier", metric="eval/loss", goal="minimize"))
    for number in range(1, 13):
        folder.append(record(number, 8 if number % 2 else 16))
    broken = SweepFolder.of(tmp_path, "broken").ledger
    broken.parent.mkdir()
    broken.write_text('{"event": "other"}\n')
    ledgers = earlier_ledgers(tmp_path)
    assert "broken: not used for the plan: 1 line of the ledger: line 1: event must be" in capsys.readouterr().err
    assert len(observations_of(ledgers)) == 12
    name, parts = importances_of(ledgers, "eval/loss", "minimize")
    assert name == "earlier, 12 trials"
    assert {part.name for part in parts} == {"learning_rate", "batch_size"}
    assert importances_of(ledgers, "eval/rouge_combined_f1", "maximize") == ("", ())


def test_a_plan_from_a_file_has_what_the_design_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SWEEP)
    assert cli.run(main, ["plan", "small.yaml", "--cluster", "1x24GiB,1x80GiB", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {"trials", "warnings", "placements", "gpu_hours", "makespan_s"} <= set(plan)
    assert (len(plan["trials"]), len(plan["placements"]), plan["simulated"], plan["unit"]) == (
        4,
        4,
        True,
        "trial-epochs",
    )
    assert (plan["gpu_hours"], plan["makespan_s"], plan["makespan_trial_epochs"]) == (None, None, 4.0)
    assert plan["phases"][0]["rungs"] == [1, 3]
    for trial in plan["trials"]:
        rate, batch = trial["sampled"]["learning_rate"], trial["sampled"]["batch_size"]
        assert trial["resolved"]["learning_rate"] == pytest.approx(rate * (batch / 8) ** 0.5)
        (card, _) = plan["estimates"][trial["estimate"]]["cards"]
        assert 0 < card["gpu_share"] < 1
        assert card["upper_bytes"] > card["device_bytes"] > 0
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["sample_data"], "nothing ran"


def test_hours_and_an_end_are_known_on_gpu_models_that_have_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = "  tiny_hidden_size: {value: 16}\n  tiny_layers: {value: 1}\n"
    Path("kobart.yaml").write_text(SWEEP.replace(tiny, "  model: {value: kobart}\n"))
    Path("data").mkdir()
    assert cli.run(main, ["plan", "kobart.yaml", "--cluster", "1x3090,1xA100:40GiB", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["unit"], plan["not_measured"]) == ("s", [])
    assert 0 < plan["gpu_hours"] <= plan["gpu_hours_at_most"]
    assert 0 < plan["makespan_s"] <= plan["makespan_at_most_s"]
    assert plan["ends_at"]
    assert plan["time_source"] == [
        "kobart on NVIDIA A100-SXM4-40GB: predicted by a roofline, not measured",
        "kobart on NVIDIA GeForce RTX 3090: predicted by a roofline, not measured",
    ]
    quick, slow = plan["estimates"][0]["cards"]
    assert 0 < quick["train_dialogue_s"] < slow["train_dialogue_s"] < 1
    assert 0 < quick["busy"] <= slow["busy"] == 1.0


@pytest.mark.slow
def test_a_quick_measurement_gives_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SWEEP)
    assert cli.run(main, ["plan", "small.yaml", "--measure", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["unit"], plan["not_measured"]) == ("s", [])
    assert 0 < plan["gpu_hours"] <= plan["gpu_hours_at_most"]
    assert 0 < plan["makespan_s"] <= plan["makespan_at_most_s"]
    assert max(stay["end_s"] for stay in plan["placements"]) == pytest.approx(plan["makespan_s"], abs=0.06)
    assert "a measurement at the longest texts" in plan["time_source"][0]


def test_a_grid_of_half_a_million_is_refused_at_once_with_the_better_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("num_epochs", "seed", "num_beams", "batch_size", "no_repeat_ngram_size", "tiny_layers", "learning_rate")
    values = {"learning_rate": [place / 1000 for place in range(1, 8)]}
    lines = [f"  {name}: {{values: {values.get(name, list(range(1, 8)))}}}" for name in names]
    Path("grid.yaml").write_text("\n".join(["method: grid", "parameters:", *lines]))
    assert cli.run(main, ["plan", "grid.yaml"]) == 2
    said = capsys.readouterr().err
    assert "grid.yaml:1: the grid has 823543 configurations, and a sweep may have at most 10000 trials" in said
    assert "or `method: random` with a `count`" in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cluster", "2 cards"], "is no group of cards"),
        (["--strict"], "refused by --strict"),
        (["--cluster", "1x1GiB"], "no trial can run"),
    ],
)
def test_wrong_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    metric = "eval/loss" if "--strict" in arguments else "eval/rouge_combined_f1"
    wide = SWEEP.replace("tiny_hidden_size: {value: 16}", "model: {value: kobart}").replace("tiny_layers", "seed")
    Path("small.yaml").write_text(wide.replace("eval/rouge_combined_f1", metric))
    assert cli.run(main, ["plan", "small.yaml", *arguments]) == 2
    assert text in capsys.readouterr().err


def planned(sweep: Sweep, cards: Inventory = CARDS) -> SweepPlan:
    def options(name: str, config: RunConfig) -> tuple[Option, ...]:
        shape = RunShape(micro_batch=config.batch_size, accumulation=1)
        needs = (Need(upper_bytes=config.batch_size * 2**29, cpus=1),)
        return tuple(
            Option(alternative=one, placement=Placement(bundle=Bundle(cpus=1, gpus=one.gpus), shape=shape))
            for one in find_alternatives(needs, cards)
        )

    base = RunConfig()
    sizes = DataSizes(of={base.train_file: 1000, base.dev_file: 100})
    return make_plan(sweep, cards, described=True, options=options, sizes=sizes)


def test_a_thousand_trials_in_little_more_than_linear_time_each_placed_once_and_never_more_than_a_card() -> None:
    rate = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4)
    batch = Categorical(name="batch_size", options=(8, 16, 32))
    space = Space(parameters=(rate, batch))
    sweep = Sweep(name="a", source="a", method="random", count=1000, space=space)
    began_s = time.process_time()
    planned(dataclasses.replace(sweep, count=200))
    between_s = time.process_time()
    plan = planned(sweep)
    assert time.process_time() - between_s < 15 * (between_s - began_s)
    assert len(plan.groups) == 3
    (phase,) = plan.phases
    assert sorted(int(run.name) for run in phase.timeline.runs) == list(range(1, 1001))
    moves = sorted(
        ((run.end, run.start)[begins], begins, (run.nodes[0], run.cards[0]), run.gpus)
        for run in phase.timeline.runs
        for begins in (0, 1)
    )
    held: dict[tuple[str, int], float] = {}
    for _, begins, card, gpus in moves:
        held[card] = held.get(card, 0.0) + (gpus if begins else -gpus)
        assert held[card] < 1.0001
    assert plan.makespan <= plan.makespan_at_most


def test_a_grid_is_planned_as_it_will_run_large_trials_first_unless_a_budget_may_cut_it_off() -> None:
    space = Space(
        parameters=(Categorical(name="batch_size", options=(14, 30)), Categorical(name="seed", options=(1, 2)))
    )
    sweep = Sweep(name="a", source="a", method="grid", space=space)  # two of 7 GiB, then two of 15 GiB
    (phase,) = planned(sweep, parse_simulated("2x24GiB")).phases
    assert {run.name: run.start for run in phase.timeline.runs} == {"1": 0, "2": 0, "3": 0, "4": 0}
    assert [trial.number for trial in phase.trials] == [1, 2, 3, 4]
    budget = dataclasses.replace(sweep, resources=Resources(time_budget="1h"))
    late = planned(budget, parse_simulated("2x24GiB"))
    assert [run.name for run in late.phases[0].timeline.runs if run.start > 0] == ["4"]
    assert late.makespan_at_most == 2 * phase.at_most.makespan


def test_chance_stops_about_one_in_eta_and_the_best_never() -> None:
    asha = Sweep(name="a", source="", method="random", count=300, space=Space())
    made = expected_evaluations(asha, [9] * 300, side_by_side=10)
    assert 80 < sum(1 for evaluations in made if evaluations > 1) < 140
    assert 25 < sum(1 for evaluations in made if evaluations > 3) < 70
    never = dataclasses.replace(asha, early_terminate=EarlyTerminate(type="none"))
    assert expected_evaluations(never, [2, 5, 1], side_by_side=2) == [2, 5, 1]


@given(
    eta=st.sampled_from([1.7, 2.0, 2.5, 3.0, 4.0]),
    first=st.integers(1, 3),
    longest=st.lists(st.integers(1, 12), min_size=1, max_size=25),
    side_by_side=st.integers(1, 6),
    metric=st.sampled_from(["eval/loss", "eval/rouge1_f1"]),
)
@settings(max_examples=40)
def test_a_plan_stops_trials_as_rays_asha_does(
    eta: float, first: int, longest: list[int], side_by_side: int, metric: str
) -> None:
    arguments = {"time_attr": "training_iteration", "grace_period": first, "max_t": max(*longest, first), "brackets": 1}
    rays = {**arguments, "reduction_factor": eta, "stop_last_trials": False}
    found = [
        expected_evaluations(
            Sweep(
                name="s", source="", method="random", space=Space(), count=len(longest), early_terminate=stop,
                metric=Metric(name=metric, goal=METRIC_GOALS[metric]),
            ),
            longest,
            side_by_side=side_by_side,
        )
        for stop in (
            EarlyTerminate(type="asha", min_iter=first, eta=eta),
            EarlyTerminate(type="ASHAScheduler", arguments=rays),
        )
    ]  # fmt: skip
    assert found[0] == found[1]


def test_a_slower_card_takes_longer() -> None:
    speed = Speed(train_s=1, evaluate_s=2, start_s=3, source="a")
    assert speed.times(0.5) == Speed(train_s=0.5, evaluate_s=1, start_s=1.5, source="a")


def test_several_cards_are_taken_to_be_as_many_times_as_fast() -> None:
    speed = Speed(train_s=0.01, evaluate_s=0.1, start_s=5, source="measured")
    assert speed.trial_s(evaluations=3, dialogues=1000, dev_dialogues=50, cards=2) == 27.5


def test_a_plan_for_a_stranger_to_the_team_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team.yaml").write_text("members:\n  minji: {quota_gpus: 1}\n")
    (tmp_path / "small.yaml").write_text(
        "name: small\nmethod: grid\nparameters:\n  learning_rate: {values: [1e-3, 1e-2]}\nteam: {member: mina}\n"
    )
    with pytest.raises(RequestError, match=r"member 'mina' is not in team.yaml; known: minji"):
        main(["plan", "small.yaml", "--cpu-only"])
