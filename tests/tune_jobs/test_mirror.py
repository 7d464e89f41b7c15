"""What W&B is told of a sweep: rows in order and once, one run over restarts, the right end, the right extras."""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import pytest

from tests.tune_jobs.sweep_files import BUNDLE, ESTIMATE, METRIC, SweepFiles
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal_events import read_event
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.records.step_log import StepLog, Tail, decoded
from tune_jobs.tracking.mirror import ExampleRow, Mirror, MirrorProgress, MirrorSettings, example_rows
from tune_jobs.tracking.mirror_process import QueuedRun
from tune_jobs.tracking.mirroring import MirrorStatus, mirroring, remark
from tune_jobs.tracking.wandb_client import TrackedRun, Wandb, WandbRun, resolved_mode
from tune_jobs.trial.machine_load import MachineLoad, host_memory
from tuning_common.strict import from_mapping


@dataclass
class HeardRun:
    """Keeps what a run was told."""

    opened: TrackedRun
    rows: list[tuple[int, dict[str, object]]] = field(default_factory=list)
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    table: Sequence[ExampleRow] = ()
    models: list[Path] = field(default_factory=list)
    state: str = ""

    def log(self, row: Mapping[str, object], step: int) -> None:
        self.rows.append((step, dict(row)))

    def describe(self, values: Mapping[str, object]) -> None:
        self.config |= values

    def summarize(self, values: Mapping[str, object]) -> None:
        self.summary |= values

    def examples(self, rows: Callable[[], Sequence[ExampleRow]], step: int) -> None:
        self.table = rows()

    def model(self, folder: Path, metadata: Mapping[str, object]) -> None:
        self.models.append(folder)

    def finish(self, state: str) -> None:
        self.state = state


class Following:
    """A mirror over a sweep's files, with all runs that it opened."""

    def __init__(
        self, files: SweepFiles, progress: MirrorProgress | None = None, *, upload_models: bool = False
    ) -> None:
        self.progress = progress or MirrorProgress()
        self.runs: list[HeardRun] = []
        settings = MirrorSettings(
            folder=str(files.folder.path),
            sweep="night",
            group="search",
            project="dialogues",
            method="grid",
            phase="wide",
            tags=("team-a",),
            upload_models=upload_models,
        )
        self.mirror = Mirror(
            settings, self._open, self.progress, examples=lambda folder, config: [(folder.name, config["batch_size"])]
        )
        self._folder = files.folder
        self._journal, self._ledger = Tail(files.folder.path / JOURNAL_NAME), Tail(files.folder.ledger)

    def _open(self, run: TrackedRun) -> HeardRun:
        self.runs.append(HeardRun(run))
        return self.runs[-1]

    def look(self) -> None:
        for event in self._journal.read():
            self.mirror.take_event(read_event(event, self._folder.path))
        self.mirror.take_steps()
        for line in self._ledger.read():
            record = self._folder.read(line)
            if isinstance(record, SweepRecord):
                self.mirror.take_sweep(record)
            else:
                self.mirror.take_record(record)


@pytest.fixture
def files(tmp_path: Path) -> SweepFiles:
    return SweepFiles(tmp_path)


def test_steps_and_evaluations_stand_in_order_each_once(files: SweepFiles) -> None:
    files.submit(1)
    following = Following(files)
    files.step(1, 1, 3.0)
    following.look()
    files.step(1, 2, 2.0)
    files.report(1, 1, 20.0, 2)
    following.look()
    following.look()
    (run,) = following.runs
    assert [step for step, _ in run.rows] == [0, 1, 2]
    assert [row.get("train/loss") for _, row in run.rows] == [3.0, 2.0, None]
    assert run.rows[2][1][METRIC] == 20.0
    assert run.rows[2][1]["trial/held_bytes"] == 3.9e9
    assert run.config == {"share": 0.25, "bundle": BUNDLE, "trial/node": "127.0.0.1", "trial/card": "0"}


def test_a_run_is_described_by_everything_that_is_known_before(files: SweepFiles) -> None:
    files.submit(1, batch_size=32)
    following = Following(files)
    following.look()
    opened = following.runs[0].opened
    assert (opened.project, opened.group, opened.job_type, opened.name) == ("dialogues", "search", "wide", "night_1")
    assert opened.tags == ("team-a", "tiny-bart", "grid")
    assert opened.config["batch_size"] == 32  # resolved, where W&B's columns look
    assert opened.config["learning_rate"] is not None
    assert opened.config["sampled"] == {"batch_size": 32}
    assert opened.config["estimate"] == ESTIMATE
    assert opened.config["plan"] == {"micro_batch": 4, "accumulation": 2, "gradient_checkpointing": False}
    assert opened.config["share"] == 0.25
    assert opened.config["simulated"] is True


def test_a_trial_that_starts_again_goes_on_in_its_run(files: SweepFiles) -> None:
    files.submit(1)
    following = Following(files)
    files.report(1, 1, 20.0, 2)
    following.look()
    files.retry(1)
    files.start(1)
    files.report(1, 2, 21.0, 4)
    files.end(1, "finished")
    following.look()
    (run,) = following.runs
    assert [row[METRIC] for _, row in run.rows] == [20.0, 21.0]
    assert run.summary["trial/last_failure"] == "worker_lost: its process died"
    assert run.summary["trial/retries"] == 1
    assert run.state == "finished"


def test_values_that_are_copied_and_changed_in_the_middle_are_told(files: SweepFiles) -> None:
    files.submit(1)
    spec = dict(files.journal.trials[1].spec)
    changed = spec | {"sampled": {"batch_size": 8, "learning_rate": 0.5}}
    changed["config"] = dict(spec["config"]) | {"learning_rate": 0.5}  # type: ignore[call-overload]
    following = Following(files)
    following.look()
    following.mirror.take_event({"event": "copied", "number": 1, "donor": 7, "spec": changed})
    (run,) = following.runs
    assert (run.config["learning_rate"], run.config["copied_from_trial"]) == (0.5, 7)
    assert run.config["sampled"] == {"batch_size": 8, "learning_rate": 0.5}


def test_the_mirror_of_a_resumed_sweep_repeats_nothing_and_counts_on(files: SweepFiles) -> None:
    files.submit(1)
    files.submit(2)
    files.step(1, 1, 3.0)
    files.report(1, 1, 20.0, 1)
    first = Following(files)
    first.look()
    files.end(2, "finished")
    first.look()
    first.mirror.interrupt()
    assert {run.opened.name: run.state for run in first.runs} == {"night_1": "preempted", "night_2": "finished"}
    kept = from_mapping(MirrorProgress, json.loads(json.dumps(asdict(first.progress))))

    second = Following(files, kept)
    second.look()
    assert second.runs == []
    files.start(1)
    files.step(1, 2, 2.0)
    files.report(1, 2, 22.0, 2)
    files.end(1, "finished")
    second.look()
    (run,) = second.runs
    assert run.opened.run_id == first.runs[0].opened.run_id
    assert [step for step, _ in run.rows] == [2, 3]
    assert run.rows[0][1]["train/loss"] == 2.0
    assert run.rows[1][1][METRIC] == 22.0


@pytest.mark.parametrize(
    ("status", "failure", "outcome", "state"),
    [
        ("finished", None, "finished", "finished"),
        ("stopped", None, "stopped", "finished"),
        ("failed", "work_failed", "failed", "failed"),
        ("failed", "out_of_memory", "oom", "failed"),
    ],
)
def test_a_run_ends_as_its_trial_did(files: SweepFiles, status: str, failure: str, outcome: str, state: str) -> None:
    files.submit(1)
    files.report(1, 1, 20.0, 1)
    files.report(1, 2, 19.0, 2)
    files.end(1, status, failure, "why")
    following = Following(files)
    following.look()
    (run,) = following.runs
    assert (run.summary["outcome"], run.state) == (outcome, state)
    assert run.summary.get("outcome_reason") == ("why" if failure else None)
    assert run.summary["best/rouge_combined_f1"] == 20.0
    assert run.summary["memory/estimated_device_bytes"] == 4_000_000_000
    assert run.summary["memory/measured_device_bytes"] == 3.9e9
    assert run.summary["memory/estimate_error_percent"] == pytest.approx(100 * 0.1 / 3.9)
    assert run.table == [("night_1", 8)]


def test_a_refused_trial_has_a_failed_run_that_says_why(files: SweepFiles) -> None:
    files.refuse(1, "needs 30 GiB; the largest card has 24 GiB")
    following = Following(files)
    following.look()
    (run,) = following.runs
    assert (run.opened.name, run.opened.config["batch_size"], run.state) == ("night trial 1", 512, "failed")
    assert run.summary["outcome"] == "refused"
    assert run.summary["outcome_reason"] == "needs 30 GiB; the largest card has 24 GiB"
    assert run.rows == []


def test_models_are_uploaded_when_asked_and_only_of_trials_that_were_the_best(files: SweepFiles) -> None:
    for number, value in ((1, 20.0), (2, 15.0), (3, 25.0)):
        files.submit(number)
        files.report(number, 1, value, 1)
        files.end(number, "finished")
    asked, unasked = Following(files, upload_models=True), Following(files)
    asked.look()
    unasked.look()
    assert [[path.parent.parent.name for path in run.models] for run in asked.runs] == [["night_1"], [], ["night_3"]]
    assert [run.models for run in unasked.runs] == [[], [], []]


def test_few_summaries_are_shown_once() -> None:
    scored: list[tuple[float, ExampleRow]] = [(float(score), (f"d{score}",)) for score in range(5)]
    assert [row[1] for row in example_rows(scored, count=3)] == ["d4", "d3", "d2", "d1", "d0"]
    assert example_rows([]) == []


def test_the_step_log_is_whole_lines_and_a_full_disk_costs_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = StepLog(tmp_path / "one" / "steps.jsonl", lambda: {"system/load_1m": 0.5})
    log({"train/loss": float("nan")})
    tail = Tail(tmp_path / "one" / "steps.jsonl")
    (row,) = tail.read()
    assert (str(decoded(row["train/loss"])), row["system/load_1m"]) == ("nan", 0.5)
    with tail.path.open("ab") as stream:
        stream.write(b'{"train/loss": 1')
    assert tail.read() == []
    with tail.path.open("ab") as stream:
        stream.write(b".5}\n")
    assert tail.read() == [{"train/loss": 1.5}]
    (tmp_path / "two").write_text("no folder")
    broken = StepLog(tmp_path / "two" / "steps.jsonl")
    broken({"train/loss": 1.0})
    broken({"train/loss": 1.0})
    assert caplog.text.count("cannot be written") == 1


def test_the_load_of_a_machine_is_measured_between_calls(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  250 kB\n")
    clock, cpu = iter([0.0, 4.0, 4.0]), iter([1.0, 7.0, 7.0])
    load = MachineLoad(lambda: next(clock), lambda: next(cpu), meminfo)
    first = load()
    assert (first["system/process_cpu_percent"], first["system/host_memory_percent"]) == (150.0, 75.0)
    assert "system/process_cpu_percent" not in load()  # no time has passed
    assert host_memory(tmp_path / "absent") == {}


def test_a_key_or_a_login_sends_runs_and_wandbs_own_variable_wins() -> None:
    assert resolved_mode("auto", {}, False) == "offline"
    assert resolved_mode("auto", {}, True) == "online"
    assert resolved_mode("offline", {"WANDB_API_KEY": "k"}, True) == "offline"
    assert resolved_mode("online", {"WANDB_MODE": "disabled"}, True) == "disabled"


def test_the_person_is_told_what_became_of_the_mirror(tmp_path: Path) -> None:
    sent = MirrorStatus(over=True, urls={"a": "u", "b": "v"})
    assert remark(0, sent, Path("w")) == "W&B: 2 runs are sent"
    sent.not_whole = ["c"]
    assert remark(0, sent, Path("w")) == "W&B: 2 runs are sent; 1 is not mirrored whole: c; see w/mirror.log"
    half = MirrorStatus(over=True, unsent=["run-1-a", "offline-run-2-b"])
    assert remark(0, half, Path("w")).endswith("send them with: wandb sync --include-online w")
    assert "the mirror failed, the sweep did not" in remark(1, MirrorStatus(), Path("w"))
    assert "in the background" in remark(None, MirrorStatus(), Path("w"))
    (tmp_path / "mirror.json").write_text('{"progress": 3}')
    assert MirrorStatus.read(tmp_path / "mirror.json") == MirrorStatus()
    assert cast("object", MirrorStatus.read(tmp_path / "absent")) == MirrorStatus()


def test_a_run_that_cannot_be_opened_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Nowhere(Wandb):
        def open(self, run: TrackedRun) -> WandbRun:
            raise OSError(errno.ENOSPC, "no space left")

    told: list[str] = []
    description = TrackedRun(project="p", group="g", job_type="trial", name="bs1", run_id="bs1", folder=Path("w"))
    QueuedRun(description, Nowhere("offline"), lambda run, sent: None, told.append).thread.join(10)
    assert told == ["bs1"]
    assert "bs1 is not mirrored: OSError" in caplog.text


def test_a_mirror_that_cannot_start_costs_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "{method: grid, parameters: {seed: {values: [1]}}, tracking: {wandb: offline}}"
    )
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "wandb").write_text("no folder")
    with mirroring(SweepFolder(tmp_path / "results"), load_sweep(tmp_path / "sweep.yaml")) as mirror:
        assert mirror is None
    assert "W&B: the mirror could not be started" in capsys.readouterr().err
