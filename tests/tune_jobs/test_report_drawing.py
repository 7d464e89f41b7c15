"""Axes put numbers where they belong, pens draw every shape, and Korean text is drawn or the lack of a font is said."""

import itertools
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tune_jobs.synthetic import sweep_record, wide_ledger
from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.config.parameters import Parameter
from tune_jobs.records.ledger import Ledger, TrialRecord
from tune_jobs.report import picture
from tune_jobs.report.axes import Axis, duration_ticks, linear_ticks, log_ticks, parameter_axis
from tune_jobs.report.charts import find_charts
from tune_jobs.report.charts_memory import find_kinds, memory_points, memory_ratios
from tune_jobs.report.charts_space import heat_map_pair, score_axis, thinned
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.drawing import Cross, Dot, Drawing, Label, Polyline, Rectangle, shorten, text_width
from tune_jobs.report.svg import to_svg

SPANS = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
ONE_OF_EACH = (
    Polyline(points=((0.0, 0.0), (10.0, 5.25)), ink="accent", dashed=True, tip="a < b", trial="7"),
    Rectangle(x=1.0, y=2.0, width=3.0, height=4.0, ink="ramp3", outline="surface", radius=4.0),
    Dot(x=5.0, y=5.0, radius=3.0, ink="stopped", hollow=True),
    Cross(x=6.0, y=6.0, radius=3.0, ink="failed"),
    Label(x=1.0, y=9.0, text="대화 & 요약", anchor="middle", bold=True, halo=True),
)


@given(SPANS)
def test_linear_ticks_are_few_even_and_inside(span: tuple[float, float]) -> None:
    low, high = span
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    room = (high - low) * 1e-6 + 1e-9
    assert all(low - room <= tick <= high + room for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) - min(steps) <= max(steps) * 1e-3


@given(st.floats(1e-8, 1e3), st.floats(1.01, 1e6))
def test_log_ticks_are_inside_and_at_least_two(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert len(ticks) >= 2
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)


@given(SPANS, st.floats(0, 1), st.booleans())
def test_an_axis_keeps_the_order_and_its_ends(span: tuple[float, float], part: float, log: bool) -> None:
    low, high = (math.exp(end / 1e6) for end in span) if log else span
    axis = Axis(low=low, high=high, start=300.0, end=10.0, log=log)
    assert axis.at(low) == pytest.approx(300.0, abs=1e-3)
    assert axis.at(high) == pytest.approx(10.0, abs=1e-3)
    assert 10.0 - 1e-3 <= axis.at(low + part * (high - low)) <= 300.0 + 1e-3


@given(st.text(min_size=1, max_size=60), st.floats(20, 300))
def test_a_shortened_text_fits_and_keeps_its_ends(text: str, width: float) -> None:
    short = shorten(text, width)
    if short != text:
        assert text_width(short) <= width or len(short) <= 2
        assert short[0] == text[0]


@given(st.floats(0.5, 1e6), st.integers(2, 9))
def test_duration_ticks_start_at_zero_and_are_not_crowded(longest_s: float, count: int) -> None:
    ticks = duration_ticks(longest_s, count)
    assert ticks[0] == (0.0, "0")
    assert len(ticks) <= count + 1
    assert all(at_s <= longest_s + 1e-6 for at_s, _ in ticks)


def test_a_learning_rate_has_a_log_axis_and_categories_stand_apart() -> None:
    rates = Parameter(name="learning_rate", scale="log", values=(1e-5, 1e-3), low=1e-5, high=1e-3)
    axis, ticks = parameter_axis(rates, 0.0, 100.0)
    assert [text for _, text in ticks] == ["1e-5", "1e-4", "1e-3"]
    assert [place for place, _ in ticks] == pytest.approx([3.0, 50.0, 97.0])
    sizes = Parameter(name="batch_size", scale="category", values=(8, 16, 32), low=0.0, high=2.0)
    axis, ticks = parameter_axis(sizes, 0.0, 90.0)
    assert [(round(place), text) for place, text in ticks] == [(15, "8"), (45, "16"), (75, "32")]
    assert axis.at(sizes.position(16)) == 45.0


def test_svg_is_xml_with_every_shape_and_escaped_text() -> None:
    root = ElementTree.fromstring(to_svg(Drawing(width=20.0, height=10.0, shapes=ONE_OF_EACH, description='a "b"')))
    assert [child.tag for child in root] == ["polyline", "rect", "circle", "path", "text"]
    assert root.attrib["aria-label"] == 'a "b"'
    assert root[0].find("title").text == "a < b"  # type: ignore[union-attr]
    assert root[0].attrib["data-trial"] == "7"
    assert root[4].text == "대화 & 요약"


def test_the_picture_has_every_shape(tmp_path: Path) -> None:
    sheet = Drawing(width=40.0, height=20.0, shapes=ONE_OF_EACH, description="")
    content = picture._draw(sheet, ["DejaVu Sans"], {"대", "화", "요", "약"})
    assert content[:4] == b"\x89PNG"
    assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (44, 22)


def test_a_missing_korean_font_is_said_and_not_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_KOREAN_FONTS", ())
    analysis = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(4))))
    remarks = picture.write_picture(tmp_path / "a.png", analysis, [])
    assert len(remarks) == 1
    assert "fonts-noto-cjk" in remarks[0]
    assert (tmp_path / "a.png").exists()


def test_nothing_is_bold_where_a_font_of_the_picture_has_no_bold_face(caplog: pytest.LogCaptureFixture) -> None:
    assert picture.has_bold("DejaVu Sans")
    assert not picture.has_bold("cmr10")  # comes with matplotlib, in one weight
    title = Label(x=1.0, y=1.0, text="score", ink="ink", bold=True)
    sheet = Drawing(width=40.0, height=20.0, shapes=(title,), description="")
    picture._draw(sheet, ["DejaVu Sans", "cmr10"], set())
    assert caplog.messages == []


def test_latin_text_needs_no_korean_font() -> None:
    assert picture.choose_fonts(["learning rate 1e-5 · 3 ÷ 4 …"]) == (["DejaVu Sans"], set())


def test_hangul_is_drawn_where_a_font_has_it() -> None:
    fonts, missing = picture.choose_fonts(["대화 요약"])
    if missing:
        pytest.skip("no Korean font on this machine")
    assert len(fonts) == 2


def trial(number: int, start: float, end: float, share: float, **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "trial_id": str(number), "name": f"e{number}", "sweep": "s", "status": "finished", "node": "a", "card": "0",
        "started_at": start, "ended_at": end, "wall_s": end - start, "share": share,
    }  # fmt: skip
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def test_trials_on_one_card_lie_side_by_side_without_overlap() -> None:
    trials = (trial(1, 0, 100, 0.5), trial(2, 0, 40, 0.25), trial(3, 10, 80, 0.25), trial(4, 40, 100, 0.25))
    (lane,) = find_lanes(analyse(Ledger(sweep=sweep_record(cards=[]), trials=trials)))
    assert {bar.trial.trial_id: (bar.offset, bar.height) for bar in lane.bars} == {
        "1": (0.0, 0.5),
        "2": (0.5, 0.25),
        "3": (0.75, 0.25),
        "4": (0.5, 0.25),
    }
    assert lane.busy == pytest.approx((50 + 10 + 17.5 + 15) / 100)


def test_trials_without_a_card_share_the_machine() -> None:
    trials = (trial(1, 0, 100, 0.0, card=None), trial(2, 0, 50, 0.0, card=None), trial(3, 50, 100, 0.0, card=None))
    (lane,) = find_lanes(analyse(Ledger(sweep=sweep_record(cards=[]), trials=trials)))
    assert (lane.name, lane.shares, lane.busy) == ("a · CPU", False, 1.0)
    assert [bar.height for bar in lane.bars] == [0.5, 0.5, 0.5]


def test_an_idle_card_is_shown_as_idle() -> None:
    lanes = find_lanes(analyse(Ledger(sweep=sweep_record(), trials=(trial(1, 0, 10, 1.0, node="gpu-a"),))))
    assert [(lane.name, lane.busy) for lane in lanes] == [
        ("gpu-a · card 0 · RTX 3090", 1.0),
        ("gpu-a · card 1 · RTX 3090", 0.0),
        ("gpu-b · card 0 · A100 80GB", 0.0),
    ]


def test_memory_is_compared_like_with_like() -> None:
    estimate: dict[str, object] = {
        "device_bytes": 1000, "upper_bytes": 1100, "train_reserved_bytes": 700, "generate_reserved_bytes": 800,
    }  # fmt: skip
    points = memory_points(
        [
            trial(1, 0, 1, 0.5, estimate=estimate, measured={"device_bytes": 900.0}),
            trial(2, 0, 1, 0.5, estimate=estimate, measured={"reserved_bytes": 600.0}),
            trial(3, 0, 1, 0.5, estimate=estimate, measured={"host_rss_bytes": 5.0}),
            trial(4, 0, 1, 0.5),
        ]
    )
    assert [(p.estimate, p.upper, p.measured) for p in points] == [
        (1000.0, 1100.0, 900.0),
        (800.0, 880.0, 600.0),
        (1000.0, 1100.0, None),
    ]
    assert memory_ratios(points) == [0.75, 0.9]
    assert [len(kind.points) for kind in find_kinds(points)] == [1, 1, 1]


def test_a_diverged_trial_does_not_press_the_others_together() -> None:
    scores = [30.0, 29.0, 28.0, 27.0, 0.1]
    trials = tuple(trial(i, 0, 1, 0.5, history=[{"eval/rouge_combined_f1": score}]) for i, score in enumerate(scores))
    axis, beyond = score_axis(analyse(Ledger(sweep=sweep_record(), trials=trials)), 300.0, 0.0)
    assert beyond == 1
    assert axis.at(27.0) - axis.at(30.0) > 100.0


def test_the_heat_map_takes_the_two_most_important() -> None:
    names = ("learning_rate", "batch_size", "model")
    axes = [
        Parameter(name=name, scale="log" if i == 0 else "category", values=(1, 2), low=1.0, high=2.0)
        for i, name in enumerate(names)
    ]
    pair = heat_map_pair(axes, ["model", "learning_rate"])
    assert pair is not None
    assert [one.name for one in pair] == ["learning_rate", "model"]
    assert heat_map_pair(axes[:1], []) is None


def test_thinning_keeps_the_best() -> None:
    scored = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(100)))).scored
    few = thinned(scored, 30)
    assert len(few) == 30
    assert list(few[:10]) == list(scored[:10])
    assert len({one.trial.trial_id for one in few}) == 30
    assert thinned(scored, 500) == scored


@pytest.mark.parametrize("width", [338.0, 520.0, 1064.0])
def test_charts_keep_inside_their_drawing(width: float) -> None:
    analysis = analyse(Ledger(sweep=sweep_record(), trials=tuple(wide_ledger(20))))
    for chart in find_charts(analysis, Importances(reason="not asked")):
        if chart.draw is None:
            continue
        drawing = chart.draw(width)
        assert drawing.width == width
        for shape in drawing.shapes:
            if isinstance(shape, Polyline):
                ends = [end for point in shape.points for end in (point[0], width - point[0], point[1])]
            elif isinstance(shape, Rectangle):
                ends = [shape.x, width - shape.x - shape.width, shape.y, drawing.height - shape.y - shape.height]
            elif isinstance(shape, Label):
                part = {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor]
                left = shape.x - part * text_width(shape.text, shape.size)
                ends = [left + 12, shape.y, drawing.height - shape.y]
            else:
                assert isinstance(shape, (Dot, Cross))
                ends = [shape.x, width - shape.x, shape.y, drawing.height - shape.y]
            assert min(ends) >= -1.5, (chart.key, shape)
