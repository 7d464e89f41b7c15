"""Small sweeps made by hand, and what their analysis, advice and charts say."""

from tests.tune_jobs.synthetic import METRIC, START, sweep_record
from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.records.ledger import Ledger, TrialRecord
from tune_jobs.report.advice import advise
from tune_jobs.report.charts import find_charts
from tune_jobs.report.drawing import Drawing, Label


def trial(number: int, scores: list[float], **changes: object) -> TrialRecord:
    """A finished trial with a score for each of its evaluations."""
    values: dict[str, object] = {
        "trial_id": str(number), "name": f"e{number}", "sweep": "s", "status": "finished", "seed": 42,
        "history": [{"iteration": i, METRIC: score, "train/epoch": i} for i, score in enumerate(scores, start=1)],
        "started_at": START, "ended_at": START + 60.0, "wall_s": 60.0,
    }  # fmt: skip
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def analysed(trials: list[TrialRecord], **changes: object) -> Analysis:
    """The analysis of a sweep of these trials; `changes` are of the sweep."""
    sweep = sweep_record(**({"trials": len(trials), "cards": [], "baseline": None} | changes))
    return analyse(Ledger(sweep=sweep, trials=tuple(trials)))


def titles(analysis: Analysis) -> list[str]:
    """What the report advises."""
    return [one.title for one in advise(analysis, Importances(reason="not asked"), "folder", "")]


def commands(analysis: Analysis) -> list[str]:
    """The commands that go with it."""
    return [one.command for one in advise(analysis, Importances(reason="not asked"), "folder", "") if one.command]


def chart(analysis: Analysis, key: str, width: float = 520.0) -> Drawing:
    """One chart of the report, drawn."""
    found = {one.key: one for one in find_charts(analysis, Importances(reason="not asked"))}
    draw = found[key].draw
    assert draw is not None, found[key].reason
    return draw(width)


def words(drawing: Drawing) -> list[str]:
    """All that is written in a chart."""
    return [shape.text for shape in drawing.shapes if isinstance(shape, Label)]


def reasons(analysis: Analysis) -> dict[str, str]:
    """Why charts are left out."""
    return {one.key: one.reason for one in find_charts(analysis, Importances(reason="not asked")) if one.reason}
