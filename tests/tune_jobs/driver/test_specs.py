"""The specification of a trial: its name, its folders, its files and how it can run."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from cluster.machines.hardware import parse_simulated
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import GIB, LinearEstimator
from tune_jobs.config.result_paths import shared_folders_of
from tune_jobs.config.sections import Resources
from tune_jobs.config.space import Categorical, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.resume import adopt
from tune_jobs.driver.specs import SweepSpecs
from tune_jobs.placing.placer import placer_for
from tune_jobs.records.journal import Journal
from tune_jobs.search.samplers import ListSampler
from tuning_common.errors import RequestError

SWEEP = Sweep(
    name="wide",
    source="",
    method="grid",
    space=Space(parameters=(Categorical(name="batch_size", options=(8, 16, 80)),)),
    base=RunConfig(model="kobart", learning_rate=3e-5, train_file="data/train.jsonl"),
)


def specs_in(folder: Path, taken: frozenset[str] = frozenset(), known: dict[int, str] | None = None) -> SweepSpecs:
    return SweepSpecs(
        SWEEP,
        placer_for(parse_simulated("1x24GiB"), Resources(), LinearEstimator()),
        output_dir=folder,
        folders=shared_folders_of(folder, {}, folder),
        started=datetime(2026, 11, 24, 9, 5),
        taken=set(taken),
        known=known,
    )


def test_names_of_a_list_do_not_depend_on_who_is_made_first(tmp_path: Path) -> None:
    forwards, backwards = specs_in(tmp_path), specs_in(tmp_path)
    made = [forwards.make(number, {"batch_size": size}).name for number, size in ((1, 8), (2, 16))]
    again = [backwards.make(number, {"batch_size": size}).name for number, size in ((2, 16), (1, 8))]
    assert made == again[::-1] == ["wide_bart_lr3e-05_bs8_1124_0905", "wide_bart_lr3e-05_bs16_1124_0905"]


def test_names_of_other_sweeps_are_not_taken_and_those_of_an_earlier_driver_are_kept(tmp_path: Path) -> None:
    taken = "wide_bart_lr3e-05_bs8_1124_0905"
    other = specs_in(tmp_path, frozenset({taken})).make(1, {"batch_size": 8}).name
    assert other != taken
    assert other.startswith(taken)
    assert specs_in(tmp_path, known={1: "as before"}).make(1, {"batch_size": 8}).name == "as before"


def test_folders_and_files_are_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    spec = specs_in(Path("outputs")).make(1, {"batch_size": 8})
    assert Path(spec.folder) == tmp_path / "outputs" / "experiments" / spec.name
    assert Path(spec.sweep_folder) == tmp_path / "outputs" / "sweep_results" / "wide"
    assert os.path.isabs(str(spec.config["train_file"]))
    assert Path(str(spec.config["train_file"])).exists()
    assert spec.config["model"] == "kobart", "no file of that name"
    assert spec.metric == SWEEP.metric.name


def test_a_kept_specification_gets_the_folders_and_files_of_this_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("old", "new"):
        (tmp_path / place / "data").mkdir(parents=True)
        (tmp_path / place / "data" / "train.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / "old")
    kept = specs_in(Path("outputs")).make(1, {"batch_size": 8})
    monkeypatch.chdir(tmp_path / "new")
    here = specs_in(Path("outputs")).here(kept.to_dict())
    assert str(tmp_path / "old") not in str(here)
    assert here["folder"] == str(tmp_path / "new" / "outputs" / "experiments" / kept.name)
    assert here["config"] == {**kept.config, "train_file": str(tmp_path / "new" / "data" / "train.jsonl")}
    with pytest.raises(RequestError, match="outside of"):
        specs_in(Path("outputs")).here({**kept.to_dict(), "name": "../../elsewhere"})


def test_trials_that_cannot_be_continued_are_named_and_start_anew(tmp_path: Path) -> None:
    specs = specs_in(tmp_path)
    journal = Journal(tmp_path / "sweep_results" / "wide" / "journal.jsonl")
    journal.write("submitted", 1, spec=specs.make(1, {"batch_size": 8}).to_dict())
    journal.write("submitted", 2, spec={"name": "two", "config": {}})
    journal.write("submitted", 999, spec=specs.make(2, {"batch_size": 16}).to_dict())
    shown: list[str] = []
    adopt(journal, ListSampler([{"batch_size": 8}, {"batch_size": 16}]), specs, shown.append)
    assert list(journal.trials) == [1]
    assert [text.partition(":")[0] for text in shown] == [
        "trial 2 of journal.jsonl cannot be continued and starts anew",
        "trial 999 of journal.jsonl is none of this sweep",
    ]


def test_a_trial_is_placed_by_its_estimate_and_gets_more_where_that_was_not_enough(tmp_path: Path) -> None:
    specs = specs_in(tmp_path)
    spec = specs.make(1, {"batch_size": 8})
    (option,) = specs.options(spec)
    assert spec.bundle == option.placement.bundle
    assert (option.alternative.upper_bytes, spec.gpu_model, spec.simulated) == (8 * GIB, "simulated-24GiB", True)
    (larger,) = specs.options(spec, least_bytes=20 * GIB)
    assert larger.placement.bundle.gpus > spec.bundle.gpus
    with pytest.raises(RequestError, match="would fit with a card of at least"):
        specs.options(spec, least_bytes=40 * GIB)


def test_values_that_make_no_valid_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="batch_size"):
        specs_in(tmp_path).make(1, {"batch_size": -1})
