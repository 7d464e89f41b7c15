"""Which trial starts next, on which GPU model, with how much of a card; a sweep before unequal cards."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest

from cluster.estimator.calibration import load_calibration
from cluster.machines.hardware import parse_simulated
from tests.tune_jobs.driver.driven_parts import GIB
from tests.tune_jobs.driver.driven_sweep import DrivenSweep, ObservedList, Setup
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.config.space import Categorical, Space
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.search.samplers import TpeSampler
from tuning_common.files import read_jsonl

UNEQUAL = "1xA:24GiB,1xB:80GiB"
USABLE_B = parse_simulated(UNEQUAL).pools[1].usable_bytes
NEEDS_GIB = {1: 4.0, 2: 70.0, 3: 30.0, 4: 4.0, 5: 70.0, 6: 70.0, 7: 70.0, 8: 70.0, 9: 4.0}


def unequal(order: Sequence[int] | None = None, cards: str = UNEQUAL, *, calibration: bool = False) -> Setup:
    """Trials start in another order than the list's."""
    return Setup(cards=cards, sampler=lambda: ObservedList(9, order), needs_gib=NEEDS_GIB, calibration=calibration)


def started(sweep: DrivenSweep) -> dict[int, tuple[str, float]]:
    """Starts all that can: model and share, by number."""
    return {
        number: (sweep.running[number].spec.gpu_model, sweep.running[number].spec.bundle.gpus)
        for number in sweep.start_all()
    }


def test_large_trials_at_the_head_of_the_queue_hold_up_no_card_that_they_do_not_fit(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, unequal((2, 5, 6, 7, 8, 3, 1, 4, 9)))
    assert started(sweep) == {2: ("B", 0.9), 1: ("A", 0.1875), 4: ("A", 0.1875), 9: ("A", 0.1875)}
    assert sweep.waiting == [5, 6, 7, 8, 3]
    submitted = [
        event["number"] for event in read_jsonl(tmp_path / "journal.jsonl")[0] if event["event"] == "submitted"
    ]
    assert submitted == [2, 1, 4, 9], "the others of a list are written when they are granted"
    sweep.end(2)
    assert started(sweep) == {5: ("B", 0.9)}


def test_a_process_gets_the_node_that_the_broker_chose(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, unequal((2, 1)))
    sweep.start_all()
    nodes = {number: sweep.running[number].spec.bundle.nodes for number in (1, 2)}
    names = {node.cards[0].model: node.name for node in parse_simulated(UNEQUAL).nodes}
    assert nodes == {1: (names["A"],), 2: (names["B"],)}


def test_a_resumed_driver_keeps_numbers_and_names_and_starts_the_others_in_their_order(tmp_path: Path) -> None:
    order = (3, 2, 5, 6, 7, 8, 1, 4, 9)
    first = DrivenSweep(tmp_path, unequal(order))
    begun = started(first)
    assert begun[3] == ("B", 0.4)
    assert {1, 4, 9} <= set(begun)
    first.end(1)
    second = DrivenSweep(tmp_path, unequal(order))
    again = started(second)
    assert again[3] == ("B", 0.4)
    assert {4, 9} <= set(again)
    assert 1 not in again
    assert {number: second.running[number].spec.name for number in (3, 4, 9)} == {3: "bs3", 4: "bs4", 9: "bs9"}
    assert second.progress().count("finished") == 1


def test_after_a_whole_card_comes_a_larger_model_and_then_the_reason(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards=UNEQUAL, sampler=lambda: ObservedList(3, (3,)), needs_gib=NEEDS_GIB))
    shares = []
    for _ in range(4):
        spec = sweep.start(3)
        shares.append((spec.gpu_model, spec.bundle.gpus))
        if len(shares) == 4:
            sweep.report(3, 1.0)
        sweep.fail(3, "out_of_memory", "no bytes")
    assert shares == [("B", 0.4), ("B", 0.625), ("B", 0.9375), ("B", 1.0)]
    record = sweep.records[3]
    assert (record.status, record.retries, record.share) == ("oom", 3, 1.0)
    assert record.error is not None
    assert record.error.message.startswith("no bytes; it had all that a card here can give: bs3: needs 7")
    assert "would fit with a card of at least" in record.error.message


def test_an_out_of_memory_on_a_whole_card_moves_the_trial_to_a_model_with_larger_cards(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards=UNEQUAL, sampler=lambda: ObservedList(2, (2, 1)), needs_gib=NEEDS_GIB))
    assert started(sweep) == {2: ("B", 0.9), 1: ("A", 0.1875)}
    for larger in (0.3, 0.5, 0.75, 1.0):
        sweep.fail(1, "out_of_memory")
        assert started(sweep) == {1: ("A", larger)}, "B is full"
    sweep.fail(1, "out_of_memory")
    assert "trial 1 failed and starts again: out of memory; a larger card is needed (broken)" in sweep.shown
    assert started(sweep) == {}
    sweep.end(2)
    assert started(sweep) == {1: ("B", 0.3)}
    spec = sweep.running[1].spec
    assert (spec.usable_bytes, spec.number, spec.name) == (USABLE_B, 1, "bs1")
    sweep.report(1, 1.0)
    sweep.end(1)
    record = sweep.records[1]
    assert (record.status, record.retries, record.share, record.gpu_model) == ("finished", 5, 0.3, "B")
    assert record.estimate is not None
    assert record.estimate["cap_bytes"] == int(USABLE_B * 0.3)


def test_a_cluster_that_lost_its_large_cards_refuses_what_needs_them_instead_of_waiting(tmp_path: Path) -> None:
    setup = Setup(cards=UNEQUAL, sampler=lambda: ObservedList(2, (2,)), needs_gib=NEEDS_GIB)
    assert started(DrivenSweep(tmp_path, setup)) == {2: ("B", 0.9)}
    smaller = Setup(cards="1xA:24GiB", sampler=lambda: ObservedList(2, (2,)), needs_gib=NEEDS_GIB)
    second = DrivenSweep(tmp_path, smaller)
    assert second.state.is_over
    error = second.records[2].error
    assert error is not None
    assert "needs 70.0 GiB on one card, found 1 x A (simulated)" in error.message


def test_peaks_go_to_the_ledger_and_the_calibration_also_of_a_trial_that_ran_out_of_memory(tmp_path: Path) -> None:
    setup = Setup(cards=UNEQUAL, sampler=lambda: ObservedList(9, (1, 3, 9)), needs_gib=NEEDS_GIB, calibration=True)
    sweep = DrivenSweep(tmp_path, setup)
    begun = started(sweep)
    assert set(begun) == {1, 3, 9}
    model, _ = begun[1]

    def measured(number: int, gib: float) -> None:
        sweep.report(
            number,
            1.0,
            trial__torch="2.13.0",
            trial__held_bytes=gib * GIB,
            memory__allocated_bytes=(gib - 1.5) * GIB,
            memory__reserved_bytes=(gib - 0.5) * GIB,
            memory__device_bytes=70.0 * GIB,
            trial__micro_batch=1,
            trial__accumulation=1,
            trial__gradient_checkpointing=False,
        )

    measured(1, 3.5)
    measured(1, 3.0)
    measured(3, 31.0)
    sweep.fail(3, "out_of_memory")
    assert started(sweep) == {3: ("B", 0.625)}
    measured(3, 40.0)
    for number in (1, 3, 9):
        sweep.end(number)
    records = sweep.records
    peaks = {"allocated_bytes": 2.0 * GIB, "reserved_bytes": 3.0 * GIB, "device_bytes": 3.5 * GIB}
    assert records[1].measured == peaks, "the highest, and of the card only what the trial itself held"
    assert records[3].share == 0.625
    assert records[3].plan == {"micro_batch": 1, "accumulation": 1, "gradient_checkpointing": False}
    assert records[9].measured is None, "it never reported"
    kept = {peak.run: peak for peak in load_calibration(tmp_path / "calibration.jsonl").peaks}
    assert {name: (peak.measured_device_bytes, peak.outgrew) for name, peak in kept.items()} == {
        "bs1": (int(3.5 * GIB), False),
        "bs3": (int(USABLE_B * 0.625), True),
    }
    assert {(peak.predicted_device_bytes, peak.gpu) for peak in kept.values()} == {(4 * GIB, model), (30 * GIB, "B")}


def test_a_model_of_the_results_learns_no_score_from_a_trial_that_ran_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies: list[optuna.Study] = []
    create = optuna.create_study

    def kept(**options: object) -> optuna.Study:
        studies.append(create(**options))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", kept)
    space = Space(parameters=(Categorical(name="batch_size", options=tuple(NEEDS_GIB)),))
    setup = Setup(
        cards=UNEQUAL,
        sampler=lambda: TpeSampler(space, 4, goal="maximize", seed=0, startup_trials=1),
        needs_gib=NEEDS_GIB,
        submission=SubmissionLimits(waiting=1, together=1),
    )
    sweep = DrivenSweep(tmp_path, setup)
    sweep.start(1)
    sweep.report(1, 99.0)
    while 1 not in sweep.statuses:
        if 1 not in sweep.running:
            sweep.start(1)
        sweep.fail(1, "out_of_memory")
    assert (sweep.statuses[1], sweep.records[1].best_metrics[METRIC]) == ("oom", 99.0)
    observed = [trial for trial in studies[0].trials if trial.state.is_finished()]
    assert [(trial.state.name, trial.value, trial.intermediate_values) for trial in observed] == [("FAIL", None, {})]


def test_a_sampler_that_learns_suggests_no_more_than_few_ahead(tmp_path: Path) -> None:
    space = Space(parameters=(Categorical(name="batch_size", options=(10, 11, 12)),))
    setup = Setup(
        cards="2xA:24GiB",
        sampler=lambda: TpeSampler(space, 12, goal="maximize", seed=0, startup_trials=1),
        submission=SubmissionLimits(waiting=2, together=8),
    )
    sweep = DrivenSweep(tmp_path, setup)
    assert sweep.start_all() == [1, 2, 3, 4]
    assert (sweep.waiting, len(sweep.trials)) == ([5, 6], 6)
    sweep.end(1)
    assert (sweep.send(), sweep.waiting) == ([5], [6, 7])


def test_a_limit_of_trials_side_by_side_is_the_brokers(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(submission=SubmissionLimits(running=2)))
    assert sweep.start_all() == [1, 2]
    sweep.end(1)
    assert sweep.start_all() == [3]
