"""Files of other trainers become files with our names, with a comment for each translation."""

import dataclasses
from pathlib import Path

import pytest

from dialsum.config import read_run_config
from tune_jobs.__main__ import main
from tune_jobs.config.sweep_file import load_sweep
from tuning_common.errors import RequestError

TESTS = Path(__file__).resolve().parent.parent


def test_a_configuration_and_its_sweep_are_written_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, sweep = tmp_path / "config.yaml", tmp_path / "team_sweep.yaml"
    config.write_bytes((TESTS / "data" / "other_trainers" / "team_baseline.yaml").read_bytes())
    sweep.write_bytes((TESTS / "golden" / "wandb_sweeps" / "team_sweep.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["import", "config.yaml", "team_sweep.yaml"]) == 0
    ours = Path("imported/config.yaml")
    assert read_run_config(ours) == (read_run_config(config)[0], ())
    text = ours.read_text(encoding="utf-8")
    assert "batch_size: 50  # training.per_device_train_batch_size: 50 and training.gradient_accum" in text
    assert "# no meaning here: training.save_strategy (a checkpoint is saved with each evaluation" in text
    theirs, again = load_sweep(sweep), load_sweep(Path("imported/team_sweep.yaml"))
    assert again.space == theirs.space
    assert again.rules == theirs.rules
    assert [(one.name, one.sweep.trials) for one in again.phases] == [
        (one.name, one.sweep.trials) for one in theirs.phases
    ]
    assert dataclasses.astuple(again.metric) == dataclasses.astuple(theirs.metric)
    assert again.base_files == {"": "imported/config.yaml"}
    assert (again.tracking.project, again.tracking.entity) == ("y", "x")
    written = Path("imported/team_sweep.yaml").read_text(encoding="utf-8")
    assert "  # training.optim\n  optimizer: {values: [adamw, adafactor]}\n" in written
    with pytest.raises(RequestError, match="is there already"):
        main(["import", "config.yaml"])


def test_what_cannot_be_translated_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("training:\n  num_train_epochs: 3\nlora: {variant: dora}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"config\.yaml:3: lora\.variant: dora is refused: an adapter has"):
        main(["import", str(config), "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
