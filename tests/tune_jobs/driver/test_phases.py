"""A staged sweep on a real Ray: each phase follows from the one before, and --resume goes on in the right one."""

import io
import json
from pathlib import Path

import pytest

from tests.tune_jobs.tiny import write_dialogues
from tune_jobs.config.space import Range
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.phases import StagedOutcome, run_staged
from tune_jobs.driver.run_sweep import RunOptions
from tune_jobs.driver.view import LogView
from tune_jobs.records.ledger import SweepFolder
from tuning_common.errors import RequestError

STAGED = """
name: s
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  batch_size: {values: [4, 8]}
  train_file: {value: train.jsonl}
  dev_file: {value: dev.jsonl}
  num_epochs: {value: 2}
  decoder_max_len: {value: 12}
  encoder_max_len: {value: 48}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
  tiny_vocab_size: {value: 400}
metric: {name: eval/loss, goal: minimize}
early_terminate: {type: none}
search: {startup_trials: 2}
resources: {max_concurrent_trials: 2}
tracking: {wandb: disabled}
phases:
  - {name: quick_check, count: 1, set: {max_train_samples: 8}}
  - {name: wide, method: random, count: 4}
  - {name: narrow, method: bayes, count: 2, keep_fraction: 0.4}
  - {name: confirm, winners: 2, seeds: [1, 2]}
"""


def run(folder: Path, *, resume: bool = False, until: str | None = None) -> tuple[StagedOutcome, str]:
    said = io.StringIO()
    options = RunOptions(cpu_only=True, resume=resume)
    return run_staged(load_sweep(folder / "s.yaml"), options, LogView(said), until=until), said.getvalue()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_four_phases_in_two_goes_with_an_edit_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dialogues(tmp_path)
    (tmp_path / "s.yaml").write_text(STAGED)

    first, said = run(tmp_path, until="wide")
    assert first.interrupted
    assert [one.name for one in first.phases] == ["quick_check", "wide"]
    assert said.index("phase 1 of 4: quick_check") < said.index("phase 2 of 4: wide")
    results = {
        name: SweepFolder.of(Path("outputs"), f"s_{name}") for name in ("quick_check", "wide", "narrow", "confirm")
    }
    wide = results["wide"].load().trials
    assert len(wide) == 4
    proposed = load_sweep(results["wide"].next_sweep)
    assert (proposed.name, proposed.count) == ("s_narrow", 2)
    assert isinstance(proposed.space["learning_rate"], Range)
    assert all("score" in point for point in proposed.search.points), "the same training: nothing is run again"
    text = results["wide"].next_sweep.read_text()
    assert "  # min: " in text
    results["wide"].next_sweep.write_text(text.replace("count: 2", "count: 1"))  # a person knows better
    before = {record.trial_id: record.ended_at for record in wide}

    second, said = run(tmp_path, resume=True)
    assert not second.interrupted
    assert "phase wide is over: " in said
    assert "phase 3 of 4: narrow" in said
    assert {record.trial_id: record.ended_at for record in results["wide"].load().trials} == before
    assert len(results["narrow"].load().trials) == 1, "the edited file was run"
    confirmed = results["confirm"].load().trials
    assert sorted(record.seed or 0 for record in confirmed) == [1, 1, 2, 2]
    pool = [*wide, *results["narrow"].load().trials]
    best = sorted(pool, key=lambda record: record.best_metrics["eval/loss"])[:2]
    assert {record.sampled["learning_rate"] for record in confirmed} == {
        record.sampled["learning_rate"] for record in best
    }

    whole = SweepFolder.of(Path("outputs"), "s")
    trials = whole.load().trials
    assert len({record.trial_id for record in trials}) == len(trials) == 1 + 4 + 1 + 4
    assert {record.phase for record in trials} == {"quick_check", "wide", "narrow", "confirm"}
    state = json.loads((whole.path / "phases.json").read_text())
    assert [one["name"] for one in state["phases"]] == ["quick_check", "wide", "narrow", "confirm"]
    assert "make the next box: learning_rate" in state["phases"][1]["decision"]
    assert set(state["phases"][1]["reasons"]) >= {"learning_rate", "batch_size"}
    assert second.best is not None
    assert second.best.trial_id in {record.trial_id for record in confirmed}
    assert (Path(second.best.experiment_dir) / "models" / "best_model" / "model.safetensors").exists()
    assert whole.report_html.exists()
    assert 'id="phases"' in whole.report_html.read_text()


def test_what_can_be_known_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(STAGED)
    with pytest.raises(RequestError, match="--until wied: no phase has this name; there are quick_check, wide"):
        run(tmp_path, until="wied")
    with pytest.raises(RequestError, match=r"train\.jsonl"):
        run(tmp_path)
    assert not Path("outputs").exists()
    (tmp_path / "s.yaml").write_text(STAGED.replace("name: s\n", f"name: {'s' * 60}\n"))
    with pytest.raises(RequestError, match=r"phase quick_check: name becomes a folder: .*at most 64"):
        run(tmp_path)
