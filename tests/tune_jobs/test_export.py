"""A sweep as a study of Optuna: every trial, its values and its curve, as the ledger has them."""

import argparse
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml

from tests.tune_jobs.synthetic import METRIC, START, sweep_record, wide_ledger, write
from tune_jobs.after.optuna_study import distribution_of
from tune_jobs.commands import export_cli
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.ledger import TrialError, TrialRecord
from tuning_common.errors import RequestError

BEST = METRIC.replace("eval/", "best/")
STATES = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "oom": "FAIL", "refused": "FAIL"}


def export(folder: Path, journal: Path) -> None:
    parser = argparse.ArgumentParser()
    export_cli.add_arguments(parser)
    assert export_cli.run(parser.parse_args([str(folder), "--optuna", str(journal)])) == 0


def test_points_are_the_best_of_each_sweep_in_turn_and_another_sweep_starts_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write(tmp_path / f"sweep_{count}", wide_ledger(count)).path) for count in (16, 32)]
    parser = argparse.ArgumentParser()
    export_cli.add_arguments(parser)
    assert export_cli.run(parser.parse_args([*folders, "--points", "3"])) == 0
    printed = capsys.readouterr().out
    points = yaml.safe_load(printed)["search"]["points"]
    ranked = [
        sorted((one for one in wide_ledger(count) if one.best_metrics), key=lambda one: -one.best_metrics[BEST])
        for count in (16, 32)
    ]
    first = [{name: value for name, value in of[0].sampled.items() if name != "seed"} for of in ranked]
    assert points[0] == first[0]
    assert first[1] in points[:2]
    assert len({str(one) for one in points}) == len(points)
    space = "".join(f"  {name}: {{values: {list({one[name] for one in points})}}}\n" for name in points[0])
    next_sweep = tmp_path / "next.yaml"
    phases = "phases: [{name: wide, method: bayes, count: 12}, {name: narrow, count: 4}]\n"
    next_sweep.write_text(f"parameters:\n{space}{phases}{printed}", encoding="utf-8")
    wide, narrow = load_sweep(next_sweep).phases
    assert [dict(one) for one in wide.sweep.search.points] == points
    assert narrow.sweep.search.points == ()
    next_sweep.write_text(f"parameters:\n{space}{phases.replace('bayes', 'random')}{printed}", encoding="utf-8")
    with pytest.raises(RequestError) as refused:
        load_sweep(next_sweep)
    assert any("only a wide phase does, whose method is bayes, bohb or grid" in one for one in refused.value.problems)
    with pytest.raises(RequestError, match="must be at least 1"):
        export_cli.run(parser.parse_args([*folders, "--points", "0"]))


def opened(journal: Path, name: str) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_optuna_opens_every_trial_with_values_curve_and_attributes(tmp_path: Path) -> None:
    refused = TrialRecord(
        trial_id="00033", name="trial 33", sweep="wide", status="refused", sampled=wide_ledger(1)[0].sampled,
        error=TrialError(type="wrong_request", message="can run nowhere"),
    )  # fmt: skip
    running = replace(wide_ledger(34)[33], status="running", ended_at=START + 9)
    trials = [*wide_ledger(32), refused, running]
    export(write(tmp_path / "wide", trials).path, tmp_path / "journal.log")
    study = opened(tmp_path / "journal.log", "wide_대화요약")
    assert (study.direction.name, study.user_attrs["metric"], study.user_attrs["member"]) == (
        "MAXIMIZE",
        METRIC,
        "지민",
    )
    assert len(study.trials) == len(trials)
    for there, here in zip(study.trials, trials, strict=True):
        assert there.state.name == STATES.get(here.status, "RUNNING")
        assert there.params == here.sampled
        assert there.intermediate_values == {int(row["iteration"] or 0): row[METRIC] for row in here.history}
        assert there.value == (max(there.intermediate_values.values()) if here.status == "finished" else None)
        if there.duration is not None:
            assert there.duration.total_seconds() == pytest.approx(here.wall_s, abs=1e-3)
        own = {name: there.user_attrs[name] for name in ("name", "seed", "gpu_model", "share", "gpu_seconds")}
        assert own == {name: getattr(here, name) for name in own}
        assert there.user_attrs.get("error") == (here.error and f"{here.error.type}: {here.error.message}")
    rate = study.trials[0].distributions["learning_rate"]
    assert rate == optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)
    assert study.best_trial.value == max(one.value or 0.0 for one in study.trials)


def test_a_second_sweep_goes_into_the_same_file_and_the_same_one_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    fixed = [replace(one, sampled=one.sampled | {"num_beams": 4}) for one in wide_ledger(3)]
    second = write(tmp_path / "second", fixed, sweep_record(sweep="second", metric="eval/loss", goal="minimize"))
    export(write(tmp_path / "first", wide_ledger(4)).path, journal)
    export(second.path, journal)
    study = opened(journal, "second")
    assert study.direction.name == "MINIMIZE"
    assert {one.user_attrs["fixed/num_beams"] for one in study.trials} == {4}
    assert len(opened(journal, "wide_대화요약").trials) == 4
    with pytest.raises(RequestError, match="holds a study 'second' already; give another file"):
        export(second.path, journal)
    (tmp_path / "notes.txt").write_text("not JSON\n")
    with pytest.raises(RequestError, match="is not a journal of Optuna"):
        export(second.path, tmp_path / "notes.txt")
    with pytest.raises(RequestError, match="no sweep is in it"):
        export(tmp_path, journal)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"distribution": "int_uniform", "min": 1, "max": 8}, [1, 9]),
        ({"distribution": "q_uniform", "min": 8, "max": 63, "q": 8}, [16, 56]),
        ({"distribution": "q_uniform", "min": 0.05, "max": 0.32, "q": 0.1}, [0.1, 0.3]),
        ({"distribution": "normal", "mu": 0.1, "sigma": 1.0}, [-0.4, 1.7]),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}, [1e-4, 0.0]),
        ({"values": ["a", None, [1, 2]]}, ["a", [1, 2], "b"]),
        ({}, [True, 3, "x"]),
        ({"distribution": "q_log_uniform_values", "min": 2, "max": 64, "q": 2}, [2, 64]),
        ({"distribution": "uniform", "min": 0, "max": 1}, [0]),
    ],
)
def test_optuna_takes_every_value_under_its_distribution(spec: dict[str, object], values: list[object]) -> None:
    distribution = distribution_of(spec, values)
    study = optuna.create_study()
    plain = [str(value) if isinstance(value, list) else value for value in values]
    study.add_trials(
        [optuna.trial.create_trial(value=1, params={"a": one}, distributions={"a": distribution}) for one in plain]  # type: ignore[dict-item]
    )
    assert [one.params["a"] for one in study.trials] == plain
