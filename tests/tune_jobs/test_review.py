"""The review tells in words what a sweep found, what is odd and what to do, and never overwrites a person's notes.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/tune_jobs/test_review.py, then read the diff in git.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import METRIC, START, sweep_record, wide_ledger, write
from tests.tune_jobs.test_compare import summaries
from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.commands import review_cli
from tune_jobs.records.ledger import Ledger, TrialRecord
from tune_jobs.report.anomalies import find_anomalies
from tune_jobs.report.build import build_report
from tune_jobs.report.findings import find_findings
from tune_jobs.report.review import build_review, find_improvements, is_edited, write_review
from tuning_common.errors import RequestError

GOLDEN = Path(__file__).parents[1] / "golden" / "review.md"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    review_cli.add_arguments(parser)
    return parser.parse_args(words)


def trial(number: int, score: float, **changes: object) -> TrialRecord:
    row = {METRIC: score, "eval/loss": 2.0, "wall_s": 10.0}
    record = TrialRecord(
        trial_id=str(number), name=f"t{number}", sweep="s", status="finished", sampled={"learning_rate": number * 1e-5},
        history=[dict(row), {**row, "wall_s": 20.0}], wall_s=25.0, started_at=START, ended_at=START + 25,
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def oddities(*trials: TrialRecord, texts: tuple[str, ...] = ()) -> list[str]:
    ledger = Ledger(sweep=sweep_record(baseline=None), trials=trials)
    written = [Summary(fname=str(n), dialogue="d", references=("r",), prediction=text) for n, text in enumerate(texts)]
    return find_anomalies(analyse(ledger), written)


@pytest.fixture
def seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock shows Korean time."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "KST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("seoul")
def test_the_review_of_a_search_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(Path("outputs/sweep_results/wide"), wide_ledger(32)).path
    text = build_review(find_findings(folder))
    if os.environ.get("GOLDEN_ACCEPT"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_review_and_page_lead_to_the_report_at_wandb(tmp_path: Path) -> None:
    url = "https://wandb.ai/lab/p/reports/Sweep-a--Vmlld"
    folder = write(tmp_path / "wide", wide_ledger(8), sweep_record(wandb_report=url)).path
    findings = find_findings(folder)
    assert f"* [W&B report]({url})\n" in build_review(findings)
    report = build_report(folder, findings)
    assert f'<a href="{url}">W&amp;B report' in report.html.read_text(encoding="utf-8")
    assert f"[W&B report: the runs of this sweep]({url})" in report.markdown.read_text(encoding="utf-8")
    foul = write(tmp_path / "foul", wide_ledger(8), sweep_record(wandb_report="javascript:alert(1)")).path
    assert "javascript" not in build_report(foul).html.read_text(encoding="utf-8")


def test_a_sweep_without_a_baseline_is_held_against_the_first_turns(tmp_path: Path) -> None:
    from dialsum.data import Example
    from dialsum.metrics import RougeScorer
    from dialsum.run_folder import write_predictions

    folder = tmp_path / "outputs" / "experiments" / "t1"
    examples, texts = summaries(0.9, 20, 1)
    told = [
        Example(fname=one.fname, dialogue=f"{one.summaries[0][:12]}\nx\ny\nz", summaries=one.summaries)
        for one in examples
    ]
    scorer = RougeScorer("en")
    references = [one.summaries for one in told]
    best = scorer.score(texts, references).combined()
    lead = scorer.score([one.dialogue.replace("\nz", "").replace("\n", " ") for one in told], references).combined()
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.jsonl", told, texts)
    won = trial(1, best, experiment_dir=str(folder), resolved={"language": "en", "model": "kobart"})
    sweep = write(tmp_path / "outputs" / "sweep_results" / "s", [won], sweep_record(baseline=None)).path
    (found,) = find_improvements(find_findings(sweep).analysis)
    assert (found.name, found.before, found.best) == ("lead-3", pytest.approx(lead), pytest.approx(best))
    assert found.percent == pytest.approx((best - lead) / lead * 100)


def test_losses_are_better_when_they_fall() -> None:
    ledger = Ledger(
        sweep=sweep_record(metric="eval/loss", goal="minimize", baseline={"before": 4.0}), trials=(trial(1, 9.0),)
    )
    (found,) = find_improvements(analyse(ledger))
    assert (found.before, found.best, found.percent) == (4.0, 2.0, 50.0)


def test_nothing_odd_is_found_in_an_ordinary_sweep() -> None:
    assert oddities(*(trial(n, 20.0 + n) for n in range(1, 7)), texts=("one", "two", "three")) == []


def test_odd_things_are_named() -> None:
    ordinary = [trial(n, 20.0 + n) for n in range(1, 6)]
    slow = trial(6, 20.5)
    slow.history[1]["wall_s"] = 60.0
    assert oddities(*ordinary, slow) == ["1 trial was slow, at worst 50 s for an evaluation where 10 s is usual: t6"]
    rising = trial(7, 20.6)
    rising.history.extend([{METRIC: 20.6, "eval/loss": loss, "wall_s": 30.0 + loss} for loss in (1.0, 1.2)])
    assert oddities(*ordinary, rising) == ["the dev loss of 1 trial rose by more than 10% from its lowest: t7"]
    fell = trial(8, 20.7)
    fell.history.append({METRIC: 3.0, "eval/loss": 2.0, "wall_s": 30.0})
    assert oddities(*ordinary, fell) == ["1 trial lost more than half of ROUGE combined F1 again: t8"]
    assert oddities(*ordinary, trial(9, 20.8, retries=2)) == ["1 trial were started again, 2 times in all: t9"]
    won = trial(10, 40.0, status="stopped")
    assert oddities(*ordinary, won) == ["the winner t10 did not run to its end: stopped early"]
    assert oddities(*(trial(n, 5.0) for n in range(1, 5))) == ["the same score for 4 trials: 5.00"]
    loop = "a b c " * 5
    assert oddities(*ordinary, texts=("", loop, *("same",) * 8)) == [
        "blank summaries of the winner: 1 of 10",
        "summaries of the winner that run in a loop: 1 of 10; no_repeat_ngram_size: 3 forbids it",
        "the winner writes the same summary for 8 of 10 dialogues: same",
    ]


def test_a_person_s_notes_are_never_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, wide_ledger(12))
    assert write_review(find_findings(tmp_path)) == folder.review
    assert not is_edited(folder.review)
    assert review_cli.run(arguments(str(tmp_path))) == 0
    assert capsys.readouterr().out.startswith("# Review of wide_대화요약\n")
    ticked = folder.review.read_text(encoding="utf-8").replace("- [ ]", "- [x]", 1)
    folder.review.write_text(ticked, encoding="utf-8")
    assert write_review(find_findings(tmp_path)) is None
    with pytest.raises(RequestError, match="--overwrite replaces it, with all notes and ticks"):
        review_cli.run(arguments(str(tmp_path)))
    assert folder.review.read_text(encoding="utf-8") == ticked
    assert review_cli.run(arguments(str(tmp_path), "--overwrite", "--format", "json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert not is_edited(folder.review)
    assert [one["name"] for one in answer["improvements"]] == ["lead-3", "median trial"]
    assert answer["recommendations"][0]["title"]


def test_sweeps_without_a_result_have_a_review_too(tmp_path: Path) -> None:
    text = build_review(find_findings(write(tmp_path, []).path))
    assert "No trial has a score." in text
    assert "- [ ] **Run the sweep**" in text


def test_report_and_review_count_the_texts_that_were_cut(tmp_path: Path) -> None:
    cut = "train.csv: 117 of 120 dialogues cut at 256 tokens (kobart)"
    folder = write(tmp_path, wide_ledger(8), sweep_record(cut_texts=[cut])).path
    findings = find_findings(folder)
    report = build_report(folder, findings)
    for text in (build_review(findings), report.html.read_text("utf-8"), report.markdown.read_text("utf-8")):
        assert cut in text
