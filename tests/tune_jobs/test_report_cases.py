"""Reports say nothing false of sweeps that are small, tied, sad, seeded or under way."""

import argparse
import fcntl
import re
from pathlib import Path

from tests.tune_jobs.analysed import analysed, commands, reasons, titles, trial
from tests.tune_jobs.synthetic import METRIC, SPACE, START, sweep_record, wide_ledger, write
from tune_jobs.commands import run_cli
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import TrialError, TrialRecord
from tune_jobs.report.build import build_report
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.findings import find_findings
from tune_jobs.report.summary import headline, runs_table, tiles

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


def test_a_winner_that_ran_on_several_cards_is_trained_again_on_as_many() -> None:
    plan = {"micro_batch": 1, "accumulation": 1, "gradient_checkpointing": True, "ranks": 4, "sharded": True}
    found = [commands(analysed([trial(1, [1.0], plan=given)]))[-1] for given in (None, plan)]
    rest = "-m dialsum train --config folder/best_config.yaml --output outputs/again"
    assert found == [f"python {rest}", f"torchrun --nproc-per-node 4 {rest}"]


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
        "Fix the most frequent failure",
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


# under way


def test_a_sweep_that_is_not_complete_says_so_and_how_to_resume(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", wide_ledger(9), sweep_record(trials=12))
    page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert "Best so far: " in page
    assert '<span class="badge">not complete</span>' in page
    assert "3 trials have not ended" in page
    assert "--resume" in page


def test_a_sweep_that_runs_now_is_not_told_to_go_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", wide_ledger(9), sweep_record(trials=12))
    with (tmp_path / ".s.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert '<span class="badge">still running</span>' in page
    assert "the sweep is running" in page
    assert "--resume" not in page


def test_trials_that_are_not_over_come_from_the_journal(tmp_path: Path) -> None:
    folder = write(tmp_path, [trial(1, [20.0], sampled={"learning_rate": 1e-4})], sweep_record(trials=3))
    journal = Journal(tmp_path / FILE_NAME)
    for number in (1, 2, 3):
        spec = {"name": f"e{number}", "sweep": "s", "sampled": {"learning_rate": number * 1e-4}, "config": {}}
        journal.write("submitted", number, spec=spec)
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


def test_a_sweep_without_reports_shows_no_cards_or_costs(tmp_path: Path) -> None:
    """As a real sweep that was interrupted before its first evaluation."""
    command = "python -m tune_jobs run a.yaml --output /nas/results"
    folder = write(tmp_path, [], sweep_record(trials=3, command=command, source="a.yaml"))
    journal = Journal(tmp_path / FILE_NAME)
    for number in (1, 2):
        journal.write("submitted", number, spec={"name": f"e{number}", "sampled": {"learning_rate": number * 1e-4}})
        journal.write("started", number, bundle={"gpus": 0.5}, at=START + 0.1 * number, elapsed_s=0.1 * number)
    page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert "No trial has a score yet" in page
    assert "without a GPU" not in page  # it holds one, of which no time was told yet
    assert "no trial has reported since its start" in page
    assert "the 0 trials of all_results.jsonl beside this file, and of 2 trials under way from journal.jsonl" in page
    assert "python -m tune_jobs run a.yaml --output /nas/results --resume" in page  # and not into another folder


def test_how_to_resume_names_where_the_results_are() -> None:
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    chosen = parser.parse_args(["a.yaml", "--output", "/nas/my results", "--simulate", "1x24GiB"])
    assert run_cli._how_to_resume(chosen).endswith(
        "resume with: python -m tune_jobs run a.yaml --output '/nas/my results' --simulate 1x24GiB --resume"
    )


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
