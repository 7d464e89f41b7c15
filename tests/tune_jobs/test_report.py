"""Reports are whole and true for every kind of sweep, also the sad ones."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dialsum.metrics import RougeScorer
from tests.tune_jobs.synthetic import METRIC, START, sweep_record, wide_ledger, write
from tune_jobs.records.ledger import SweepFolder, SweepRecord, TrialError, TrialRecord
from tune_jobs.report.build import ReportPaths, build_report
from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl


class Checker(HTMLParser):
    """Keeps tags balanced and notes what a page would load from elsewhere."""

    VOID = ("meta", "br", "polyline", "rect", "circle", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(paths: ReportPaths) -> str:
    """Checks what holds for every report and returns the page."""
    page = paths.html.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert (checker.open, checker.loads) == ([], [])
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S))
    assert paths.picture.read_bytes().startswith(b"\x89PNG")
    assert paths.markdown.read_text(encoding="utf-8").startswith("# ")
    return page


def trial(number: int, score: float | None, **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "trial_id": str(number),
        "name": f"e{number}",
        "sweep": "s",
        "status": "finished" if score is not None else "failed",
        "history": [] if score is None else [{METRIC: score, "train/epoch": 1.0}],
        "started_at": START,
        "ended_at": START + 60.0,
        "wall_s": 60.0,
    }
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def test_a_full_sweep_is_reported_with_all_its_parts(tmp_path: Path) -> None:
    paths = build_report(write(tmp_path, wide_ledger()).path)
    page = check(paths)
    for words in ("지민", "simulated cards", "tie", "GPU-hours", "lead-3", "narrow", "요약(summary) is empty"):
        assert words in page
    assert "Not drawn" not in page
    assert page.count("<svg") == 2 * 12  # twelve charts, for a laptop and for a phone
    assert page.count('<tr data-trial="') + page.count('<tr class="best"') == 20
    text = paths.markdown.read_text(encoding="utf-8")
    assert "| gpu-b · card 0 · A100 80GB |" in text
    assert "Measured ÷ estimate over 30 trials: median 1.0" in text
    assert paths.best_config == tmp_path / "best_config.yaml"
    assert "model: kobart" in paths.best_config.read_text(encoding="utf-8")


def test_an_empty_sweep_says_that_nothing_has_run(tmp_path: Path) -> None:
    paths = build_report(write(tmp_path, []).path)
    page = check(paths)
    assert "No trial has run yet" in page
    assert "python -m tune_jobs run tune_jobs/sweeps/wide_search.yaml" in page
    assert "<svg" not in page
    assert paths.best_config is None


def test_a_sweep_of_failures_says_why_and_draws_what_there_is(tmp_path: Path) -> None:
    error = TrialError(type="DataError", message="row 3: <b>empty & bad</b>", where="a/training.log")
    trials = [trial(i, None, error=error, sampled={"learning_rate": 10.0**-i}) for i in (3, 4, 5)]
    refused = trial(6, None, status="refused", started_at=None, ended_at=None, wall_s=0.0)
    page = check(build_report(write(tmp_path, [*trials, refused], sweep_record(trials=4)).path))
    assert "None of the 4 trials has a score" in page
    assert "3 of 4 trials: row 3: &lt;b&gt;empty &amp; bad&lt;/b&gt;" in page
    assert "How far apart are the best?: no trial has a score" in page
    assert "no reason was recorded" in page


def test_ties_are_named_as_ties(tmp_path: Path) -> None:
    trials = [trial(i, 20.0, sampled={"learning_rate": 10.0**-i, "batch_size": 8 * i}) for i in (1, 2, 3)]
    page = check(build_report(write(tmp_path, trials, sweep_record(trials=3)).path))
    assert "tied with 2 others" in page
    assert page.count('<span class="tie">') == 2
    assert "with three seeds each" in page


@pytest.mark.parametrize("count", [1, 2, 9])
def test_one_parameter_needs_no_comparison(tmp_path: Path, count: int) -> None:
    trials = [trial(i, 20.0 + i, sampled={"learning_rate": 1e-5 * 3**i}) for i in range(count)]
    page = check(build_report(write(tmp_path, trials).path))
    shown = "no parameter took" if count == 1 else "only learning_rate took"
    assert f"{shown} more than one value" in page
    assert ("only one configuration has a score" in page) is (count == 1)


def test_trials_without_settings_times_or_estimates_are_still_ranked(tmp_path: Path) -> None:
    bare = [trial(i, score, started_at=None, ended_at=None, wall_s=0.0) for i, score in enumerate((5.0, 9.0))]
    page = check(build_report(write(tmp_path, bare, sweep_record(cards=[], trials=2)).path))
    assert '<h1><span class="nb">Best: e1</span></h1>' in page
    assert "no trial has a memory estimate" in page
    assert "no parameter took more than one value" in page


def test_a_loss_is_minimised_and_its_noise_is_not_known(tmp_path: Path) -> None:
    sweep = SweepRecord(sweep="loss", metric="eval/loss", goal="minimize")
    trials = [
        trial(i, None, status="finished", history=[{"eval/loss": loss}], sampled={"learning_rate": loss / 1e5})
        for i, loss in enumerate((3.0, 2.0, float("nan"), 9.0))
    ]
    paths = build_report(write(tmp_path, trials, sweep).path)
    page = check(paths)
    assert "ahead by 1" in page
    assert paths.analysis.winner is not None
    assert (paths.analysis.winner.trial.trial_id, paths.analysis.winner.score) == ("1", 2.0)
    assert "simulated" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_a_running_sweep_can_be_read(tmp_path: Path) -> None:
    running = trial(1, 12.0, status="running", ended_at=None, sampled={"learning_rate": 1e-4})
    page = check(build_report(write(tmp_path, [running]).path))
    assert "1 of 32" in page
    assert "Let the sweep end" in page


def test_a_torn_ledger_is_reported_with_a_remark(tmp_path: Path) -> None:
    folder = write(tmp_path, wide_ledger(3))
    with folder.ledger.open("a") as stream:
        stream.write('{"event": "tri')
    assert "1 torn line of the ledger could not be read" in check(build_report(folder.path))


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="none does not exist; give the folder of a sweep, outputs/"):
        build_report(SweepFolder(tmp_path / "none").path)
    folder = write(tmp_path / "sweep_results" / "a", wide_ledger(1)).path
    with pytest.raises(RequestError) as told:
        build_report(tmp_path)
    assert str(told.value) == f"{tmp_path}: no all_results.jsonl in it; give the folder of a sweep: {folder}"


def test_reports_of_one_ledger_are_alike(tmp_path: Path) -> None:
    one, other = (build_report(write(tmp_path / name, wide_ledger(12)).path) for name in ("a", "b"))
    page, other_page = (paths.html.read_text(encoding="utf-8") for paths in (one, other))
    assert page.replace(str(tmp_path / "a"), "X") == other_page.replace(str(tmp_path / "b"), "X")
    assert one.picture.read_bytes() == other.picture.read_bytes()


def write_predictions(path: Path, texts: list[str]) -> None:
    path.mkdir(parents=True)
    for i, text in enumerate(texts):
        row = {
            "fname": f"d{i}",
            "dialogue": f"#Person1#: number {i}?\n#Person2#: <i>yes</i>.",
            "references": [f"#Person1# asks about number {i} and hears yes."],
            "prediction": text,
        }
        append_jsonl(path / "predictions.jsonl", row)


def summarised(path: Path, number: int, texts: list[str], **resolved: object) -> TrialRecord:
    """A trial whose score is that of its summaries."""
    write_predictions(path, texts)
    references = [[f"#Person1# asks about number {i} and hears yes."] for i in range(len(texts))]
    score = RougeScorer("en").score(texts, references).combined()
    return trial(
        number, score, experiment_dir=str(path), sampled={"learning_rate": 10.0**-number},
        resolved={"model": "t5", "language": "en", **resolved},
    )  # fmt: skip


def test_the_summaries_of_the_best_two_are_compared_and_shown(tmp_path: Path) -> None:
    good = [f"#Person1# asks about number {i} and hears {'yes' if i % 3 else 'no'}." for i in range(40)]
    poor = [f"#Person1# asks about number {i}." for i in range(40)]
    trials = [summarised(tmp_path / "good", 1, good), summarised(tmp_path / "poor", 2, poor)]
    paths = build_report(write(tmp_path / "sweep", trials).path)
    page = check(paths)
    paired = paths.analysis.paired
    assert paired is not None
    assert (paired.count, paired.is_clear, paths.analysis.sureness) == (40, True, "clear")
    assert paired.mean == pytest.approx(trials[0].history[0][METRIC] - trials[1].history[0][METRIC], abs=1e-6)  # type: ignore[operator]
    assert "on 40 other dialogues it would be +" in page
    assert page.count('<div class="example">') == 3
    assert "&lt;i&gt;yes&lt;/i&gt;" in page
    assert "| 100.0 | d1 |" in paths.markdown.read_text(encoding="utf-8")


def test_summaries_that_are_not_those_of_the_score_are_left_out(tmp_path: Path) -> None:
    first = summarised(tmp_path / "one", 1, ["#Person1# asks about number 0 and hears yes."])
    other_score = dataclasses.replace(first, history=[{METRIC: 55.0}])
    missing = trial(2, 30.0, experiment_dir=str(tmp_path / "gone"), sampled={"learning_rate": 0.01})
    paths = build_report(write(tmp_path / "sweep", [other_score, missing]).path)
    assert paths.analysis.paired is None
    assert "What the winner writes" not in check(paths)


def test_what_a_rule_changed_is_shown_as_sampled_and_as_run(tmp_path: Path) -> None:
    scored = [
        trial(number, 20.0 + number, sampled={"learning_rate": number * 1e-5, "batch_size": 16})
        for number in range(1, 4)
    ]
    ruled = [dataclasses.replace(one, resolved={"learning_rate": 2e-4, "batch_size": 16}) for one in scored]
    text = build_report(write(tmp_path, ruled).path).markdown.read_text(encoding="utf-8")
    assert "| 3e-5 (run 2e-4) |" in text
    assert "(run 16)" not in text
