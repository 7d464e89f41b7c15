"""A sweep conducted without Ray: what is written and kept of trials that end, also by a second driver."""

from pathlib import Path

import pytest

from tests.tune_jobs.conducted import METRIC, Driver
from tune_jobs.driver.housekeeping import KEPT_MODELS
from tune_jobs.records.journal import Journal


def test_trials_finish_stop_and_are_refused_and_the_ledger_says_so(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    first = driver.start()
    assert not driver.report(first, 1, 20.0)
    second = driver.start()
    assert driver.report(second, 1, 10.0)
    driver.conductor.ended("key", second, None)
    assert not driver.report(first, 2, 30.0)
    assert not driver.report(first, 3, 25.0)
    driver.conductor.ended("key", first, None)
    fourth = driver.start()
    driver.conductor.ended("key", fourth, ValueError("worker trace\n\nValueError: odd"))
    assert driver.conductor.next_order("key") is None

    records = {record.trial_id: record for record in driver.folder.load().trials}
    assert {name: record.status for name, record in records.items()} == {
        "1": "finished",
        "2": "stopped",
        "3": "refused",
        "4": "failed",
    }
    assert (records["1"].metrics[METRIC], records["1"].best_metrics[METRIC]) == (25.0, 30.0)
    assert [(row["rung"], row["iteration"], row[METRIC]) for row in records["1"].history] == [
        (0.0, 1.0, 20.0),
        (None, 2.0, 30.0),
        (None, 3.0, 25.0),
    ]
    assert (records["1"].wall_s, records["1"].gpu_seconds, records["1"].gpu_model) == (40.0, 20.0, "A")
    assert records["1"].measured == {"device_bytes": 5e9}
    assert records["3"].error is not None
    assert records["3"].error.message == "needs 30.0 GiB, found 24.0 GiB"
    assert records["4"].error is not None
    assert records["4"].error.message == "ValueError: ValueError: odd"
    lessons = {number: (lesson.outcome, lesson.value) for number, lesson in driver.proposer.lessons.items()}
    assert lessons == {
        1: ("finished", 30.0),
        2: ("stopped", 10.0),
        3: ("out_of_memory", None),
        4: ("out_of_memory", None),
    }
    assert (
        "trial 2 stopped, best 10.000 after 1 evaluations: 10 against 20 at rung 1 (2 trials)" in driver.said.getvalue()
    )


def test_a_second_driver_goes_on_from_checkpoints_and_repeats_nothing_that_is_over(tmp_path: Path) -> None:
    first = Driver(tmp_path)
    done, open_trial = first.start(), first.start()
    first.report(done, 1, 20.0)
    first.report(open_trial, 1, 30.0)
    first.conductor.saved(open_trial, tmp_path / "tune" / "bs2" / "checkpoint_000000")
    first.conductor.ended("key", done, None)

    second = Driver(tmp_path)
    assert second.progress.count("finished") == 1
    assert second.proposer.lessons[1].value == 20.0
    order = second.start()
    assert (order["number"], order["name"]) == (2, "bs2")
    assert str(order["resume_from"]).endswith("bs2/checkpoint_000000")
    fourth = second.start()  # the third is refused
    assert fourth["number"] == 4
    assert second.report(fourth, 1, 15.0), "the rung still knows both values of the first driver"
    second.conductor.ended("key", fourth, None)
    second.report(order, 2, 31.0)
    second.conductor.ended("key", order, None)
    assert second.conductor.next_order("key") is None
    ledger = (tmp_path / "all_results.jsonl").read_text().splitlines()
    assert len(ledger) == 4
    records = {record.trial_id: record for record in second.folder.load().trials}
    assert [row["iteration"] for row in records["2"].history] == [1.0, 2.0]


def test_a_driver_that_died_between_journal_and_ledger_is_made_good(tmp_path: Path) -> None:
    first = Driver(tmp_path)
    order = first.start()
    first.report(order, 1, 20.0)
    first.conductor.ended("key", order, None)
    (tmp_path / "all_results.jsonl").unlink()
    (record,) = Driver(tmp_path).folder.load().trials
    assert (record.trial_id, record.status) == ("1", "finished")


def test_checkpoints_go_when_a_trial_is_over_and_its_best_model_stays(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    folder = Path(str(order["folder"]))
    for path in (folder / "checkpoint-8", folder / "models" / "best_model", tmp_path / "tune" / "bs1" / "checkpoint_0"):
        path.mkdir(parents=True)
    driver.conductor.saved(order, tmp_path / "tune" / "bs1" / "checkpoint_0")
    driver.report(order, 1, 20.0)
    driver.conductor.ended("key", order, None)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "models"]
    assert not (tmp_path / "tune" / "bs1").exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_json_does_not_have_do_not_stop_the_sweep(tmp_path: Path, value: float) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    driver.conductor.reported(order, {METRIC: 1.0, "trial/evaluation": 1, "train/grad_norm": value})
    assert "train/grad_norm" not in Journal(tmp_path / "journal.jsonl").trials[1].evaluations[1].metrics


def test_the_weights_of_the_best_trials_stay_and_all_numbers(tmp_path: Path) -> None:
    driver = Driver(tmp_path, count=12)
    for place in range(9):
        order = driver.start()
        (Path(str(order["folder"])) / "models" / "best_model").mkdir(parents=True)
        driver.report(order, 1, 100.0 - 7 * (place % 4) - place)
        driver.conductor.ended("key", order, None)
    records = sorted(driver.folder.load().trials, key=lambda record: -record.best_metrics.get(METRIC, 0.0))
    kept = [(Path(record.experiment_dir) / "models").exists() for record in records if record.status != "refused"]
    assert kept == [True] * KEPT_MODELS + [False] * (9 - KEPT_MODELS)
    assert all((Path(record.experiment_dir) / "metrics.json").exists() for record in records if record.experiment_dir)


def test_a_trial_that_has_made_all_its_evaluations_is_finished_whatever_the_rule_says(tmp_path: Path) -> None:
    driver = Driver(tmp_path, count=2)
    good, bad = driver.start(), driver.start()
    assert [driver.report(good, 1, 20.0), driver.report(bad, 3, 1.0)] == [False, False]
    driver.conductor.ended("key", bad, None)
    assert [record.status for record in driver.folder.load().trials] == ["finished"]


def test_the_checkpoints_of_an_earlier_start_go_when_the_next_start_has_one(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    folders = [tmp_path / "tune" / name for name in ("bs1_a/checkpoint_0", "bs1_a/checkpoint_1", "bs1_b/checkpoint_0")]
    for folder in folders:
        folder.mkdir(parents=True)
        driver.conductor.saved(order, folder)
    assert [folder.exists() for folder in folders] == [False, False, True]
