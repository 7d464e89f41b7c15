"""A sweep before, during and after: every state is named, with its remedy; a real server is asked for the login."""

import dataclasses
import fcntl
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machines.checks import as_text
from tune_jobs.checks.sweep_checks import (
    LeftFacts,
    LoginFacts,
    RunningFacts,
    after_checks,
    during_checks,
    login_check,
    pipeline_check,
)
from tune_jobs.checks.sweep_facts import data_of, left, leftovers_of, login, quick_config, quick_run, stage_of
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.search.inputs import configs_by_phase
from tuning_common.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sweep_check.txt"
KEY = "0123456789abcdef" * 2 + "01234567"


def test_a_sweep_in_trouble_and_what_it_left_as_text() -> None:
    running = RunningFacts(
        silent_s=4000,
        running=2,
        ended=3,
        total=9,
        anomalies=("two trials diverged",),
        busy=(("card 0", 96), ("card 1", 4)),
    )
    facts = LeftFacts(
        model="outputs/experiments/a/models/best_model",
        model_error="without tokenizer_config.json",
        report_error="outputs/sweep_results/s/analysis_report.html is older than the ledger",
        leftovers=("outputs/sweep_results/s/tune/1/a/checkpoint_000003", "b.part"),
        leftover_bytes=3 * 2**30,
        held=(("card 0", 2**30),),
        source="s.yaml",
    )
    said = as_text(during_checks(running)) + "\n\n" + as_text(after_checks(facts)) + "\n"
    assert said == GOLDEN.read_text()


def test_a_sweep_that_is_well_and_left_all_in_order_has_no_remedies() -> None:
    running = RunningFacts(silent_s=3, running=2, ended=3, total=9, busy=(("card 0", 96),))
    facts = LeftFacts(model="m", report="r")
    assert {check.status for check in (*during_checks(running), *after_checks(facts))} == {"ok"}


def test_checkpoints_of_an_unfinished_sweep_are_no_leftovers() -> None:
    facts = LeftFacts(model="m", report="r", leftovers=("c",), unfinished=2, source="s.yaml")
    checks = {check.name: check for check in after_checks(facts)}
    assert checks["temporary files"].status == "ok"
    assert checks["trials"].remedy == "python -m tune_jobs run s.yaml --resume"
    assert {check.name: check for check in after_checks(LeftFacts(model=None, report="r"))}[
        "best model"
    ].status == "failed"


@pytest.mark.parametrize(
    ("facts", "status", "told"),
    [
        (LoginFacts(wished="disabled", has_key=False), "skipped", "keeps to its files"),
        (LoginFacts(wished="offline", has_key=True), "ok", "wandb sync"),
        (LoginFacts(wished="auto", has_key=False), "ok", "runs stay offline"),
        (LoginFacts(wished="online", has_key=False), "failed", "no key is at hand"),
        (LoginFacts(wished="auto", has_key=True, error="401"), "failed", "refuses the key"),
        (LoginFacts(wished="auto", has_key=True, error="timed out"), "warning", "could not be asked (timed out)"),
        (LoginFacts(wished="auto", has_key=True, user="minji"), "ok", "logged in as minji"),
    ],
)
def test_the_login_is_judged(facts: LoginFacts, status: str, told: str) -> None:
    check = login_check(facts)
    assert check.status == status
    assert told in check.detail
    assert bool(check.remedy) == (status in ("failed", "warning"))


class Server(http.server.BaseHTTPRequestHandler):
    """Knows one key."""

    def do_POST(self) -> None:
        """Answers the viewer's query."""
        import base64

        known = self.headers["Authorization"] == "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        assert "viewer { username }" in query
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"viewer": {"username": "minji"} if known else None}}).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_the_server_says_whose_the_key_is(server: str, tmp_path: Path) -> None:
    def ask(key: str, base: str = server) -> LoginFacts:
        return login(None, {"WANDB_API_KEY": key, "WANDB_BASE_URL": base}, tmp_path)

    assert ask(KEY).user == "minji"
    assert ask("f" * 40).error == "401"
    away = ask(KEY, "http://127.0.0.1:9")
    assert away.user is None
    assert "refused" in away.error
    assert KEY not in repr(away)
    assert login(None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, tmp_path) == LoginFacts(
        wished="offline", has_key=True
    )


def test_a_held_lock_means_that_the_sweep_runs(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    assert stage_of(folder) == "after"
    with (tmp_path / ".s.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stage_of(folder) == "during"
    assert stage_of(folder) == "after"


def test_a_hostile_ledger_cleans_nothing_outside_the_experiments(tmp_path: Path) -> None:
    sweep = SweepFolder.of(tmp_path / "outputs", "s")
    inside, outside = tmp_path / "outputs" / "experiments" / "a", tmp_path / "elsewhere"
    for folder in (inside, outside):
        (folder / "checkpoint-3").mkdir(parents=True)
        (folder / "x.part").touch()
    (sweep.path / "tune" / "1").mkdir(parents=True)
    (sweep.path / "tune" / "1" / "checkpoint_000001").symlink_to(outside)
    (sweep.path / "tune" / "1" / "checkpoint_000002").mkdir()
    for number, folder in enumerate((inside, outside, inside / ".." / ".." / ".." / "elsewhere")):
        sweep.append(
            TrialRecord(trial_id=str(number), name="a", sweep="s", status="finished", experiment_dir=str(folder))
        )
    assert leftovers_of(sweep.path) == sorted(
        [inside / "checkpoint-3", inside / "x.part", sweep.path / "tune" / "1" / "checkpoint_000002"]
    )


def test_a_folder_that_is_no_sweeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no journal\.jsonl in it"):
        left(tmp_path)


def test_only_whole_paths_are_looked_for_on_every_node(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmethod: grid\nparameters:\n  learning_rate: {values: [1e-3, 1e-2]}\n"
        "  train_file: {value: /mnt/x/train.jsonl}\n  dev_file: {value: dev.jsonl}\n"
    )
    assert data_of(configs_by_phase(load_sweep(path))[""]) == ("/mnt/x/train.jsonl",)


@pytest.mark.slow
def test_the_quick_run_trains_on_the_sweeps_own_data_or_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dialogue, summary = "#Person1#: 안녕하세요.\n#Person2#: 네, 안녕하세요.", "두 사람이 인사한다."
    for name in ("train", "dev"):
        rows = [{"fname": f"{name}_{number}", "dialogue": dialogue, "summary": summary} for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "s.yaml").write_text(
        "name: s\nmethod: grid\nparameters:\n  learning_rate: {values: [1e-3, 1e-2]}\n  batch_size: {value: 64}\n"
        "  train_file: {value: train.jsonl}\n  dev_file: {value: dev.jsonl}\n"
    )
    (config, *_) = configs_by_phase(load_sweep(Path("s.yaml")))[""]
    assert quick_config(config).train_file == "train.jsonl"
    error, duration_s = quick_run(config)
    assert error == ""
    assert pipeline_check(error, duration_s).status == "ok"
    (tmp_path / "dev.jsonl").unlink()
    error, duration_s = quick_run(config)
    assert "dev.jsonl" in error
    assert pipeline_check(error, duration_s).status == "failed"
    assert dataclasses.replace(quick_config(config), seed=1).model == "tiny-bart"
