"""A sweep's configurations are resolved and its data files read once, before anything runs."""

import json
from pathlib import Path

import pytest

import dialsum.data
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.planning.known_facts import facts_of
from tune_jobs.search.inputs import configs_by_phase, prepare_inputs
from tuning_common.errors import RequestError

PARAMETERS = """
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-4}
  num_epochs: {values: [1, 3]}
  train_file: {value: train.jsonl}
  dev_file: {value: dev.jsonl}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 40), ("dev", 4)):
        rows = [{"fname": f"{name}-{i}", "dialogue": f"#Person1#: {i}", "summary": "요약"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def sweep_of(head: str) -> Sweep:
    Path("s.yaml").write_text(head + PARAMETERS, encoding="utf-8")
    return load_sweep(Path("s.yaml"))


def test_every_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = dialsum.data.load_examples
    monkeypatch.setattr(
        dialsum.data, "load_examples", lambda path, **options: read.append(str(path)) or load(path, **options)
    )
    sweep = sweep_of("method: random\ncount: 8")
    inputs = prepare_inputs(sweep)
    assert sorted(read) == ["dev.jsonl", "train.jsonl"]
    assert (inputs.sizes.of, inputs.sizes.absent) == ({"dev.jsonl": 4, "train.jsonl": 40}, ())
    assert (len(inputs.of_phases()), inputs.longest_trial) == (8, 3)
    facts = facts_of(sweep, inputs)
    assert (facts.train_examples, facts.evaluations) == (40, 3)
    assert len(read) == 2


@pytest.mark.parametrize("method", ["bayes", "bohb"])
def test_a_search_that_results_decide_has_its_longest_trial(method: str) -> None:
    assert prepare_inputs(sweep_of(f"method: {method}\ncount: 8")).longest_trial == 3


def test_a_phase_that_confirms_winners_of_a_continuous_search_is_known_by_its_longest_trial() -> None:
    sweep = sweep_of("phases:\n  - {name: wide, count: 4}\n  - {name: confirm, set: {num_epochs: 5}}")
    configs = configs_by_phase(sweep)
    assert [len(part) for part in configs.values()] == [4, 1]
    assert prepare_inputs(sweep, configs).longest_trial == 5
    wide = prepare_inputs(sweep).of_phases(sweep.phases[:1])
    assert max(config.num_epochs for config in wide) <= 3


def test_an_absent_test_file_is_named_before_a_trial_summarizes_it(folder: Path) -> None:
    Path("base.yaml").write_text("test_file: nowhere.csv\n", encoding="utf-8")
    Path("s.yaml").write_text("method: random\ncount: 1\nbase_config: base.yaml" + PARAMETERS, encoding="utf-8")
    sweep = load_sweep(Path("s.yaml"))
    with pytest.raises(RequestError) as refused:
        prepare_inputs(sweep)
    assert "nowhere.csv" in refused.value.problems[0]


def test_every_file_that_cannot_be_read_is_named_and_a_plan_does_without_absent_ones(folder: Path) -> None:
    (folder / "dev.jsonl").unlink()
    (folder / "train.jsonl").write_text("no json\n")
    sweep = sweep_of("method: random\ncount: 2")
    with pytest.raises(RequestError) as refused:
        prepare_inputs(sweep)
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["dev.jsonl", "train.jsonl"]
    with pytest.raises(RequestError) as unreadable:
        prepare_inputs(sweep, for_plan=True)
    assert [problem.split(":")[0] for problem in unreadable.value.problems] == ["train.jsonl"]
    (folder / "train.jsonl").unlink()
    inputs = prepare_inputs(sweep, for_plan=True)
    assert inputs.sizes.absent == ("dev.jsonl", "train.jsonl")
    assert facts_of(sweep, inputs).train_examples is None
