"""The ledger grows, survives a torn line, and gives back what was written."""

import math
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.records.ledger import ExperimentFolder, Ledger, SweepFolder, SweepRecord, TrialError, TrialRecord
from tuning_common.strict import load_yaml


def trial(trial_id: str = "1", **changes: object) -> TrialRecord:
    values: dict[str, object] = {"trial_id": trial_id, "name": f"e{trial_id}", "sweep": "s", "status": "finished"}
    return TrialRecord(**(values | changes))  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "한국어 sweep")
    record = trial(
        status="oom",
        phase="wide",
        sampled={"learning_rate": 3e-5, "model": "kobart"},
        metrics={"eval/loss": 2.5},
        best_metrics={"eval/loss": 2.25},
        history=[{"iteration": 1, "rung": None, "eval/loss": 2.5}],
        error=TrialError(type="OutOfMemoryError", message="GPU 0 is full", where="node-a"),
        estimate={"upper_bytes": 10, "terms": {"weights": 4}},
        measured={"reserved_bytes": 9.0},
        share=0.3333,
    )
    folder.append(record)
    assert folder.load() == Ledger(trials=(record,))


def test_of_equal_trials_the_earlier_one_comes_first_whichever_ended_first(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for number in ("10", "2", "1"):
        folder.append(trial(number, best_metrics={"eval/loss": 2.0}))
    assert [one.trial_id for one in folder.load().trials] == ["1", "2", "10"]


def test_the_last_line_of_a_trial_counts_and_trials_keep_their_order(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for record in (trial("b", status="failed"), trial("a"), trial("b", status="finished", retries=1)):
        folder.append(record)
    assert [(t.trial_id, t.status, t.retries) for t in folder.load().trials] == [
        ("b", "finished", 1),
        ("a", "finished", 0),
    ]


def test_a_torn_line_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.append(trial("a"))
    with folder.ledger.open("a") as stream:
        stream.write('{"event": "trial", "trial_id": "b", "na')
    assert (len(folder.load().trials), folder.load().torn) == (1, ("line 2: is torn, or no JSON",))
    folder.append(trial("c"))
    assert [t.trial_id for t in folder.load().trials] == ["a", "c"]


def test_numbers_that_json_lacks_come_back(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.append(trial(metrics={"eval/loss": math.nan}, history=[{"eval/loss": math.inf}, {"eval/loss": -math.inf}]))
    loaded = folder.load().trials[0]
    assert math.isnan(loaded.metrics["eval/loss"])
    assert [row["eval/loss"] for row in loaded.history] == [math.inf, -math.inf]


def test_the_sweep_keeps_its_first_start_after_a_restart(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.append(SweepRecord(sweep="s", metric="eval/loss", goal="minimize", started_at=10.0, trials=8))
    folder.append(SweepRecord(sweep="s", metric="eval/loss", goal="minimize", started_at=50.0, trials=12))
    sweep = folder.load().sweep
    assert sweep is not None
    assert (sweep.started_at, sweep.trials) == (10.0, 12)


def test_whole_lines_that_are_no_records_are_left_out_and_named(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.path.mkdir(exist_ok=True)
    folder.ledger.write_text('{"event": "trial", "trial_id": "1", "colour": 3}\n{"event": "gossip"}\n')
    first, second = folder.load().torn
    assert first.startswith("line 1: ")
    assert "unknown key 'colour'" in first
    assert second == "line 2: event must be 'sweep' or 'trial', but is 'gossip'"


def test_an_absent_ledger_is_empty(tmp_path: Path) -> None:
    assert SweepFolder(tmp_path / "none").load() == Ledger()


def test_the_best_configuration_can_be_trained_again(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    config = RunConfig(model="tiny-bart", train_file="train.csv", dev_file="dev.csv", learning_rate=1e-5)
    folder.write_best_config(trial(resolved=config.to_dict()))
    assert RunConfig.from_dict(load_yaml(folder.best_config).mapping()) == config
    assert folder.best_config.read_text().startswith("# Best of s: e1\n")


def test_the_best_configuration_is_that_which_fitted(tmp_path: Path) -> None:
    """As resolved it had one piece, which was too large for its card, and whole, for any card."""
    folder = SweepFolder(tmp_path)
    config = RunConfig(model="tiny-bart", batch_size=16)
    plan = {"micro_batch": 2, "accumulation": 2, "gradient_checkpointing": True, "ranks": 4, "sharded": True}
    folder.write_best_config(trial(resolved=config.to_dict(), plan=plan))
    written = RunConfig.from_dict(load_yaml(folder.best_config).mapping())
    assert written == config.with_changes(
        {"gradient_accumulation_steps": 2, "gradient_checkpointing": True, "fsdp": True}
    )
    said = folder.best_config.read_text().splitlines()[1]
    assert said == "# It ran on 4 cards: torchrun --nproc-per-node 4 -m dialsum train --config ..."


def test_folders_are_those_of_the_design() -> None:
    sweep, experiment = SweepFolder.of(Path("o"), "s"), ExperimentFolder.of(Path("o"), "e")
    names = [p.name for p in (sweep.report_html, sweep.report_markdown, sweep.report_picture, sweep.review)]
    assert names == ["analysis_report.html", "analysis_report.md", "analysis_report.png", "review.md"]
    assert (sweep.sweep_file.name, sweep.next_sweep.name) == ("sweep.yaml", "next_sweep.yaml")
    files = [experiment.config, experiment.metrics, experiment.log, experiment.predictions, experiment.snapshot]
    assert [p.name for p in files] == ["config.yaml", "metrics.json", "training.log", "predictions.jsonl", "snapshot"]
    assert experiment.best_model.as_posix() == "o/experiments/e/models/best_model"
