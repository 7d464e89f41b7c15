"""Reports say nothing false of sweeps that are small, tied, sad, seeded, under way, or populations."""

import argparse
import dataclasses
import fcntl
import re
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import CARDS, METRIC, SPACE, START, sweep_record, wide_ledger, write
from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.lineage import best_evaluation, copies_of, way_of
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.commands import run_cli
from tune_jobs.records.ledger import Ledger, SweepRecord, TrialError, TrialRecord
from tune_jobs.report.advice import advise
from tune_jobs.report.build import build_report
from tune_jobs.report.charts import find_charts
from tune_jobs.report.charts_lineage import copy_rows, way_rows, winners_way
from tune_jobs.report.charts_space import score_axis
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.drawing import Cross, Dot, Drawing, Label, Polyline
from tune_jobs.report.findings import find_findings
from tune_jobs.report.look import gpu_time
from tune_jobs.report.summary import headline, runs_table, tiles
from tune_jobs.running.journal import FILE_NAME, Journal


def trial(number: int, scores: list[float], **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "trial_id": str(number), "name": f"e{number}", "sweep": "s", "status": "finished", "seed": 42,
        "history": [{"iteration": i, METRIC: score, "train/epoch": i} for i, score in enumerate(scores, start=1)],
        "started_at": START, "ended_at": START + 60.0, "wall_s": 60.0,
    }  # fmt: skip
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def analysed(trials: list[TrialRecord], **changes: object) -> Analysis:
    sweep = sweep_record(**({"trials": len(trials), "cards": [], "baseline": None} | changes))
    return analyse(Ledger(sweep=sweep, trials=tuple(trials)))


def titles(analysis: Analysis) -> list[str]:
    return [one.title for one in advise(analysis, Importances(reason="not asked"), "folder", "")]


def chart(analysis: Analysis, key: str, width: float = 520.0) -> Drawing:
    found = {one.key: one for one in find_charts(analysis, Importances(reason="not asked"))}
    draw = found[key].draw
    assert draw is not None, found[key].reason
    return draw(width)


def words(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Label)]


def reasons(analysis: Analysis) -> dict[str, str]:
    return {one.key: one.reason for one in find_charts(analysis, Importances(reason="not asked")) if one.reason}


# one trial


def test_one_trial_is_told_with_its_settings_and_not_as_a_winner() -> None:
    one = analysed([trial(1, [10.0, 19.0, 18.5], sampled={"learning_rate": 1e-4, "batch_size": 8})], parameters=SPACE)
    assert headline(one) == "One trial: learning rate 1e-4, batch size 8"
    header, rows = runs_table(one)
    assert dict(zip(header, rows[0], strict=True)) | {"learning_rate": "1e-4", "batch_size": "8", "Score": "19.00"} == (
        dict(zip(header, rows[0], strict=True))
    )
    assert titles(one) == ["Run more trials before choosing", "Use the winner, or train it again"]
    assert reasons(one)["leaders"] == "one configuration has a score"
    assert reasons(one)["heat-map"] == "one trial has run, so no parameter has two values"


# ties


def test_where_everything_is_tied_nobody_is_sent_to_the_best_ones() -> None:
    same = [trial(i, [18.0, 20.0], sampled={"learning_rate": 10.0 ** -(1 + i / 4)}) for i in range(1, 10)]
    tied = analysed(same)
    assert headline(tied) == "Tied for best: learning rate 0.0562"
    assert titles(tied)[1] == "Widen the ranges, or evaluate on more dialogues"
    assert not any(title.startswith("Search") for title in titles(tied))
    assert {row[2] for row in runs_table(tied)[1][1:]} == {"0.00 tie"}


# failures


def test_what_failed_and_what_was_too_large_have_a_remedy_each() -> None:
    data, memory = (TrialError(type=kind, message=kind) for kind in ("DataError", "out_of_memory"))
    failed = [trial(i, [], status="failed", error=data) for i in (1, 2, 3)]
    too_large = [trial(i, [], status="oom", error=memory) for i in (4, 5)]
    assert titles(analysed([*failed, *too_large])) == [
        "Mend the most frequent failure",
        "Allow larger shares, a smaller max length or gradient checkpointing",
    ]
    assert headline(analysed([failed[0]])) == "The only trial has no score"


def test_a_trial_that_ended_without_a_score_is_not_lost(tmp_path: Path) -> None:
    trials = [
        trial(1, [20.0], sampled={"learning_rate": 1e-4}),
        trial(2, [], status="stopped"),
        trial(3, [float("nan")]),
    ]
    paths = build_report(write(tmp_path, trials, sweep_record(trials=3)).path)
    text = paths.markdown.read_text(encoding="utf-8")
    assert "| e2 | stopped early | it made no evaluation, so it has no score |" in text
    assert "| e3 | finished | its score was not a number |" in text
    page = paths.html.read_text(encoding="utf-8")
    assert "it made no evaluation, so it has no score" in page[page.index('id="failures"') :]


# seeds


def seeded() -> list[TrialRecord]:
    """The best single run is of the configuration whose mean is the poorer one."""
    scores = {1e-4: (25.0, 25.2, 25.1), 2e-4: (27.0, 23.0, 23.5)}
    return [
        trial(10 * place + seed, [score], seed=seed, sampled={"learning_rate": rate, "seed": seed},
              history=[{"iteration": 1.0, METRIC: score, "eval/rouge1_f1": score + 10.0}])
        for place, (rate, three) in enumerate(scores.items())
        for seed, score in enumerate(three)
    ]  # fmt: skip


def test_the_winner_over_seeds_is_the_one_with_the_best_mean() -> None:
    found = analysed(seeded(), method="grid")
    assert headline(found).endswith(": learning rate 1e-4")
    header, rows = runs_table(found)
    first = dict(zip(header, rows[0], strict=True))
    assert (first["Score"], first["R-1"]) == ("25.10 (3 seeds)", "35.10")  # all of them means
    assert tiles(found)[0].value == "25.10 ± 0.10"
    assert tiles(found)[0].detail.startswith("mean of 3 seeds, ± their sd")
    assert not any("with three seeds" in title for title in titles(found))


def test_runs_with_one_seed_do_not_measure_what_the_seed_does() -> None:
    twice = [trial(i, [20.0], sampled={"model": "t5"}) for i in (1, 2, 3)]
    other = [trial(4, [20.3], sampled={"model": "kobart"})]
    found = analysed([*twice, *other])
    assert [(one.runs_text, one.spread) for one in found.candidates] == [("", None), ("3 runs", None)]
    assert found.sureness == "tied"  # by the published noise, not by a spread of zero


# axes


def test_a_group_of_poor_trials_is_no_accident_and_stays_on_the_axis() -> None:
    scores = [27.0, 26.8, 26.6, 26.5, 19.0, 18.8, 18.6]
    found = analysed([trial(i, [score]) for i, score in enumerate(scores)])
    axis, beyond = score_axis(found, 300.0, 0.0)
    assert beyond == 0
    assert axis.low < 18.6


def test_what_lies_beyond_the_axis_is_said_above_the_dots() -> None:
    scores = [30.0, 29.0, 28.0, 27.0, 28.5, 27.5, 0.1]
    found = analysed([trial(i, [s], sampled={"learning_rate": 10.0 ** (-5 + i / 4)}) for i, s in enumerate(scores)])
    drawing = chart(found, "slice-learning_rate")
    (told,) = [s for s in drawing.shapes if isinstance(s, Label) and "beyond" in s.text]
    assert told.text == "1 trial beyond the bottom, drawn at its edge"
    assert all(shape.y > told.y + 10 for shape in drawing.shapes if isinstance(shape, Dot))


@pytest.mark.parametrize("width", [338.0, 520.0])
def test_every_category_has_its_name_below_the_axis(width: float) -> None:
    models = ["gogamza/kobart-base-v2-한국어대화요약-특별판", "/data/models/paust-pko-t5-base-finetuned", "tiny"]
    found = analysed([trial(i, [20.0 + i], sampled={"model": models[i % 3]}) for i in range(6)])
    drawing = chart(found, "slice-model", width)
    bottom = max(shape.y for shape in drawing.shapes if isinstance(shape, Label)) - 19
    names = [s for s in drawing.shapes if isinstance(s, Label) and abs(s.y - bottom) < 1 and s.anchor != "end"]
    assert len(names) == 3


def test_epochs_are_whole_where_all_evaluations_are() -> None:
    found = analysed([trial(i, [10.0, 12.0 + i]) for i in (1, 2)])
    assert "0.5" not in words(chart(found, "curves"))


def test_a_median_is_only_told_where_one_is_drawn() -> None:
    found = analysed([trial(i, [20.0 + i], sampled={"batch_size": 8 * i}) for i in (1, 2, 3)], parameters={})
    (note,) = [one.note for one in find_charts(found, Importances(reason="")) if one.key == "slice-batch_size"]
    assert "median" not in note


def test_a_small_cost_is_told_in_a_unit_that_a_person_takes() -> None:
    few = analysed([trial(1, [20.0], gpu_seconds=19.0, card="0", node="a", share=0.1)], cards=CARDS[:1])
    assert tiles(few)[2].value == "19 GPU-seconds"
    small = [trial(1, [20.0], gpu_seconds=3600.0), trial(2, [], status="failed", gpu_seconds=4.0)]
    assert "4 GPU-seconds · <1%" in words(chart(analysed(small), "cost"))


# under way


def test_a_sweep_that_is_not_complete_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", wide_ledger(9), sweep_record(trials=12))
    page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert "Best so far: " in page
    assert '<span class="badge">not complete</span>' in page
    assert "3 trials of it have no end yet" in page
    assert "--resume" in page


def test_a_sweep_that_runs_now_is_not_told_to_go_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", wide_ledger(9), sweep_record(trials=12))
    with (tmp_path / ".s.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert '<span class="badge">still running</span>' in page
    assert "it runs now" in page
    assert "--resume" not in page


def test_trials_that_are_not_over_come_from_the_journal(tmp_path: Path) -> None:
    folder = write(tmp_path, [trial(1, [20.0], sampled={"learning_rate": 1e-4})], sweep_record(trials=3))
    journal = Journal(tmp_path / FILE_NAME)
    for number in (1, 2, 3):
        order = {"name": f"e{number}", "sweep": "s", "sampled": {"learning_rate": number * 1e-4}, "config": {}}
        journal.write("ordered", number, order=order)
    times = {"at": START + 5.0, "elapsed_s": 5.0}
    journal.write("started", 2, bundle={"gpus": 0.5, "labels": {}}, **times)
    metrics = {METRIC: 22.0, "trial/node": "gpu-a", "trial/card": "0"}
    journal.write("reported", 2, evaluation=1, value=22.0, metrics=metrics, at=START + 9.0, elapsed_s=9.0)
    analysis = find_findings(folder.path).analysis
    assert [(one.trial_id, one.status) for one in analysis.ledger.trials] == [("1", "finished"), ("2", "running")]
    assert headline(analysis) == "Best so far: learning rate 2e-4"
    assert analysis.missing == 2
    (bar,) = [bar for lane in find_lanes(analysis) for bar in lane.bars if bar.trial.trial_id == "2"]
    assert (bar.start_at, bar.end_at, bar.share, bar.outcome) == (START + 5.0, START + 9.0, 0.5, "running")


# where it ran


def stint(start: float, end: float, **changes: object) -> dict[str, object]:
    return {"started_at": START + start, "ended_at": START + end, "share": 0.5, "node": "gpu-a", "card": "0",
            "ended": ""} | changes  # fmt: skip


def test_a_trial_that_gave_its_place_away_is_drawn_where_and_when_it_ran() -> None:
    turns = [
        trial(i, [20.0], share=0.5, node="gpu-a", card="0", started_at=START + 10 * i, ended_at=START + 50 + 10 * i,
              stints=[stint(10 * i, 10 * i + 10, ended="paused"), stint(40 + 10 * i, 50 + 10 * i)])
        for i in range(4)
    ]  # fmt: skip
    (lane,) = find_lanes(analysed(turns, cards=CARDS[:1]))
    assert lane.busy == pytest.approx(0.5)  # and not the whole time from its first start to its end
    assert len(lane.bars) == 8
    assert {bar.offset for bar in lane.bars} == {0.0}


def test_an_attempt_that_ran_out_of_memory_is_drawn_on_its_own_card() -> None:
    stints = [stint(0, 10, ended="out_of_memory"), stint(20, 60, card="1", share=1.0)]
    found = analysed([trial(1, [20.0], node="gpu-a", card="1", share=1.0, stints=stints)], cards=CARDS[:2])
    one, two = find_lanes(found)
    assert [(bar.outcome, bar.share) for bar in one.bars] == [("oom", 0.5)]
    assert [(bar.outcome, bar.share) for bar in two.bars] == [("finished", 1.0)]
    assert any(isinstance(shape, Cross) and shape.upright for shape in chart(found, "timeline", 1064.0).shapes)


def test_a_trial_that_ended_before_it_told_its_card_is_on_no_card_and_on_no_cpu() -> None:
    lost = trial(1, [], status="failed", share=0.5)
    lanes = find_lanes(analysed([lost], cards=CARDS[:1]))
    assert [(lane.name, lane.busy, len(lane.bars)) for lane in lanes] == [
        ("card not known: no evaluation told it", None, 1),
        ("gpu-a · card 0 · RTX 3090", 0.0, 0),
    ]


def test_a_trial_on_two_cards_is_drawn_on_both() -> None:
    both = trial(1, [20.0], node="gpu-a", card="0,1", share=2.0)
    lanes = find_lanes(analysed([both], cards=CARDS[:2]))
    assert [(lane.name, lane.busy) for lane in lanes] == [
        ("gpu-a · card 0 · RTX 3090", 1.0),
        ("gpu-a · card 1 · RTX 3090", 1.0),
    ]


def test_unequal_cards_of_one_machine_are_two_lanes() -> None:
    """As a real sweep on --simulate 1x24GiB,1x11GiB writes them: two raylets, each with a card 0."""
    cards = [{"node": "127.0.0.1", "card": "0", "gpu_model": f"simulated-{size}GiB"} for size in (24, 11)]
    trials = [
        trial(i, [20.0], node="127.0.0.2", card="0", gpu_model=f"simulated-{size}GiB", share=0.5)
        for i, size in enumerate((24, 11, 11))
    ]
    lanes = find_lanes(analysed(trials, cards=cards))
    assert [(lane.name, len(lane.bars), lane.busy) for lane in lanes] == [
        ("this machine · card 0 · simulated-11GiB", 2, 1.0),
        ("this machine · card 0 · simulated-24GiB", 1, 0.5),
    ]


def test_the_journal_notes_each_start_and_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / FILE_NAME)
    journal.write("ordered", 1, order={"name": "e1"})
    for place, (kind, content) in enumerate(
        [
            ("started", {"bundle": {"gpus": 0.5}}),
            ("reported", {"evaluation": 1, "value": 1.0, "metrics": {"trial/node": "a", "trial/card": "1"}}),
            ("retried", {"kind": "out_of_memory", "message": "too large"}),
            ("started", {"bundle": {"gpus": 1.0}}),
            ("paused", {"reason": "the others catch up"}),
            ("started", {"bundle": {"gpus": 1.0}}),
            ("ended", {"status": "finished", "reason": ""}),
        ]
    ):
        journal.write(kind, 1, at=float(place), elapsed_s=float(place), **content)
    expected = [
        {"started_at": 0.0, "ended_at": 2.0, "share": 0.5, "ended": "out_of_memory", "node": "a", "card": "1"},
        {"started_at": 3.0, "ended_at": 4.0, "share": 1.0, "ended": "paused"},
        {"started_at": 5.0, "ended_at": 6.0, "share": 1.0, "ended": ""},
    ]
    assert journal.trials[1].stints == expected
    assert Journal(tmp_path / FILE_NAME).trials[1].stints == expected


# populations


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


def test_the_way_of_the_winners_weights_is_traced_through_other_trials() -> None:
    found = analysed(population(), method="pbt")
    legs = [(leg.trial_id, leg.first, leg.last, leg.values["learning_rate"]) for leg in winners_way(found)]
    assert legs == [("2", 0, 1, 5e-4), ("1", 1, 2, 4e-4), ("3", 2, 3, 3.2e-4)]
    assert way_rows(found)[1] == [
        ("1", "2", "5e-4"),
        ("2", "1", "4e-4"),
        ("3", "3", "3.2e-4"),
    ]
    assert copy_rows(found)[1] == [
        ("1", "1", "2", "learning_rate 5e-4 → 4e-4: x 0.8"),
        ("2", "3", "1", "learning_rate 4e-4 → 3.2e-4: x 0.8"),
        ("3", "3", "2", "learning_rate 1.12e-4 → 9e-5: x 0.8"),
    ]


def test_lineage_is_drawn_with_an_arrow_for_each_copy_and_the_winners_way_thick() -> None:
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
    assert len(way_of("1", 2, {one.trial_id: one for one in round_about})) <= 3
    assert [leg.trial_id for leg in way_of("1", 2, {"1": round_about[0]})] == ["1"]
    assert best_evaluation(trial(1, [3.0, 5.0, 5.0]), METRIC, "maximize") == 2


def test_trials_of_a_stage_find_their_donors() -> None:
    one = dataclasses.replace(population()[0], trial_id="wide-1")
    assert copies_of(one)[0].donor_id == "wide-2"


# tables


def cells(page: str) -> list[str]:
    table = page[page.index('id="best-runs"') :]
    return re.findall(r"<td[^>]*>.*?</td>", table[: table.index("</table>")])


def test_columns_sort_by_numbers_also_where_a_cell_has_words(tmp_path: Path) -> None:
    long = "gogamza/kobart-base-v2-한국어대화요약-특별판-2026-11-25"
    trials = [
        trial(1, [20.0], sampled={"model": long, "batch_size": 8}, wall_s=3700.0),
        trial(2, [19.9], sampled={"model": "t5", "batch_size": 16}, wall_s=540.0),
    ]
    found = cells(build_report(write(tmp_path, trials, sweep_record(trials=2)).path).html.read_text(encoding="utf-8"))
    assert '<td data-value="3660">1 h 01 min</td>' in found
    assert '<td data-value="540">9 min</td>' in found
    assert any('data-value="-0.1"' in cell and "tie" in cell for cell in found)
    (cut,) = [cell for cell in found if f'title="{long}"' in cell]
    assert "…" in cut
    assert cut.endswith("2026-11-25</td>")  # names differ at their ends


def test_a_table_moves_sideways_by_the_keyboard_too(tmp_path: Path) -> None:
    page = build_report(write(tmp_path, wide_ledger(12)).path).html.read_text(encoding="utf-8")
    assert page.count('<div class="scroll" tabindex="0" role="region" aria-label=') == page.count('<div class="scroll"')


def test_no_outcome_is_told_by_its_colour_alone() -> None:
    statuses = ["finished", "stopped", "failed", "oom", "running"]
    trials = [
        trial(i, [20.0 - i], status=status, sampled={"learning_rate": 10.0**-i, "batch_size": 8 * i})
        for i, status in enumerate(statuses, start=1)
    ]
    drawing = chart(analysed([trial(0, [25.0], sampled={"learning_rate": 0.5, "batch_size": 4}), *trials]),
                    "slice-batch_size")  # fmt: skip
    marks = {shape.trial: shape for shape in drawing.shapes if shape.trial}
    one, two, three, four, five = (marks[str(number)] for number in range(1, 6))
    assert isinstance(one, Dot)
    assert isinstance(two, Dot)
    assert (one.hollow, two.hollow) == (False, True)
    assert isinstance(three, Cross)
    assert isinstance(four, Cross)
    assert (three.upright, four.upright) == (False, True)
    assert isinstance(five, Polyline)


def test_a_metric_starts_a_title_with_a_capital() -> None:
    sweep = SweepRecord(sweep="loss", metric="eval/loss", goal="minimize", trials=2)
    rows = [[{"iteration": 1.0, "eval/loss": loss}] for loss in (2.0, 3.0)]
    two = [trial(i, [], history=row, sampled={"learning_rate": 10.0**-i}) for i, row in enumerate(rows, start=3)]
    found = analyse(Ledger(sweep=sweep, trials=tuple(two)))
    assert tiles(found)[0].label == "Loss"
    assert "Loss against learning rate" in [one.title for one in find_charts(found, Importances(reason="no"))]


def test_charts_show_the_numbers_of_the_ledger() -> None:
    """Places are read back into numbers, by the axes that a reader has."""
    trials = wide_ledger(30)
    found = analysed(trials, parameters=SPACE, cards=CARDS)
    by_id = {one.trial.trial_id: one for one in found.scored}
    drawing = chart(found, "slice-learning_rate")
    ticks = {shape.text: shape.x for shape in drawing.shapes if isinstance(shape, Label) and shape.text[:3] == "1e-"}
    decade = ticks["1e-4"] - ticks["1e-5"]
    assert ticks["1e-3"] - ticks["1e-4"] == pytest.approx(decade)  # a log axis
    dots = {shape.trial: shape for shape in drawing.shapes if isinstance(shape, (Dot, Cross)) and shape.trial}
    assert set(dots) == set(by_id)
    for trial_id, dot in dots.items():
        read = 10 ** ((dot.x - ticks["1e-5"]) / decade - 5.0)
        assert read == pytest.approx(by_id[trial_id].trial.sampled["learning_rate"], rel=1e-6)
    cells = [text for text in words(chart(found, "heat-map")) if text.startswith("of ")]
    assert sum(int(text.removeprefix("of ")) for text in cells) == len(found.scored)
    curves = [s for s in chart(found, "curves").shapes if isinstance(s, Polyline) and s.trial]
    lengths = {s.trial: len(s.points) for s in curves if s.ink != "running"}
    assert lengths == {one.trial_id: len(one.history) for one in trials if len(one.history) > 1}
    spent = {status: sum(t.gpu_seconds for t in trials if t.status == status) for status in ("finished", "stopped")}
    costs = words(chart(found, "cost"))
    whole = sum(t.gpu_seconds for t in trials)
    for seconds in spent.values():
        assert f"{gpu_time(seconds)} · {seconds / whole:.0%}" in costs
    points = [t for t in trials if t.measured]
    memory = chart(found, "memory")
    dots_of = [s for s in memory.shapes if isinstance(s, (Dot, Cross)) and s.trial]
    assert len(dots_of) == len(points)
    gib = {s.text: s.x for s in memory.shapes if isinstance(s, Label) and s.text.isdigit()}
    unit = (gib["6"] - gib["2"]) / 4.0
    for dot in dots_of:
        (one,) = [t for t in points if t.trial_id == dot.trial]
        assert one.measured is not None
        assert (dot.x - gib["2"]) / unit + 2.0 == pytest.approx(one.measured["device_bytes"] / 2**30, rel=1e-6)


def test_a_sweep_of_which_nothing_was_heard_says_nothing_of_cards_or_costs(tmp_path: Path) -> None:
    """As a real sweep that was interrupted before its first evaluation."""
    command = "python -m tune_jobs run a.yaml --output /nas/results"
    folder = write(tmp_path, [], sweep_record(trials=3, command=command, source="a.yaml"))
    journal = Journal(tmp_path / FILE_NAME)
    for number in (1, 2):
        journal.write("ordered", number, order={"name": f"e{number}", "sampled": {"learning_rate": number * 1e-4}})
        journal.write("started", number, bundle={"gpus": 0.5}, at=START + 0.1 * number, elapsed_s=0.1 * number)
    page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert "No trial has a score yet" in page
    assert "without a GPU" not in page  # it holds one, of which no time was told yet
    assert "nothing was heard of a trial since its start" in page
    assert "the 0 trials of all_results.jsonl beside this file, and of 2 trials under way from journal.jsonl" in page
    assert "python -m tune_jobs run a.yaml --output /nas/results --resume" in page  # and not into another folder


def test_how_to_go_on_names_where_the_results_are() -> None:
    parser = argparse.ArgumentParser()
    run_cli.add_parser(parser.add_subparsers())
    chosen = parser.parse_args(["run", "a.yaml", "--output", "/nas/my results", "--simulate", "1x24GiB"])
    assert run_cli._how_to_go_on(chosen).endswith(
        "go on with: python -m tune_jobs run a.yaml --output '/nas/my results' --simulate 1x24GiB --resume"
    )
