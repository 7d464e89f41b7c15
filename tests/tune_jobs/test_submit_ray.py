"""Submitted sweeps on a three-node simulated cluster with a token: two at once, a stop, a killed driver, no secret."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cluster.machines.ray_folder import private_root
from tests.cluster.machine import OUTER, Machine, missing
from tests.rays import ATTEMPTS, TOO_SLOW
from tests.tune_jobs.tiny import write_tiny_grid
from tests.waiting import LIMIT_S, ended, stretched, tail, wait_until
from tune_jobs.records.ledger import SweepFolder
from tuning_common.files import read_jsonl

REASON = missing("ss")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(REASON), reason=REASON),
]
ROOT = Path(__file__).resolve().parents[2]
IP = OUTER.partition("/")[0]  # with several GPU models, Ray needs another address than the loopback
METRIC = "eval/rouge_combined_f1"
KEY = "0123456789abcdef" * 2 + "01234567"
WANDB = "http://127.0.0.1:8088"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine with three raylets: three nodes with a simulated card each, of different sizes."""
    for attempt in range(1, ATTEMPTS + 1):
        machine = Machine(tmp_path_factory.mktemp("m"))
        try:
            started = start_nodes(machine)
            if started.returncode and TOO_SLOW in started.stdout and attempt < ATTEMPTS:
                continue  # on another machine, as this one ends here
            assert started.returncode == 0, started.stdout
            yield machine
            return
        finally:
            machine.stop()


def start_nodes(machine: Machine) -> "subprocess.CompletedProcess[str]":
    machine.start([sys.executable, "-m", "tests.tune_jobs.wandb_server", WANDB.rpartition(":")[2]])
    shared = machine.home / "shared"
    shared.mkdir()
    made = machine.python("-m", "cluster", "token")
    assert made.returncode == 0, made.stdout
    return machine.python(
        *("-m", "cluster", "start", "--head", "--ip", IP, "--state-dir", str(machine.home / "state")),
        *("--storage", str(shared), "--simulate", "1x24GiB,1x40GiB,1x80GiB"),
        WANDB_BASE_URL=WANDB,
    )


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Where a person works: sweep files, and no code."""
    return tmp_path


def write_sweep(desk: Path, name: str, *, rates: str = "1e-3, 1e-2", epochs: int = 2, wandb: str = "disabled") -> str:
    path = desk / f"{name}.yaml"
    resources, tracking = "cpus_per_trial: 0.3, share: 0.5", f"wandb: {wandb}"
    return write_tiny_grid(path, rates=rates, epochs=epochs, resources=resources, tracking=tracking).name


def tune(machine: Machine, desk: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return machine.python("-m", "tune_jobs", *arguments, cwd=desk, PYTHONPATH=str(ROOT), **environment)


def document(said: str) -> dict[str, list[dict[str, object]]]:
    """The JSON document in what a command and its libraries said."""
    assert "{" in said, said
    found, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    return cast("dict[str, list[dict[str, object]]]", found)


def results(machine: Machine, sweep: str) -> SweepFolder:
    return SweepFolder.of(machine.home / "shared" / "outputs", sweep)


def events(machine: Machine, sweep: str, kind: str) -> list[dict[str, object]]:
    return [event for event in read_jsonl(results(machine, sweep).path / "journal.jsonl")[0] if event["event"] == kind]


def check_complete(machine: Machine, sweep: str, trials: int, evaluations: int) -> None:
    """Each trial stands in the ledger as finished, each evaluation once, and the winner's model is there."""
    folder = results(machine, sweep)
    records = folder.load().trials
    assert [record.status for record in records] == ["finished"] * trials
    assert all([row["iteration"] for row in record.history] == list(range(1, evaluations + 1)) for record in records)
    assert all((Path(record.experiment_dir) / "models/best_model/model.safetensors").exists() for record in records)
    assert folder.report_html.exists()


def check_mirrored(machine: Machine, sweep: str, trials: int, evaluations: int) -> None:
    """W&B's server has one ended run for each trial, with each evaluation once, by the member's key."""
    kept = document(machine.run("curl", "-s", f"{WANDB}/kept").stdout)
    assert (kept["credentials"], kept["unknown"]) == ([f"api:{KEY}"], [])
    runs = {str(run["name"]): run for run in kept["runs"] if run["group"] == sweep}
    records = results(machine, sweep).load().trials
    scores = {Path(one.experiment_dir).name: [row[METRIC] for row in one.history] for one in records}
    assert sum(run["group"] == sweep for run in kept["runs"]) == trials
    assert [len(found) for found in scores.values()] == [evaluations] * trials
    for name, run in runs.items():
        rows = cast("list[dict[str, object]]", run["history"])
        assert ([row[METRIC] for row in rows if METRIC in row], run["exit_code"]) == (scores[name], 0), name


def test_a_cluster_takes_no_job_without_its_token(machine: Machine, desk: Path) -> None:
    sweep = write_sweep(desk, "refused")
    refused = tune(machine, desk, "submit", sweep, RAY_AUTH_MODE="disabled")
    assert refused.returncode == 2, refused.stdout
    (desk / "token").touch(0o600)
    (desk / "token").write_text("f" * 64)
    refused = tune(machine, desk, "submit", sweep, RAY_AUTH_TOKEN_PATH=str(desk / "token"))
    assert refused.returncode == 2, refused.stdout
    assert "does not take the token of" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_with_the_dashboards_address_and_the_token_alone_a_job_checks_every_node(machine: Machine) -> None:
    url = "http://127.0.0.1:8265"
    job = ("ray", "job", "submit", "--address", url, "--working-dir", ".", "--")
    checked = machine.run(*job, "python", "-m", "cluster", "check")
    for text in ("3 answered", "pinned packages as in requirements.txt, on every node", "\n0 failed,"):
        assert text in checked.stdout
    token = (machine.home / ".ray" / "auth_token").read_text()
    header = ("-H", f"Authorization: Bearer {token}")
    answers = [machine.run("curl", "-s", *more, f"{url}/api/jobs/").stdout for more in ((), header)]
    assert ['"job_id"' in answer for answer in answers] == [False, True]


def test_two_members_submit_at_once_and_both_sweeps_end_right(machine: Machine, desk: Path) -> None:
    processes = [
        machine.start(
            [sys.executable, "-m", "tune_jobs", "submit", write_sweep(desk, name, wandb=wandb), "--member", member],
            cwd=desk,
            PYTHONPATH=str(ROOT),
            WANDB_API_KEY=KEY,
        )
        for member, name, wandb in (("ann", "first", "auto"), ("bob", "second", "disabled"))
    ]
    said = [ended(process, 2 * LIMIT_S)[0] for process in processes]  # two whole sweeps at once
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    check_mirrored(machine, "first", 2, 2)
    for text, member, name in zip(said, ("ann", "bob"), ("first", "second"), strict=True):
        assert f"{member}-{name} is submitted to http://127.0.0.1:8265: " in text
        assert f"results go to {machine.home}/shared/outputs" in text
        assert "trial 2 finished" in text, "the logs were followed"
        assert f"{member}-{name} succeeded" in text
        check_complete(machine, name, 2, 2)
    (listed,) = [tune(machine, desk, "jobs", "list", "--format", "json").stdout]
    jobs = {job["name"]: job for job in json.loads(listed)}
    assert [jobs[name]["status"] for name in ("ann-first", "bob-second")] == ["SUCCEEDED"] * 2
    assert jobs["ann-first"]["entrypoint"] == "python -m tune_jobs run first.yaml"
    assert [jobs[name]["member"] for name in ("ann-first", "bob-second")] == ["ann", "bob"]
    assert jobs["ann-first"]["sweep"] == "first"
    assert re.match(r"2 of 2 trials ended \| best [\d.]+ \(trial \d\) \|", str(jobs["ann-first"]["progress"]))
    assert jobs["ann-first"]["ended_at"] is not None
    assert jobs["ann-first"]["report"] == "sweep_results/first/analysis_report.html"
    status = tune(machine, desk, "jobs", "status", "ann-first").stdout
    assert "ann-first: succeeded" in status
    assert f"{machine.home}/shared/outputs/sweep_results/first" in status, "the end of the output names the report"
    url = "http://127.0.0.1:8265"
    actors = machine.run("ray", "list", "actors", "--detail", "--format", "json", "--limit", "1000", "--address", url)
    names = set(re.findall(r'"repr_name": "([^"]+)"', actors.stdout))
    assert names >= {"first", "second"}, actors.stdout  # no team file here, else member/sweep
    # Neither the key nor the token is in what the job said, in what Ray tells of it, or in a file of the session.
    token = (machine.home / ".ray" / "auth_token").read_text()
    told = machine.run("curl", "-s", "-H", f"Authorization: Bearer {token}", "http://127.0.0.1:8265/api/jobs/").stdout
    assert "ann-first" in told
    for secret in (KEY, token):
        assert secret not in "".join(said) + told
        found = machine.run(
            "grep", "-rlsF", secret, str(private_root({})), str(machine.home / "shared"), str(machine.home / "state")
        )
        assert found.stdout == ""


def test_every_node_is_checked_and_the_sweep_before_during_and_after(machine: Machine, desk: Path) -> None:
    sweep = write_sweep(desk, "first")
    told = tune(machine, desk, "check", sweep, "--address", f"{IP}:6379", "--no-pipeline", "--format", "json")
    answer = document(told.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    names = [f"{IP} (simulated-{size}GiB)" for size in (24, 40, 80)]
    assert sorted(node["name"] for node in answer["nodes"]) == names
    assert {node["gpus"] for node in answer["nodes"]} == {1}
    assert {name: check["status"] for name, check in checks.items() if check["status"] != "ok"} == {
        "gpu driver": "warning",
        "cuda": "skipped",
        "gpu memory": "skipped",
        "data": "skipped",
        "sweep": "warning",  # its lengths cut every dialogue
        "W&B login": "skipped",
    }, told.stdout
    assert checks["storage"]["detail"].startswith(f"{machine.home}/shared: written and seen by every node")
    assert told.returncode == 0
    (machine.home / ".ray" / "auth_token").chmod(0o644)
    try:
        told = machine.python("-m", "cluster", "check", "--address", f"{IP}:6379")
    finally:
        (machine.home / ".ray" / "auth_token").chmod(0o600)
    assert told.returncode == 1, told.stdout
    assert "others may read it (mode 644); chmod 600" in told.stdout
    assert not list((machine.home / "shared").glob(".check-*"))

    folder = results(machine, "first").path
    after = tune(machine, desk, "check", str(folder), "--format", "json")
    checks = {check["name"]: check["status"] for check in document(after.stdout)["checks"]}
    assert after.returncode == 0, after.stdout
    assert {name: checks[name] for name in ("best model", "report", "temporary files", "gpu caches")} == dict.fromkeys(
        ("best model", "report", "temporary files", "gpu caches"), "ok"
    )


def test_a_stop_loses_nothing_and_resume_repeats_nothing(machine: Machine, desk: Path) -> None:
    """The plain command of the README, from a project folder, ended by `jobs stop`."""
    sweep = write_sweep(desk, "halted", epochs=60)  # it must last while two commands of ours start
    for package in ("tuning_common", "dialsum", "cluster", "tune_jobs"):
        (desk / package).symlink_to(ROOT / package)
    ray = str(Path(sys.executable).parent / "ray")
    plain = ["job", "submit", "--address", "http://127.0.0.1:8265", "--no-wait", "--submission-id", "cleo-halted"]
    plain += ["--working-dir", ".", "--"]
    began = time.monotonic()
    sent = machine.run(ray, *plain, "python", "-m", "tune_jobs", "run", sweep, cwd=desk)
    assert sent.returncode == 0, sent.stdout
    wait_until(
        lambda: {event["number"] for event in events(machine, "halted", "reported")} == {1, 2},
        "an evaluation of each trial",
        known=lambda: tail(results(machine, "halted").path / "journal.jsonl"),
    )
    started_s = time.monotonic() - began
    during = tune(machine, desk, "check", str(results(machine, "halted").path), "--format", "json")
    assert {check["name"]: check["status"] for check in document(during.stdout)["checks"]}["progress"] == "ok"
    asked = time.monotonic()
    stopped = tune(machine, desk, "jobs", "stop", "cleo-halted")
    assert stopped.returncode == 0, stopped.stdout
    assert "cleo-halted: stopped" in stopped.stdout
    assert time.monotonic() - asked < stretched(60, quiet_s=30, took_s=started_s)
    logs = tune(machine, desk, "jobs", "logs", "cleo-halted").stdout
    assert "stopped before the end; resume with" in logs, logs
    before = len(events(machine, "halted", "reported"))
    saved = {str(event["number"]): event for event in events(machine, "halted", "saved")}

    resumed = tune(machine, desk, "submit", sweep, "--member", "cleo", "--resume")
    assert resumed.returncode == 0, resumed.stdout
    assert "cleo-halted-2 succeeded" in resumed.stdout
    check_complete(machine, "halted", 2, 60)
    reports = [(event["number"], event["evaluation"]) for event in events(machine, "halted", "reported")]
    assert len(reports) - len(set(reports)) <= len(saved), "at most the evaluation that was under way is made again"
    assert before < len(reports)


def test_a_driver_that_dies_is_started_again_and_goes_on(machine: Machine, desk: Path) -> None:
    sweep = write_sweep(desk, "killed", epochs=8, wandb="auto")
    began = time.time()
    process = machine.start(
        [sys.executable, "-m", "tune_jobs", "submit", sweep, "--member", "dan", "--supervise"],
        cwd=desk,
        PYTHONPATH=str(ROOT),
        WANDB_API_KEY=KEY,
    )
    wait_until(
        lambda: len(events(machine, "killed", "saved")) >= 2,
        "two checkpoints",
        known=lambda: tail(results(machine, "killed").path / "journal.jsonl"),
    )
    found = machine.run("pgrep", "-f", r"tune_jobs run killed.yaml$").stdout.split()
    assert len(found) == 1, found
    machine.run("kill", "-9", found[0])
    died = time.time()
    said, _ = ended(process)
    assert process.returncode == 0, said
    assert "the driver was ended by signal 9; it starts again and goes on where it was" in said
    check_complete(machine, "killed", 2, 8)
    check_mirrored(machine, "killed", 2, 8)
    starts = [float(str(event["at"])) for event in events(machine, "killed", "started")]
    again = min(at for at in starts if at > died)
    assert again - died < stretched(60, quiet_s=30, took_s=min(starts) - began)
    assert len(re.findall(r"trial \d finished", said)) == 2
