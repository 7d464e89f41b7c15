"""Clean-up frees what nobody needs, and never a winner, a sweep that goes on, or anything behind a link."""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import sweep_record, wide_ledger, write
from tune_jobs.after.cleaning import CleanPlan, plan_cleaning, remove
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.commands import clean_cli
from tune_jobs.records.ledger import Ledger, SweepFolder, TrialRecord
from tune_jobs.records.sweep_lock import alone
from tuning_common.bounds import lies_inside
from tuning_common.errors import RequestError

NOW = 1_800_000_000.0


def outputs(root: Path, name: str = "wide", count: int = 12, **sweep: object) -> tuple[Path, list[TrialRecord]]:
    """A finished sweep whose trials all left weights and a checkpoint."""
    output = root / "outputs"
    trials = []
    for trial in wide_ledger(count):
        folder = output / "experiments" / trial.name
        for inner in ("models/best_model", "checkpoint-3"):
            (folder / inner).mkdir(parents=True, exist_ok=True)
            (folder / inner / "model.safetensors").write_bytes(b"x" * 1000)
        (folder / "predictions.jsonl").write_text("{}\n")
        trials.append(replace(trial, experiment_dir=str(folder)))
    write(output / "sweep_results" / name, trials, sweep_record(sweep=name, **{"trials": count, **sweep}))
    (output / "sweep_results" / name / "tune").mkdir()
    (output / "sweep_results" / name / "tune" / "state").write_bytes(b"y" * 500)
    return output, trials


def plan(output: Path, keep: int = 2, cache: Path | None = None) -> CleanPlan:
    return plan_cleaning(output, cache or output / "no_cache", keep=keep, cache_days=7.0, now=NOW)


def test_the_best_models_stay_and_the_others_go(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    found = plan(output)
    ranked = [one.trial for one in analyse(Ledger(sweep=sweep_record(), trials=tuple(trials))).scored]
    assert sum(one.size_bytes for one in found.leftovers) == 500 + 12 * 1000 + 10 * 1000
    assert remove(found.leftovers) == []
    left = {path.parents[2].name for path in output.glob("experiments/*/models/best_model/*")}
    assert left == {trial.name for trial in ranked[:2]}
    assert not list(output.glob("experiments/*/checkpoint-*"))
    assert len(list(output.glob("experiments/*/predictions.jsonl"))) == 12
    assert plan(output).leftovers == ()


def test_the_winner_of_several_seeds_stays_though_a_single_trial_was_better(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    winner = analyse(Ledger(sweep=sweep_record(), trials=tuple(trials))).winner
    assert winner is not None
    remove(plan(output, keep=1).leftovers)
    assert (Path(winner.trial.experiment_dir) / "models/best_model/model.safetensors").exists()
    with pytest.raises(RequestError, match="the best model is never removed"):
        plan(output, keep=0)


def test_sweeps_that_run_or_can_be_resumed_are_not_touched(tmp_path: Path) -> None:
    output, _ = outputs(tmp_path, trials=20)
    found = plan(output)
    assert found.leftovers == ()
    assert found.kept == ("wide has not ended and can be resumed, so nothing of it is removed",)
    other, _ = outputs(tmp_path / "other")
    with alone(SweepFolder(other / "sweep_results" / "wide")):
        held = plan(other)
    assert (held.leftovers, held.kept) == ((), ("wide runs, so nothing of it is removed",))


def test_a_model_that_others_started_from_stays(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    poor = min(trials, key=lambda trial: max((row.get("eval/rouge1_f1") or 0 for row in trial.history), default=0.0))
    model = Path(poor.experiment_dir) / "models" / "best_model"
    later = replace(trials[0], name="later", trial_id="99", resolved={"model": str(model)}, experiment_dir="")
    write(output / "sweep_results" / "later", [later], sweep_record(sweep="later", trials=1))
    remove(plan(output).leftovers)
    assert (model / "model.safetensors").exists()


def repeated(output: Path, trial: TrialRecord, *, is_over: bool = True) -> Path:
    """A repetition of a trial: its weights, what an end by force leaves behind, and a result if it is over."""
    folder = output / "reproductions" / f"{trial.name}_1125_100000"
    for inner in ("models/best_model", "checkpoint-3", "cache"):
        (folder / inner).mkdir(parents=True)
        (folder / inner / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "metrics.json").write_text("{}")
    if is_over:
        (folder / "reproduction.json").write_text(json.dumps({"experiment": trial.experiment_dir, "outcome": "same"}))
    return folder


def ranked(trials: list[TrialRecord]) -> list[TrialRecord]:
    return [one.trial for one in analyse(Ledger(sweep=sweep_record(), trials=tuple(trials))).scored]


def test_weights_of_repetitions_go_and_what_they_say_stays(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    best, *_, poor = ranked(trials)
    folders = [repeated(output, best), repeated(output, poor)]
    found = plan(output)
    assert sum(one.size_bytes for one in found.leftovers if one.kind == "repetitions") == 6000
    assert remove(found.leftovers) == []
    for folder in folders:
        assert sorted(one.name for one in folder.iterdir()) == ["metrics.json", "models", "reproduction.json"]
        assert not (folder / "models" / "best_model").exists()
    assert (Path(best.experiment_dir) / "models/best_model/model.safetensors").exists()


def test_a_repetition_that_holds_the_only_copy_of_a_best_model_keeps_it(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    best, *_, poor = ranked(trials)
    gone = replace(best, name="gone", experiment_dir=str(output / "experiments" / "gone"))
    folders = [repeated(output, trial) for trial in (best, poor, gone)]
    for trial in (best, poor):
        shutil.rmtree(Path(trial.experiment_dir) / "models")
    found = plan(output)
    remove(found.leftovers)
    assert [(folder / "models/best_model/model.safetensors").exists() for folder in folders] == [True, False, True]
    assert f"{folders[0]} holds the only weights of {best.name}, which stay" in found.kept
    assert f"{folders[2]} holds the only weights of gone, which stay" in found.kept


def test_a_repetition_that_has_not_ended_or_was_started_from_is_left_alone(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    runs, source = repeated(output, trials[0], is_over=False), repeated(output, trials[1])
    model = str(source / "models" / "best_model")
    later = replace(trials[0], name="later", trial_id="99", resolved={"model": model}, experiment_dir="")
    write(output / "sweep_results" / "later", [later], sweep_record(sweep="later", trials=1))
    found = plan(output)
    remove(found.leftovers)
    assert (runs / "checkpoint-3" / "model.safetensors").exists()
    assert any(text.startswith(f"{runs} has no reproduction.json") for text in found.kept)
    assert (source / "models/best_model/model.safetensors").exists()
    assert not (source / "checkpoint-3").exists()


def test_nothing_behind_a_link_or_outside_is_removed(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "best_model").mkdir(parents=True)
    (elsewhere / "best_model" / "precious").write_text("x")
    for trial in trials:  # every way to point out of the folder
        shutil.rmtree(Path(trial.experiment_dir) / "models")
        (Path(trial.experiment_dir) / "models").symlink_to(elsewhere)
        (Path(trial.experiment_dir) / "checkpoint-9").symlink_to(elsewhere)
    (output / "sweep_results" / "wide" / "tune" / "link").symlink_to(elsewhere)
    outside = tmp_path / "outside" / "one"
    (outside / "models" / "best_model").mkdir(parents=True)
    (outside / "models" / "best_model" / "precious").write_text("x")
    named = replace(trials[0], trial_id="98", name="named", experiment_dir=str(outside), history=[], best_metrics={})
    write(output / "sweep_results" / "bad", [named], sweep_record(sweep="bad", trials=1))
    found = plan(output)
    remove(found.leftovers)
    assert (elsewhere / "best_model" / "precious").exists()
    assert (outside / "models" / "best_model" / "precious").exists()
    assert any("left alone" in text for text in found.kept)
    assert not list(output.glob("experiments/*/checkpoint-3"))


def test_experiments_behind_a_link_are_left_alone(tmp_path: Path) -> None:
    output, trials = outputs(tmp_path)
    shutil.move(str(output / "experiments"), str(tmp_path / "moved"))
    (output / "experiments").symlink_to(tmp_path / "moved")
    found = plan(output)
    assert {one.path.name for one in found.leftovers} == {"tune"}
    assert not lies_inside(output / "experiments" / trials[0].name, output)
    assert not lies_inside(output / ".." / "moved", output)
    assert not lies_inside(output, output)
    (tmp_path / "link").symlink_to(output)
    assert lies_inside(output / "sweep_results", tmp_path / "link")
    assert lies_inside(tmp_path / "link" / "sweep_results", tmp_path / "link")


def test_only_old_entries_of_the_cache_go(tmp_path: Path) -> None:
    output, _ = outputs(tmp_path)
    cache = tmp_path / "cache"
    for name, age_days in (("old", 8), ("new", 6)):
        path = cache / "encodings" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"z" * 10)
        os.utime(path, (NOW - age_days * 86400,) * 2)
    (cache / "other").mkdir()
    found = [one for one in plan(output, cache=cache).leftovers if one.kind == "cache"]
    assert [(one.path.name, one.size_bytes) for one in found] == [("old.npz", 10)]


def test_the_command_says_what_it_freed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = outputs(tmp_path)
    parser = argparse.ArgumentParser()
    clean_cli.add_arguments(parser)
    words = [str(output), "--keep", "2", "--cache", str(tmp_path / "cache")]
    assert clean_cli.run(parser.parse_args([*words, "--dry-run"])) == 0
    assert capsys.readouterr().out.rstrip().endswith("would free 22.0 KiB")
    assert len(list(output.glob("experiments/*/checkpoint-3"))) == 12
    assert clean_cli.run(parser.parse_args([*words, "--format", "json"])) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["freed_bytes"], len(answer["removed"]), answer["failed"]) == (22500, 23, [])
    with pytest.raises(RequestError, match="give the output folder of sweeps"):
        plan(tmp_path / "nothing")
