"""Reports on populations: whose weights the winner has, and which values it had when."""

import dataclasses
from pathlib import Path

from tests.tune_jobs.analysed import analysed, chart, titles, trial
from tests.tune_jobs.synthetic import METRIC, SPACE, sweep_record, write
from tune_jobs.analysis.lineage import best_evaluation, copies_of, weight_history
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.report.build import build_report
from tune_jobs.report.charts_lineage import copy_rows, path_rows, winner_path
from tune_jobs.report.drawing import Polyline
from tune_jobs.report.summary import headline


def copied(donor: int, evaluation: int, before: float, after: float) -> dict[str, object]:
    return {
        "donor": donor, "evaluation": evaluation, "donor_evaluation": evaluation, "before": {"learning_rate": before},
        "changes": [f"learning_rate {after / 0.8:.8g} -> {after:.8g}: x 0.8"],
    }  # fmt: skip


def population() -> list[TrialRecord]:
    """Trial 3 wins: it took over from 1 after two evaluations, which had started from 2 after one."""
    return [
        trial(1, [5.0, 12.0, 13.0], sampled={"learning_rate": 4e-4}, lineage=[copied(2, 1, 1e-3, 4e-4)]),
        trial(2, [8.0, 9.0, 10.0], sampled={"learning_rate": 5e-4}),
        trial(3, [4.0, 6.0, 20.0, 14.0], sampled={"learning_rate": 9e-5},
              lineage=[copied(1, 2, 2e-3, 3.2e-4), copied(2, 3, 3.2e-4, 9e-5)]),
    ]  # fmt: skip


def test_a_population_is_shown_with_the_values_of_its_best_evaluation(tmp_path: Path) -> None:
    found = analysed(population(), method="pbt", parameters={"learning_rate": SPACE["learning_rate"]})
    assert found.winner is not None
    assert found.winner.trial.sampled == {"learning_rate": 3.2e-4}  # and not those of its end, 9e-5
    assert headline(found) == "Best: learning rate 3.2e-4"
    assert titles(found) == ["Use the winner"]
    folder = write(tmp_path, population(), sweep_record(method="pbt", trials=3))
    text = build_report(folder.path).best_config.read_text(encoding="utf-8")  # type: ignore[union-attr]
    assert "these alone do not train it again" in text


def test_the_weight_history_the_winners_weights_is_traced_through_other_trials() -> None:
    found = analysed(population(), method="pbt")
    legs = [(leg.trial_id, leg.first, leg.last, leg.values["learning_rate"]) for leg in winner_path(found)]
    assert legs == [("2", 0, 1, 5e-4), ("1", 1, 2, 4e-4), ("3", 2, 3, 3.2e-4)]
    assert path_rows(found)[1] == [
        ("1", "2", "5e-4"),
        ("2", "1", "4e-4"),
        ("3", "3", "3.2e-4"),
    ]
    assert copy_rows(found)[1] == [
        ("1", "1", "2", "learning_rate 5e-4 → 4e-4: x 0.8"),
        ("2", "3", "1", "learning_rate 4e-4 → 3.2e-4: x 0.8"),
        ("3", "3", "2", "learning_rate 1.12e-4 → 9e-5: x 0.8"),
    ]


def test_lineage_is_drawn_with_an_arrow_for_each_copy_and_the_winner_path_thick() -> None:
    found = analysed(population(), method="pbt")
    drawing = chart(found, "lineage", 1064.0)
    arrows = [s for s in drawing.shapes if isinstance(s, Polyline) and s.ink == "muted" and len(s.points) == 2]
    assert len(arrows) == 3
    assert any("trial 1 went on with the weights of trial 2\nlearning_rate 5e-4 → 4e-4" in one.tip for one in arrows)
    thick = [s for s in drawing.shapes if isinstance(s, Polyline) and s.width == 4.0]
    assert len(thick) == 3
    schedule = chart(found, "schedule-learning_rate")
    (way,) = [s for s in schedule.shapes if isinstance(s, Polyline) and s.width == 3.0]
    assert len({y for _, y in way.points}) == 3  # three values, one after another


def test_a_way_through_a_torn_ledger_ends() -> None:
    round_about = [
        trial(1, [1.0, 2.0], lineage=[copied(2, 2, 1e-3, 1e-4) | {"evaluation": 1}]),
        trial(2, [1.0, 2.0], lineage=[copied(1, 2, 1e-3, 1e-4) | {"evaluation": 1}]),
    ]
    assert len(weight_history("1", 2, {one.trial_id: one for one in round_about})) <= 3
    assert [leg.trial_id for leg in weight_history("1", 2, {"1": round_about[0]})] == ["1"]
    assert best_evaluation(trial(1, [3.0, 5.0, 5.0]), METRIC, "maximize") == 2


def test_trials_of_a_stage_find_their_donors() -> None:
    one = dataclasses.replace(population()[0], trial_id="wide-1")
    assert copies_of(one)[0].donor_id == "wide-2"
