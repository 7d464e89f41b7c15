"""What follows from a finished sweep: a file that `run` reads back, and the command that writes it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import METRIC, sweep_record, wide_ledger, write
from tune_jobs.__main__ import main
from tune_jobs.config.space import Categorical, Range
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tune_jobs.records.ledger import SweepFolder, TrialError, TrialRecord
from tune_jobs.search.grid import sampled_configs
from tune_jobs.search.next_sweep import leave_next_sweep, next_sweep
from tuning_common.errors import RequestError

WIDE = """
name: wide
method: random
count: 32
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}
  batch_size: {values: [8, 16, 32]}
  model: {values: [kobart, t5]}
  label_smoothing: {min: 0.0, max: 0.2}
early_terminate: {type: asha, min_iter: 1, eta: 3}
resources: {cpus_per_trial: 2}
"""


def _with_poor_t5(trials: list[TrialRecord]) -> list[TrialRecord]:
    """T5 ten points below: enough for 32 trials to tell."""
    return [
        replace(
            one,
            history=[row | {METRIC: (row[METRIC] or 0.0) - 10.0} for row in one.history],
            best_metrics={},
            metrics={},
        )
        if one.sampled["model"] == "t5"
        else one
        for one in trials
    ]


def finished(folder: Path, text: str = WIDE, trials: list[TrialRecord] | None = None) -> SweepFolder:
    made = write(folder, _with_poor_t5(wide_ledger()) if trials is None else trials, sweep_record(sweep="wide"))
    made.sweep_file.write_text(text)
    return made


def test_the_box_follows_the_truth_and_the_file_is_a_sweep_with_reasons(tmp_path: Path) -> None:
    folder = finished(tmp_path / "wide")
    path = leave_next_sweep(folder)
    assert path == folder.next_sweep
    again = load_sweep(folder.next_sweep)
    assert (again.name, again.method, again.count) == ("wide_narrow", "bayes", 16)
    assert (again.resources.cpus_per_trial, again.early_terminate.type) == (2, "asha")
    rate = again.space["learning_rate"]
    assert isinstance(rate, Range)
    assert 1e-5 < rate.low < 1e-4 < rate.high < 1e-3, "the truth is best at 1e-4"
    models = again.space["model"]
    assert isinstance(models, Categorical)
    assert models.options == ("kobart",), "t5 is far worse"
    text = folder.next_sweep.read_text()
    assert "  # min: the lowest of the best is" in text
    assert "  # t5 left out: none of its" in text
    points = again.search.points
    assert 1 <= len(points) <= 8
    assert all(again.space.contains({k: v for k, v in point.items() if k != "score"}) for point in points)
    assert [point["score"] for point in points] == sorted((point["score"] for point in points), reverse=True)  # type: ignore[type-var]


def test_only_base_configurations_of_models_that_are_left_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    text = WIDE + "base_config: {kobart: configs/kobart.yaml, t5: configs/t5.yaml}\n"
    folder = finished(tmp_path / "wide", text)
    assert dict(next_sweep(folder.path).sweep.base_files) == {"kobart": "configs/kobart.yaml"}
    leave_next_sweep(folder)
    assert load_sweep(folder.next_sweep).base_files == {"kobart": "configs/kobart.yaml"}


def trial(number: int, score: float | None, **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "trial_id": str(number), "name": f"t{number}", "sweep": "s", "status": "finished",
        "history": [] if score is None else [{METRIC: score}], "resolved": {"model": "tiny-bart"},
    }  # fmt: skip
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def few(folder: Path, *sizes: int, **changes: object) -> SweepFolder:
    text = "name: s\nmethod: grid\nparameters: {batch_size: {values: [4, 8, 16, 32]}, num_epochs: {value: 4}}\n"
    trials = [trial(size, 10.0 + size, sampled={"batch_size": size, "num_epochs": 4}, **changes) for size in sizes]
    return finished(folder, text, trials)


def test_where_few_configurations_are_left_all_of_them_are_tried(tmp_path: Path) -> None:
    found = next_sweep(few(tmp_path / "s", 4, 8, 16).path)
    assert (found.sweep.method, found.sweep.search.points) == ("grid", ())
    assert sampled_configs(found.sweep) == tuple({"batch_size": size, "num_epochs": 4} for size in (4, 8, 16, 32))
    assert found.head[1] == "Only 4 configurations are left: all are run."


def test_where_all_that_is_left_was_run_the_best_are_confirmed(tmp_path: Path) -> None:
    found = next_sweep(few(tmp_path / "s", 4, 8, 16, 32).path)
    assert found.head == ("Trains the best 2 of s again with 3 seeds each.",)
    assert [one["batch_size"] for one in sampled_configs(found.sweep)] == [32, 32, 32, 16, 16, 16]


def test_nothing_follows_where_every_setting_of_a_trained_model_was_tried(tmp_path: Path) -> None:
    text = "name: s\nmethod: grid\ntrained_model: one\nparameters: {num_beams: {values: [1, 2, 4, 8]}}\n"
    trials = [trial(beams, 10.0 + beams, sampled={"num_beams": beams}, trained="one") for beams in (1, 2, 4, 8)]
    folder = finished(tmp_path / "s", text, trials)
    assert leave_next_sweep(folder) is None
    with pytest.raises(RequestError, match="a trained model would write the same summaries again; use the winner"):
        next_sweep(folder.path)


def test_a_single_configuration_is_confirmed_with_three_seeds(tmp_path: Path) -> None:
    text = "name: s\nmethod: grid\nparameters: {batch_size: {values: [4, 8]}, seed: {values: [0, 1, 2, 3, 4]}}\n"
    trials = [
        trial(2 * n + (size == 4), 10.0 * size + n, sampled={"batch_size": size, "seed": n})
        for size in (4, 8)
        for n in range(5)
    ]
    broken = TrialError(type="work_failed", message="the loss became nan")
    trials = [t for t in trials if t.sampled["batch_size"] == 8] + [
        replace(t, status="failed", history=[], error=broken) for t in trials if t.sampled["batch_size"] == 4
    ]
    found = next_sweep(finished(tmp_path / "s", text, trials).path)
    assert found.sweep.name == "s_confirm"
    assert sampled_configs(found.sweep) == tuple({"batch_size": 8, "seed": seed} for seed in (1, 2, 3))
    path = tmp_path / "c.yaml"
    path.write_text(found.text())
    assert load_sweep(path).trials == 3
    confirmed = finished(tmp_path / "c", found.text(), [trial(1, 5.0, sampled={"batch_size": 8, "seed": 1})])
    assert leave_next_sweep(confirmed) is None
    with pytest.raises(RequestError, match="a confirmation trained known configurations again; nothing narrower"):
        next_sweep(confirmed.path)


def test_the_command_shows_the_box_and_writes_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path / "wide")
    target = tmp_path / "next.yaml"
    assert main(["narrow", str(folder.path), "--output", str(target), "--count", "12", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["follows"], shown["trials"], shown["file"]) == ("wide", 12, str(target))
    assert shown["parameters"]["model"]["next"] == {"values": ["kobart"]}
    assert load_sweep(target).count == 12
    assert main(["narrow", str(folder.path)]) == 0
    text = capsys.readouterr().out
    assert "parameter         before         next" in text
    assert text.rstrip().endswith(f"written: {folder.next_sweep}")


def test_wrong_requests_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no finished sweep in it"):
        main(["narrow", str(tmp_path)])
    folder = finished(tmp_path / "wide", trials=[trial(1, None, status="failed")])
    with pytest.raises(RequestError, match="no trial has a score"):
        main(["narrow", str(folder.path)])
    with pytest.raises(RequestError, match="--keep-fraction must be above 0"):
        main(["narrow", str(folder.path), "--keep-fraction", "0"])


@pytest.mark.parametrize(
    ("method", "points", "said"),
    [
        ("bayes\ncount: 3", "[{learning_rate: 1e-4}]", "a.yaml:9: a point of bayes has every searched parameter"),
        ("bayes\ncount: 3", "[{learning_rate: 1, batch_size: 8}]", "learning_rate 1 lies outside"),
        ("bayes\ncount: 3", "[{learning_rate: 1e-4, batch_size: 8, score: good}]", "score must be a number"),
        ("grid", "[{batch_size: 8, score: 3}]", "a grid runs every point"),
        ("bayes\ncount: 3", "[{num_beams: 4}]", "num_beams is not searched, so no point can set it"),
        ("random\ncount: 3", "[{batch_size: 8}]", "search.points is only read by bayes and bohb and grid"),
    ],
)
def test_points_are_part_of_the_space(tmp_path: Path, method: str, points: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        f"name: a\nmethod: {method}\nparameters:\n  learning_rate: {{min: 1e-5, max: 1e-3}}\n"
        f"  batch_size: {{values: [8, 16]}}\nsearch:\n  points:\n    - {points[1:-1]}\n"
    )
    with pytest.raises(RequestError) as raised:
        load_sweep(path)
    assert said.replace("a.yaml:9", f"{path}:{9 if 'count' in method else 8}") in str(raised.value)


def test_a_written_sweep_with_points_reads_back(tmp_path: Path) -> None:
    folder = finished(tmp_path / "wide")
    found = next_sweep(folder.path)
    path = tmp_path / "n.yaml"
    path.write_text(found.text())
    again = load_sweep(path)
    assert again.search.points == found.sweep.search.points
    assert sweep_text(again) == sweep_text(found.sweep)
