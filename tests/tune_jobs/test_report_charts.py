"""Charts of a report show the numbers of the ledger, on axes and cards that a person can read."""

from pathlib import Path

import pytest

from tests.tune_jobs.analysed import analysed, chart, trial, words
from tests.tune_jobs.synthetic import CARDS, SPACE, START, wide_ledger
from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import Ledger, SweepRecord
from tune_jobs.report.charts import find_charts
from tune_jobs.report.charts_space import score_axis
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.drawing import Cross, Dot, Label, Polyline
from tune_jobs.report.formatting import gpu_time
from tune_jobs.report.summary import tiles

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


# signs and numbers


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


# where it ran


def attempt(start: float, end: float, **changes: object) -> dict[str, object]:
    return {"started_at": START + start, "ended_at": START + end, "share": 0.5, "node": "gpu-a", "card": "0",
            "ended": ""} | changes  # fmt: skip


def test_a_trial_that_gave_its_place_away_is_drawn_where_and_when_it_ran() -> None:
    turns = [
        trial(i, [20.0], share=0.5, node="gpu-a", card="0", started_at=START + 10 * i, ended_at=START + 50 + 10 * i,
              attempts=[attempt(10 * i, 10 * i + 10, ended="paused"), attempt(40 + 10 * i, 50 + 10 * i)])
        for i in range(4)
    ]  # fmt: skip
    (lane,) = find_lanes(analysed(turns, cards=CARDS[:1]))
    assert lane.busy == pytest.approx(0.5)  # and not the whole time from its first start to its end
    assert len(lane.bars) == 8
    assert {bar.offset for bar in lane.bars} == {0.0}


def test_an_attempt_that_ran_out_of_memory_is_drawn_on_its_own_card() -> None:
    attempts = [attempt(0, 10, ended="out_of_memory"), attempt(20, 60, card="1", share=1.0)]
    found = analysed([trial(1, [20.0], node="gpu-a", card="1", share=1.0, attempts=attempts)], cards=CARDS[:2])
    one, two = find_lanes(found)
    assert [(bar.outcome, bar.share) for bar in one.bars] == [("oom", 0.5)]
    assert [(bar.outcome, bar.share) for bar in two.bars] == [("finished", 1.0)]
    assert any(isinstance(shape, Cross) and shape.upright for shape in chart(found, "timeline", 1064.0).shapes)


def test_a_trial_that_ended_before_it_reported_its_card_is_on_no_card_and_on_no_cpu() -> None:
    lost = trial(1, [], status="failed", share=0.5)
    lanes = find_lanes(analysed([lost], cards=CARDS[:1]))
    assert [(lane.name, lane.busy, len(lane.bars)) for lane in lanes] == [
        ("card unknown: no evaluation reported it", None, 1),
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
    journal.write("submitted", 1, spec={"name": "e1"})
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
    assert journal.trials[1].attempts == expected
    assert Journal(tmp_path / FILE_NAME).trials[1].attempts == expected
