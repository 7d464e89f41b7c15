"""The mirror's own process with the real wandb: offline runs read back, a local server, and servers that fail."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tune_jobs.sweep_files import METRIC, SweepFiles
from tests.tune_jobs.wandb_compare import compare_with_ledger
from tests.tune_jobs.wandb_files import OfflineRun, read_offline_run
from tests.tune_jobs.wandb_server import Mode, StoredRun, WandbServer, wandb_server
from tests.waiting import LIMIT_S, wait_until
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.step_log import Tail
from tune_jobs.tracking import mirror_process
from tune_jobs.tracking.mirror import EXAMPLE_COLUMNS, MirrorSettings
from tune_jobs.tracking.mirroring import MirrorProcess, MirrorStatus, keep_report_address

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def mirror_of(files: SweepFiles, server: WandbServer | None, **changes: Any) -> MirrorProcess:
    before = dict(os.environ)
    os.environ.update(server.environment() if server else {})
    try:
        settings = MirrorSettings(
            folder=str(files.folder.path),
            sweep="night",
            group="night",
            method="grid",
            phase="wide",
            project="dialogues",
            mode="online" if server else "offline",
            **changes,
        )
        return MirrorProcess(settings, files.folder.path)
    finally:
        os.environ.clear()
        os.environ.update(before)


class TwoPolls(threading.Event):
    """Is set at the second look."""

    def wait(self, timeout: float | None = None) -> bool:
        before, _ = self.is_set(), self.set()
        return before


def test_what_is_written_while_the_mirror_reads_opens_no_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SweepFiles(tmp_path)
    files.submit(1)
    files.report(1, 1, 20.0, 1)

    class Racing(Tail):
        """The trial reports and ends just after the mirror has read the journal."""

        def read(self) -> list[Any]:
            rows = list(super().read())
            if self.path.name == JOURNAL_NAME and not polled:
                polled.append(True)
                files.report(1, 2, 24.0, 2)
                files.end(1, "finished")
            return rows

    polled: list[bool] = []
    monkeypatch.setattr(mirror_process, "Tail", Racing)
    settings = MirrorSettings(
        folder=str(files.folder.path), sweep="night", group="night", method="grid", phase="", project="dialogues",
        mode="offline",
    )  # fmt: skip
    mirror = mirror_process.SweepMirror(settings)
    mirror.follow(TwoPolls())
    assert polled == [True]
    assert (mirror.status.not_whole, len(mirror.status.unsent)) == ([], 1)


def three_trials(folder: Path) -> SweepFiles:
    """One finished, one that dies and is stopped later, one that runs out of memory."""
    files = SweepFiles(folder)
    for number in (1, 2, 3):
        files.submit(number)
        files.step(number, 1, 3.0)
    files.step(1, 2, 2.5)
    files.report(1, 1, 20.0, 2)
    files.report(2, 1, 10.0, 2)
    files.retry(2)
    files.start(2)
    files.step(2, 3, 2.0)
    files.report(2, 2, 12.0, 4)
    files.report(1, 2, 24.0, 4)
    files.summaries(1, ["민수는 사과를 샀다.", "모르겠다.", "민수가 사과를 산다."], "민수는 사과를 샀다.")
    files.model(1)
    files.end(1, "finished")
    files.end(2, "stopped", reason="below the others at rung 1")
    files.end(3, "failed", "out_of_memory", "needed 8.2 GiB")
    files.refuse(4, "needs 30 GiB")
    return files


def offline_runs(files: SweepFiles) -> dict[str, OfflineRun]:
    folders = sorted((files.folder.path / "wandb").glob("offline-run-*"))
    runs = [read_offline_run(folder) for folder in folders]
    return {run.run["display_name"]: run for run in runs}


def examples_of(files: SweepFiles, name: str) -> dict[str, Any]:
    (path,) = (files.folder.path / "wandb").glob(f"offline-run-*{name}*/files/media/table/*.table.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def evaluations(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{name: row[name] for name in (METRIC, "eval/loss")} for row in rows if METRIC in row]


def status_of(files: SweepFiles) -> MirrorStatus:
    return MirrorStatus.read(files.folder.path / "wandb" / "mirror.json")


def test_offline_runs_hold_what_the_ledger_holds_and_sync_sends_them(tmp_path: Path) -> None:
    files = three_trials(tmp_path)
    files.summaries(
        2, [" ".join(["민수는", "사과를", "샀다."][: place % 4]) for place in range(25)], "민수는 사과를 샀다."
    )
    files.submit(5)
    files.report(5, 1, 5.0, 2)  # runs when the driver ends
    mirror = mirror_of(files, None, upload_models=True)
    mirror.end()
    said = mirror.wait(LIMIT_S)
    assert said == f"W&B: 5 runs are kept offline; send them with: wandb sync {files.folder.path}/wandb"
    runs = offline_runs(files)
    for record in files.folder.load().trials[:3]:  # finished, stopped after a retry, out of memory
        run = runs[record.name]
        compare_with_ledger(run, record)
        assert run.config["plan"] == record.plan
        assert run.run["tags"] == ["tiny-bart", "grid"]
        assert run.run["run_group"] == "night"
        assert run.run["job_type"] == "wide"
        assert [row["_step"] for row in run.history] == sorted({row["_step"] for row in run.history})
    best = runs["night_1"]
    assert [row["train/learning_rate"] for row in best.history if "train/loss" in row] == [1e-3, 5e-4]
    assert best.summary["memory/measured_device_bytes"] == 3.9e9
    assert runs["night trial 4"].summary["outcome_reason"] == "needs 30 GiB"
    assert runs["night trial 4"].exit_code == 1
    goes_on = runs["night_5"]
    assert (goes_on.preempting, goes_on.exit_code, goes_on.summary["outcome"]) == (True, 1, "interrupted")
    assert sorted(kind for kind, _ in best.artifacts) == ["model", "run_table"]
    assert [kind for kind, _ in runs["night_2"].artifacts] == ["run_table"]  # it was never the best
    many = examples_of(files, "night_2")["data"]
    assert [row[0] for row in many] == ["top"] * 10 + ["worst"] * 10
    assert len({row[1] for row in many}) == 20
    scores = [row[-1] for row in many]
    assert (scores, scores[0], scores[-1]) == (sorted(scores, reverse=True), 100.0, 0.0)
    table = examples_of(files, "night_1")
    assert table["columns"] == list(EXAMPLE_COLUMNS)
    assert [row[:2] for row in table["data"]] == [["top", "d0"], ["top", "d2"], ["top", "d1"]]
    assert table["data"][0][3:6] == ["민수는 사과를 샀다.", "민수는 사과를 샀다.", 100.0]

    with wandb_server() as server:
        synced = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(files.folder.path / "wandb")],
            env=os.environ | server.environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert synced.returncode == 0, synced.stderr
        assert server.unknown == []
    for run in runs.values():
        there = server.runs[run.run["run_id"]]
        assert evaluations(there.rows()) == evaluations(run.history)
        assert there.exit_code == run.exit_code


def test_online_runs_are_live_and_end_in_the_right_state(tmp_path: Path) -> None:
    files = SweepFiles(tmp_path)
    with wandb_server() as server:
        mirror = mirror_of(files, server, upload_models=True)
        files.submit(1)
        files.step(1, 1, 3.0)
        files.report(1, 1, 20.0, 1)
        run = wait_for_run(server, "night_1")
        assert run.exit_code is None
        assert (run.fields["groupName"], run.fields["jobType"]) == ("night", "wide")
        assert run.fields["tags"] == ["tiny-bart", "grid"]
        files.summaries(1, ["민수는 사과를 샀다."], "민수는 사과를 샀다.")
        files.model(1)
        files.end(1, "finished")
        files.submit(2)
        files.report(2, 1, 10.0, 1)
        files.submit(3)
        files.end(3, "failed", "out_of_memory", "needed 8.2 GiB")
        mirror.end()
        said = mirror.wait(LIMIT_S)
        assert said.startswith("W&B: 3 runs are sent"), (tmp_path / "sweep_results/night/wandb/mirror.log").read_text()
        assert server.unknown == []
    runs = {run.fields["displayName"]: run for run in server.runs.values()}
    assert {name: run.exit_code for name, run in runs.items()} == {"night_1": 0, "night_2": 1, "night_3": 1}
    assert runs["night_2"].summary["outcome"] == "interrupted"
    assert runs["night_1"].config["plan"]["micro_batch"] == 4
    assert runs["night_1"].summary["best/rouge_combined_f1"] == 20.0
    assert evaluations(runs["night_1"].rows()) == [{METRIC: 20.0, "eval/loss": 1.0}]
    kinds = {artifact["artifactTypeName"]: artifact for artifact in server.artifacts}
    assert kinds["model"]["files"] == ["config.json"]
    assert {alias["alias"] for alias in kinds["model"]["aliases"]} == {"best", "latest"}
    assert "run_table" in kinds


PARAMETERS: dict[str, dict[str, object]] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
    "batch_size": {"values": [8, 16]},
    "model": {"value": "tiny-bart"},
}


def panels_of(block: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = block["metadata"]["panelBankSectionConfig"]["panels"]
    return {panel["config"].get("chartTitle", panel["viewType"]): panel["config"] for panel in found}


def filters_of(block: dict[str, Any]) -> dict[str, str]:
    (runs,) = block["metadata"]["runSets"]
    assert (runs["project"]["entityName"], runs["project"]["name"]) == ("lab", "dialogues")
    assert runs["sort"]["keys"] == [
        {"key": {"section": "summary", "name": "best/rouge_combined_f1"}, "ascending": False}
    ]
    filters = runs["filters"]["filters"]
    assert all((one["key"]["section"], one["op"], one["disabled"]) == ("run", "=", False) for one in filters)
    return {one["key"]["name"]: one["value"] for one in filters}


def test_a_sweep_that_is_online_has_a_report_from_its_first_run_to_its_winner(tmp_path: Path) -> None:
    files = SweepFiles(tmp_path, PARAMETERS)
    with wandb_server() as server:
        mirror = mirror_of(files, server)
        files.submit(1)
        files.report(1, 1, 20.0, 1)
        wait_until(lambda: status_of(files).report.url, "a report", known=lambda: seen_by(server))
        address = status_of(files).report.url
        assert address.startswith(f"{server.url}/lab/dialogues/reports/Sweep-night--")
        (live,) = server.views
        assert (live["id"], live["entityName"], live["projectName"]) == (None, "lab", "dialogues")
        assert (live["displayName"], live["type"]) == ("Sweep night", "runs")
        assert "The sweep is running" in live["spec"]
        files.end(1, "finished")
        files.submit(2, batch_size=16)
        files.report(2, 1, 24.0, 1)
        files.end(2, "finished")
        mirror.end()
        assert mirror.wait(LIMIT_S) == f"W&B: 2 runs are sent\nW&B report: {address}"
        assert server.unknown == []
    final = server.views[-1]
    assert (len(server.views), final["id"], final["displayName"]) == (2, "VmlldzoxMjM0", "Sweep night")
    blocks = json.loads(final["spec"])["blocks"]
    (text,) = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    run = next(run for run in server.runs.values() if run.fields["displayName"] == "night_2")
    name = run.fields["name"]
    assert f"Best run: [night_2]({server.url}/lab/dialogues/runs/{name}), `best/rouge_combined_f1` 24" in text
    assert "| batch_size | 16 |" in text
    best, every, memory = [block for block in blocks if block["type"] == "panel-grid"]
    assert filters_of(every) == filters_of(memory) == {"group": "night", "jobType": "wide"}
    assert filters_of(best) == {"group": "night", "jobType": "wide", "displayName": "night_2"}
    panels = panels_of(every)
    assert [(one["accessor"], one.get("log")) for one in panels["Settings and score"]["columns"]] == [
        ("config:learning_rate.value", True),
        ("config:batch_size.value", None),
        ("summary:best/rouge_combined_f1", None),
    ]
    assert panels["Parameter Importance"]["targetKey"] == "best/rouge_combined_f1"
    assert (panels["Learning curves"]["xAxis"], panels["Learning curves"]["metrics"]) == (
        "train/global_step",
        ["eval/rouge_combined_f1"],
    )
    assert panels["Learning rate"]["metrics"] == ["train/learning_rate"]
    assert panels_of(best)["Loss"]["metrics"] == ["train/loss", "eval/loss"]
    assert panels_of(memory)["Estimated and measured memory"]["yAxis"] == "summary:memory/measured_device_bytes"
    keep_report_address(files.folder)
    keep_report_address(files.folder)
    ledger = files.folder.load()
    assert ledger.sweep is not None
    assert (ledger.sweep.wandb_report, len(ledger.trials)) == (address, 2)
    assert files.folder.ledger.read_text().count("/reports/Sweep-night") == 1


def test_a_report_that_the_server_refuses_costs_a_line(tmp_path: Path) -> None:
    files = SweepFiles(tmp_path)
    with wandb_server() as server:
        server.refuses.add("upsertView")
        mirror = mirror_of(files, server)
        files.submit(1)
        files.report(1, 1, 20.0, 1)
        files.end(1, "finished")
        mirror.end()
        sent, report = mirror.wait(LIMIT_S).split("\n")
    assert sent == "W&B: 1 run is sent"
    assert report.startswith("W&B report: it could not be saved (")
    assert report.endswith("the server of the tests refuses upsertView)")
    (run,) = server.runs.values()
    assert (run.exit_code, evaluations(run.rows())) == (0, [{METRIC: 20.0, "eval/loss": 1.0}])
    keep_report_address(files.folder)
    ledger = files.folder.load()
    assert ledger.sweep is not None
    assert ledger.sweep.wandb_report is None


def test_no_failing_server_costs_a_run_and_sync_brings_it_later(tmp_path: Path) -> None:
    """Servers that hang, answer 500 and are out of quota from the start, and one that is not there."""
    modes: tuple[Mode, ...] = ("hangs", "errors", "no_quota")
    with wandb_server("hangs") as first, wandb_server("errors") as second, wandb_server("no_quota") as third:
        with wandb_server() as dead:
            pass
        servers = dict(zip((*modes, "dead"), (first, second, third, dead), strict=True))
        sweeps = {name: three_trials(tmp_path / name) for name in servers}
        mirrors = {name: mirror_of(sweeps[name], server, init_s=3.0, finish_s=3.0) for name, server in servers.items()}
        for mirror in mirrors.values():
            mirror.end()
        for name, mirror in mirrors.items():
            assert mirror.wait(LIMIT_S).startswith("W&B: 4 runs are kept offline; send them with: wandb sync"), name
        for name, files in sweeps.items():
            assert len(offline_runs(files)) == 4, name
            assert evaluations(offline_runs(files)["night_1"].history)[-1][METRIC] == 24.0


def test_a_server_that_dies_in_the_middle_leaves_whole_files_to_send(tmp_path: Path) -> None:
    files = SweepFiles(tmp_path)
    with wandb_server() as server:
        mirror = mirror_of(files, server, finish_s=2.0)
        files.submit(1)
        files.report(1, 1, 20.0, 1)
        run = wait_for_run(server, "night_1")
        server.mode = "errors"
        files.report(1, 2, 21.0, 2)
        files.end(1, "finished")
        mirror.end()
        said = mirror.wait(LIMIT_S).split("\n")
        assert said[0].endswith(f"wandb sync --include-online {files.folder.path}/wandb")
        (name,) = status_of(files).unsent
        assert evaluations(read_offline_run(files.folder.path / "wandb" / name).history) == [
            {METRIC: 20.0, "eval/loss": 1.0},
            {METRIC: 21.0, "eval/loss": pytest.approx(0.9)},
        ]
        assert run.exit_code is None


def wait_for_run(server: WandbServer, name: str) -> StoredRun:
    def found() -> list[StoredRun]:
        return [run for run in list(server.runs.values()) if run.fields.get("displayName") == name]

    wait_until(found, f"a run called {name}", known=lambda: seen_by(server))
    return found()[0]


def seen_by(server: WandbServer) -> str:
    return f"the server saw {server.requests} {server.unknown}"
