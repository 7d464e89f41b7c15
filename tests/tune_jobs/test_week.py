"""The weekly dashboard: sums over ledgers, the week before, scales that do not mix, W&B's GraphQL on a local server."""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import METRIC, sweep_record, wide_ledger, write
from tune_jobs.analysis.week_sources import Source, end_of_week, merged, read_output
from tune_jobs.analysis.weekly import Scale, WeekRun, runs_of, summarize
from tune_jobs.commands import week_cli
from tune_jobs.records.ledger import Ledger, TrialRecord
from tune_jobs.report.week_page import build_week_page, figure_rows, headline, week_tiles
from tune_jobs.tracking.wandb_runs import MirroredRun, read_project, week_run
from tuning_common.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
END = datetime(2026, 11, 25, tzinfo=UTC)
KO = Scale(metric=METRIC, goal="maximize", language="ko", data="dev.csv")


def run(name: str, days_ago: float, **changes: object) -> WeekRun:
    one = WeekRun(
        name=name, sweep="wide", member="지민", model="kobart", outcome="finished", gpu_s=3600.0, wall_s=7200.0,
        at=(END - timedelta(days=days_ago)).timestamp(), scale=KO, score=20.0,
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]


RUNS = [
    run("old", 15.0, score=99.0),
    run("first_moment_before", 14.0, score=21.0),
    run("last_moment_before", 7.001, member="서연", outcome="failed", score=None, scale=None),
    run("first_moment", 7.0, score=25.0),
    run("t5", 3.0, model="t5", outcome="stopped", score=30.0),
    run("broken", 2.0, outcome="oom", score=None, scale=None, reason="needed 8 GiB"),
    run("again", 1.0, outcome="oom", score=None, scale=None, reason="needed 8 GiB"),
    run("goes_on", 0.5, outcome="running"),
    run("english", 0.2, scale=replace(KO, language="en"), score=48.0),
    run("too_late", 0.0),
]


def test_a_week_is_seven_days_against_the_seven_before() -> None:
    week = summarize(RUNS, END)
    assert (week.total.now.runs, week.total.before.runs) == (6, 2)
    assert (week.total.now.good, week.total.now.bad, week.total.now.success) == (3, 2, 0.6)
    assert week.total.before.success == 0.5
    assert week.total.now.gpu_s == 6 * 3600.0
    assert (week.total.now.best, week.total.now.best_run, week.total.before.best) == (30.0, "t5", 21.0)
    assert week.reasons == (("needed 8 GiB", 2),)
    assert [pair.now.runs for pair in week.models.values()] == [5, 1]
    assert {name: (pair.now.runs, pair.before.runs) for name, pair in week.members.items()} == {
        "지민": (6, 1),
        "서연": (0, 1),
    }


def test_scores_of_different_scales_never_meet() -> None:
    week = summarize(RUNS, END)
    assert week.scale == KO
    assert {scale.language: (pair.now.best, pair.now.runs) for scale, pair in week.scales.items()} == {
        "ko": (30.0, 3),
        "en": (48.0, 1),
    }
    loss = Scale(metric="eval/loss", goal="minimize")
    lower = summarize([run("a", 1.0, scale=loss, score=2.0), run("b", 1.0, scale=loss, score=1.5)], END)
    assert lower.total.now.best == 1.5


def test_days_count_every_run_once() -> None:
    days = summarize(RUNS, END).days()
    assert [f"{day:%m-%d}" for day, _ in days][0::13] == ["11-11", "11-24"]
    assert len(days) == 14
    assert sum(len(runs) for _, runs in days) == 8


def test_simulated_cards_are_in_no_sum_of_gpu_hours() -> None:
    trial = replace(wide_ledger(1)[0], simulated=True, gpu_seconds=100.0)
    (one,), undated = runs_of(Ledger(sweep=sweep_record(), trials=(trial,)))
    assert (one.gpu_s, one.simulated_gpu_s, undated) == (0.0, 100.0, 0)
    week = summarize([replace(one, at=(END - timedelta(days=1)).timestamp())], END)
    assert week_tiles(week)[2].detail.endswith("no real GPU was used")
    page = build_week_page(week, ())
    assert "On simulated cards: 1.67 GPU-minutes, nothing in the week before" in page
    assert "GPU-minutes on simulated cards a day" in page
    assert "nothing in the week before; no real GPU was used" in page


def test_a_table_has_no_column_in_which_nothing_stands_and_no_two_of_one_name() -> None:
    header, rows = figure_rows(summarize(RUNS, END).members, "Member", KO)
    counts, sums = ["Member", "Runs", "Runs before", "Success", "Failed"], ["GPU-hours", "GPU-hours before", "Time"]
    assert header == [*counts, *sums, "Best", "Best before"]
    bare = [run("a", 1.0, gpu_s=0.0, score=None)]
    header, rows = figure_rows(summarize(bare, END).members, "Member", KO)
    assert header == ["Member", "Runs", "Runs before", "Success", "Failed", "Time"]
    assert {len(row) for row in rows} == {6}


def test_runs_that_only_write_summaries_count_by_the_experiment_that_trained() -> None:
    told = {"model": "/nas/outputs/experiments/wide_t5_lr1e-04/models/best_model"}
    trial = replace(wide_ledger(1)[0], resolved=told, sampled={})
    (one,), _ = runs_of(Ledger(sweep=sweep_record(), trials=(trial,)))
    assert one.model == "wide_t5_lr1e-04"


def test_a_trial_that_never_started_counts_with_its_sweep_and_one_without_any_time_is_told() -> None:
    refused = TrialRecord(trial_id="1", name="a", sweep="s", status="refused")
    (one,), undated = runs_of(Ledger(sweep=sweep_record(started_at=5.0, member=None), trials=(refused,)))
    assert (one.at, one.member, one.model, undated) == (5.0, "not named", "not named", 0)
    assert runs_of(Ledger(sweep=sweep_record(started_at=None), trials=(refused,))) == ([], 1)


def test_all_ledgers_are_read_and_a_broken_one_is_told(tmp_path: Path) -> None:
    results = tmp_path / "sweep_results"
    write(results / "one", wide_ledger(4))
    write(results / "one_0921_120000", wide_ledger(3, seed=2))
    write(results / "staged", wide_ledger(4))  # a staged sweep repeats the trials of its phases
    (write(results / "broken", []).ledger).write_text('{"event": "trial", "trial": 1}\n')
    source = read_output(tmp_path)
    assert len(source.runs) == 7
    assert len(source.remarks) == 1
    assert source.remarks[0].startswith("1 torn lines of broken could not be read: line 1: unknown key")
    with pytest.raises(RequestError, match="give the output folder"):
        read_output(tmp_path / "nothing")


def test_dates() -> None:
    now = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
    assert end_of_week(None, now) == now
    assert end_of_week("2026-11-24", now) == END
    with pytest.raises(RequestError, match="is no date; write for example --until 2026-11-25"):
        end_of_week("24.11.2026", now)


def test_an_empty_week_says_so() -> None:
    week = summarize(RUNS[:3], END)
    assert headline(week) == "No run ended in this week, 2 in the week before"
    assert "No run ended" in build_week_page(summarize([], END), ())


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    week_cli.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_writes_text_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [replace(trial, member="<b>", sweep="wide_대화요약") for trial in wide_ledger(12)]
    write(tmp_path / "sweep_results" / "wide", trials)
    assert week_cli.run(arguments(str(tmp_path), "--until", "2026-09-22")) == 0
    text = capsys.readouterr().out
    assert text.startswith("12 runs, none in the week before; ")
    html = (tmp_path / "weeks" / "week_2026-09-22.html").read_text(encoding="utf-8")
    assert "wide_대화요약" in html
    assert "&lt;b&gt;" in html
    assert not re.search(r"(?:src|href)=|https?://", html)
    assert week_cli.run(arguments(str(tmp_path), "--until", "2026-09-29", "--format", "json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["total"]["week"]["runs"], answer["total"]["week_before"]["runs"]) == (0, 12)
    assert answer["members"]["<b>"]["week_before"]["bad"] == answer["total"]["week_before"]["bad"] == 1


class Server(ThreadingHTTPServer):
    """Answers the two queries that wandb's public API asks, in pages of one run, and refuses every other."""

    daemon_threads = True

    def __init__(self, nodes: list[dict[str, object]], status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.nodes, self.status = nodes, status
        self.asked: list[Mapping[str, object]] = []

    def answer(self, query: str, variables: Mapping[str, object]) -> dict[str, object]:
        if "viewer" in query:
            return {"viewer": {"id": "v", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": {}}}
        assert "query Runs(" in query, query
        self.asked.append(variables)
        at = int(str(variables.get("cursor") or 0))
        edges = [{"node": self.nodes[at], "cursor": str(at + 1)}] if at < len(self.nodes) else []
        page = {"endCursor": str(at + 1), "hasNextPage": at + 1 < len(self.nodes)}
        count = len(self.nodes)
        return {"project": {"internalId": "1", "runCount": count, "runs": {"edges": edges, "pageInfo": page}}}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None: ...

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(self.server.status if "Runs(" in asked["query"] else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextmanager
def serving(nodes: list[dict[str, object]], status: int = 200) -> Iterator[Server]:
    server = Server(nodes, status)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def node(name: str, *, state: str = "finished", **changes: object) -> dict[str, object]:
    """A run as W&B's GraphQL tells it."""
    resolved = {"model": "kobart", "language": "ko", "dev_file": "data/dev.csv"}
    config = {"resolved": resolved, "bundle": {"gpus": 0.25}, "simulated": False}
    summary = {"best/rouge_combined_f1": 33.5, "outcome": "stopped", "_wandb": {"runtime": 7200}}
    return {
        "id": name, "projectId": "1", "tags": [], "name": name, "displayName": name, "sweepName": None, "state": state,
        "group": "mirrored", "jobType": "trial", "commit": None, "readOnly": False, "description": "", "notes": "",
        "createdAt": "2026-11-20T10:00:00Z", "heartbeatAt": "2026-11-20T12:00:00Z", "systemMetrics": "{}",
        "summaryMetrics": json.dumps(summary), "historyLineCount": 3, "historyKeys": None,
        "user": {"name": "서연", "username": "seoyeon"},
        "config": json.dumps({key: {"value": value} for key, value in config.items()}),
    } | changes  # fmt: skip


def week_with(server: Server, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "k" * 40,
        "WANDB_ERROR_REPORTING": "false", "HOME": str(folder), "TZ": "UTC",
    }  # fmt: skip
    words = ["week", str(folder), "--until", "2026-11-24", "--wandb", "team/summaries", "--format", "json"]
    return subprocess.run(
        [sys.executable, "-m", "tune_jobs", *words], env=environment, capture_output=True, text=True, timeout=300
    )


def test_runs_that_only_wandb_knows_are_counted(tmp_path: Path) -> None:
    known = replace(
        wide_ledger(1)[0], name="in_both", ended_at=END.timestamp() - 9e4, gpu_seconds=900.0, simulated=False
    )
    write(tmp_path / "sweep_results" / "wide", [known])
    nodes = [node("in_both"), node("mirrored"), node("crashed", state="crashed", summaryMetrics="{}")]
    with serving(nodes) as server:
        done = week_with(server, tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    total = answer["total"]["week"]
    assert (total["runs"], total["good"], total["bad"]) == (3, 2, 1)
    assert total["gpu_s"] == 900.0 + 0.25 * 7200
    assert answer["members"]["seoyeon"]["week"]["runs"] == 2
    assert answer["sweeps"]["mirrored"]["week"]["best"] == 33.5
    assert {scale["data"]: scale["week"]["best"] for scale in answer["scales"]}["dev.csv"] == 33.5
    assert [one["filters"] for one in server.asked] == ['{"created_at": {"$gte": "2026-11-04T00:00:00Z"}}'] * 3
    assert answer["remarks"] == []


def test_a_wandb_that_refuses_is_told_and_the_ledgers_stand_alone(tmp_path: Path) -> None:
    write(tmp_path / "sweep_results" / "wide", wide_ledger(2))
    with serving([], status=403) as server:
        done = week_with(server, tmp_path)
    assert done.returncode == 0, done.stderr
    (remark,) = json.loads(done.stdout)["remarks"]
    assert remark.startswith("W&B team/summaries could not be read and is left out: ")


def test_a_wandb_that_does_not_answer_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr("tune_jobs.tracking.wandb_runs._fetch", lambda path, since: never.wait())
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    found = read_project("team/summaries", END, patience_s=0.05)
    never.set()
    assert found == Source(runs=(), remarks=("W&B team/summaries did not answer within 0.05 s and is left out.",))


def test_what_cannot_be_asked_of_wandb_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RequestError, match="must be ENTITY/PROJECT"):
        read_project("summaries", END)
    with pytest.raises(RequestError, match="run `wandb login` once"):
        read_project("team/summaries", END)


def test_foreign_runs_are_read_as_far_as_they_go() -> None:
    mirrored = MirroredRun(
        name="x", state="running", group="", user="", created_at="2026-11-20T10:00:00", heartbeat_at="",
        config={"model": "google/mt5-small"}, summary={"_runtime": 60},
    )  # fmt: skip
    found = week_run(mirrored)
    assert (found.model, found.outcome, found.member, found.sweep) == ("mt5-small", "running", "not named", "not named")
    assert (found.wall_s, found.gpu_s, found.score) == (60.0, 0.0, None)
    by_loss = replace(mirrored, config={"metric": "eval/loss"}, summary={"best/loss": 1.5, "eval/loss": 1.7})
    assert (week_run(by_loss).score, week_run(by_loss).scale) == (1.5, Scale(metric="eval/loss", goal="minimize"))
    assert datetime.fromtimestamp(found.at, UTC) == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert merged([Source(runs=(found,), remarks=("a",)), Source(runs=(found,), remarks=("b",))]) == Source(
        runs=(found,), remarks=("a", "b")
    )
