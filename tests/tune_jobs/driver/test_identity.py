"""A sweep is resumed only if it is the same one, and no member moves another member's results."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import sweep_record
from tests.tune_jobs.tiny import write_dialogues
from tune_jobs.commands import run_cli
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.identity import check_identity, identity_of, keep_identity
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.sweep_lock import put_aside
from tune_jobs.search.inputs import DataSizes, SweepInputs, configs_by_phase
from tuning_common.errors import RequestError
from tuning_common.files import write_json

TEXT = """
name: small
method: grid
metric: {name: eval/rouge_combined_f1}
parameters:
  learning_rate: {values: [1.0e-3, 1.0e-2]}
  train_file: {value: train.jsonl}
  dev_file: {value: dev.jsonl}
early_terminate: {type: asha}
resources: {retries: 1}
tracking: {wandb: disabled}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """Results of TEXT, in the working folder with its data."""
    monkeypatch.chdir(tmp_path)
    write_dialogues(tmp_path)
    (tmp_path / "base.yaml").write_text("weight_decay: 0.5\n")
    kept = SweepFolder.of(tmp_path / "outputs", "small")
    keep_identity(kept, identity(TEXT))
    return kept


def identity(text: str) -> dict[str, object]:
    """Of a sweep file in the working folder."""
    Path("small.yaml").write_text(text)
    sweep = load_sweep(Path("small.yaml"))
    return identity_of(sweep, SweepInputs(configs=configs_by_phase(sweep), sizes=DataSizes(of={})))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("retries: 1", "retries: 5, time_budget: 8h, max_concurrent_trials: 2, cpus_per_trial: 2"),
        ("wandb: disabled", "wandb: offline, tags: [night]"),
        ("method: grid", "method: grid\ndescription: once more\nteam: {member: ann}"),
    ],
)
def test_resources_budget_tracking_and_team_may_change(folder: SweepFolder, before: str, after: str) -> None:
    check_identity(folder, identity(TEXT))
    check_identity(folder, identity(TEXT.replace(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("rouge_combined_f1", "loss", 'metric.name was "eval/rouge_combined_f1" and is "eval/loss"'),
        (
            "[1.0e-3, 1.0e-2]",
            "[1.0e-3, 1.0e-1]",
            'parameters.learning_rate was {"values": [0.001, 0.01]} and is {"values": [0.001, 0.1]}',
        ),
        ("method: grid", "method: random\ncount: 2", 'method was "grid" and is "random"'),
        ("asha", "none", 'early_terminate.type was "asha" and is "none"'),
        ("method: grid", "method: grid\nbase_config: base.yaml", "base_config.weight_decay was 0.01 and is 0.5"),
    ],
)
def test_another_sweep_is_refused_with_the_difference_and_the_remedies(
    folder: SweepFolder, before: str, after: str, difference: str
) -> None:
    with pytest.raises(RequestError, match="another name, or put them aside and begin anew with --restart") as caught:
        check_identity(folder, identity(TEXT.replace(before, after)))
    assert any(text.startswith(difference) for text in caught.value.problems), caught.value.problems


def test_data_are_compared_by_their_content(folder: SweepFolder) -> None:
    Path("moved").mkdir()
    Path("train.jsonl").rename("moved/train.jsonl")
    moved = TEXT.replace("train.jsonl", "moved/train.jsonl")
    check_identity(folder, identity(moved))
    with Path("moved/train.jsonl").open("a") as stream:
        stream.write('{"fname": "more", "dialogue": "a", "summary": "b"}\n')
    with pytest.raises(RequestError) as caught:
        check_identity(folder, identity(moved))
    assert caught.value.problems == ("moved/train.jsonl has another content than the data of the earlier trials",)


def test_a_changed_base_configuration_is_another_sweep(folder: SweepFolder) -> None:
    text = TEXT.replace("method: grid", "method: grid\nbase_config: base.yaml")
    keep_identity(folder, identity(text))
    Path("base.yaml").write_text("weight_decay: 0.25\n")
    with pytest.raises(RequestError, match=r"base_config\.weight_decay was 0\.5 and is 0\.25"):
        check_identity(folder, identity(text))


def test_a_phase_of_a_staged_sweep_counts(folder: SweepFolder) -> None:
    staged = TEXT.replace("method: grid", "phases: [{name: wide, method: random, count: 4}]")
    staged = staged.replace("[1.0e-3, 1.0e-2]", "[1.0e-4, 1.0e-3, 1.0e-2, 1.0e-1]")
    keep_identity(folder, identity(staged))
    check_identity(folder, identity(staged))
    with pytest.raises(RequestError, match=r"phases\.wide\.count was 4 and is 3"):
        check_identity(folder, identity(staged.replace("count: 4", "count: 3")))


def test_an_identity_that_cannot_be_read_is_named(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "identity.json").write_text("[")
    check_identity(folder, identity(TEXT))
    assert "identity.json cannot be read" in capsys.readouterr().err


def test_a_member_does_not_move_the_results_of_another_one(tmp_path: Path) -> None:
    folder = SweepFolder.of(tmp_path, "small")
    folder.append(replace(sweep_record(), member="ann"))
    for member in ("bob", None):
        with pytest.raises(RequestError, match="these are results of ann; give your sweep another name"):
            put_aside(folder, member)
    assert folder.ledger.exists()
    put_aside(folder, "ann")
    assert not folder.path.exists()
    (aside,) = folder.path.parent.glob("small_*")
    assert SweepFolder(aside).load().sweep is not None


def test_the_command_refuses_to_resume_another_sweep_before_anything_runs(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    (folder.path / "journal.jsonl").touch()
    write_json(folder.path / "identity.json", {**identity(TEXT), "method": "bayes"})
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    with pytest.raises(RequestError, match="are of another sweep"):
        run_cli.run(parser.parse_args(["small.yaml", "--resume", "--cpu-only"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["small.yaml", "--resume", "--restart"])
