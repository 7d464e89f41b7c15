"""What is sent to a cluster: the files that a sweep names, a name, a command, a sealed key; no secret in the open."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machines.jobs import Job
from tune_jobs.commands import jobs_cli
from tune_jobs.config.language import Language, use_language
from tune_jobs.config.result_paths import shared_folders_of, with_output_folder
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.view import screen
from tune_jobs.jobs.package import LIMIT_BYTES, files_of, write_package
from tune_jobs.jobs.sealed_key import FILE, opened, own_key, seal, take_key
from tune_jobs.jobs.submission import Submission, entrypoint_of, free_name, is_same, job_name, write_submission
from tune_jobs.records.progress import SweepFrame, SweepProgress, TrialProgress
from tuning_common.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef" * 2 + "01234567"
TOKEN = "t" * 64
SWEEP = """
name: mine
method: grid
base_config: base.yaml
parameters:
  learning_rate: {values: [1e-3, 1e-2]}
  train_file: {value: data/train.jsonl}
  dev_file: {value: data/dev.jsonl}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "base.yaml").write_text("model: tiny-bart\n")
    for name in ("train", "dev"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def targets(project: Path, sweep: str = "mine.yaml") -> set[str]:
    return {file.target.as_posix() for file in files_of(load_sweep(Path(sweep)), ROOT, project)}


def test_a_package_is_the_code_and_what_the_sweep_names(project: Path) -> None:
    (project / "unrelated.bin").write_bytes(b"x")
    found = targets(project)
    assert {"mine.yaml", "base.yaml", "data/train.jsonl", "data/dev.jsonl"} == {
        target for target in found if target.split("/")[0] not in ("tuning_common", "dialsum", "cluster", "tune_jobs")
    }
    assert {"tune_jobs/__main__.py", "dialsum/sample_data/scenes/work.yaml", "tune_jobs/report/page.css"} <= found
    assert not [target for target in found if "__pycache__" in target or target.endswith(".pyc")]
    assert sum(file.size_bytes for file in files_of(load_sweep(Path("mine.yaml")), ROOT, project)) < LIMIT_BYTES


def test_a_written_package_is_what_was_measured(project: Path, tmp_path: Path) -> None:
    files = files_of(load_sweep(Path("mine.yaml")), ROOT, project)
    target = tmp_path / "package"
    assert write_package(files, target) == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert (target / "mine.yaml").read_text() == SWEEP


def test_too_much_is_refused_with_the_largest_files(project: Path) -> None:
    with (project / "data" / "train.jsonl").open("wb") as stream:
        stream.truncate(6 * 10**6)
    with pytest.raises(RequestError) as refused:
        targets(project)
    assert "at most 4.77 MiB travel with a sweep; put large files on the shared storage" in refused.value.message
    assert refused.value.problems[0] == "data/train.jsonl: 5.72 MiB"


def test_every_file_that_cannot_travel_is_named_at_once(project: Path) -> None:
    (project / "data" / "dev.jsonl").unlink()
    (project / "data" / "dev.jsonl").mkdir()
    (project / "mine.yaml").write_text(SWEEP.replace("data/train.jsonl", "../elsewhere.jsonl"))
    (project.parent / "elsewhere.jsonl").write_text("{}\n")
    with pytest.raises(RequestError) as refused:
        targets(project)
    first, second = sorted(refused.value.problems)
    assert "../elsewhere.jsonl: lies outside the working folder" in first
    assert "dev.jsonl: folders are not packaged" in second
    assert "put it on the shared storage" in first


def test_a_whole_path_stays_at_home_and_a_sweep_file_from_elsewhere_lies_at_the_top(project: Path) -> None:
    data = project.parent / f"{project.name}_big.jsonl"
    data.write_text("{}\n")
    sweep = project.parent / f"{project.name}_sweep.yaml"
    sweep.write_text(SWEEP.replace("data/train.jsonl", str(data)))
    found = targets(project, str(sweep))
    assert sweep.name in found
    assert data.name not in found
    assert entrypoint_of(str(sweep), project) == f"python -m tune_jobs run {sweep.name}"


def test_the_ray_ignore_list_keeps_the_plain_command_under_the_limit(tmp_path: Path) -> None:
    """Measured by Ray's own packaging, on this very project."""
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path / "package.zip"
    create_package(str(ROOT), target, include_gitignore=True)
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(target)], capture_output=True, text=True)
    assert target.stat().st_size < LIMIT_BYTES
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert {"tune_jobs/__main__.py", "tune_jobs/sweeps/sample.yaml", "configs/tiny.yaml"} <= set(names)
    assert [name for name in names if name.startswith((".git/", ".venv", "tests/", "outputs/", "benchmarks/"))] == []


def test_names_are_the_members_and_the_sweeps() -> None:
    assert job_name("min.ji", "wide") == "min.ji-wide"
    assert free_name("a-b", {"a-b"}) == "a-b-2"
    assert is_same("a-b-2", "a-b")
    assert not is_same("a-bx", "a-b")
    for wrong in ("../x", "a b", "", "-x", "김"):
        with pytest.raises(RequestError, match="--member must be"):
            job_name(wrong, "wide")


def test_a_key_is_sealed_with_the_token_and_shown_nowhere(project: Path, tmp_path: Path) -> None:
    files = files_of(load_sweep(Path("mine.yaml")), ROOT, project)
    submission = Submission(name="a-mine", entrypoint="python", files=files, key=KEY, token=TOKEN)
    folder = tmp_path / "package"
    write_submission(submission, folder)
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY.encode() not in content
            assert TOKEN.encode() not in content
    assert KEY not in repr(submission)
    assert TOKEN not in repr(submission)
    assert opened((folder / FILE).read_bytes(), TOKEN) == KEY
    with pytest.raises(RequestError, match="every machine needs the same token"):
        opened((folder / FILE).read_bytes(), "u" * 64)


def test_a_job_opens_its_key_with_the_machines_token(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(seal(KEY, TOKEN))
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    environment = {"RAY_AUTH_TOKEN_PATH": str(token)}
    assert take_key(tmp_path, environment, tmp_path) is None
    assert environment["WANDB_API_KEY"] == KEY
    token.write_text("other" * 10)
    trouble = take_key(tmp_path, {"RAY_AUTH_TOKEN_PATH": str(token)}, tmp_path)
    assert trouble is not None
    assert trouble.startswith("W&B goes on offline: ")
    assert KEY not in trouble
    assert take_key(tmp_path / "absent", {}, tmp_path) is None


def test_the_key_is_the_environments_or_that_of_wandb_login(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert own_key({}, tmp_path) == KEY
    assert own_key({"WANDB_API_KEY": "x"}, tmp_path) == "x"
    assert own_key({"WANDB_BASE_URL": "http://127.0.0.1:8080"}, tmp_path) is None
    assert own_key({}, tmp_path / "nobody") is None


def test_results_of_a_submitted_sweep_go_to_the_shared_folder(project: Path) -> None:
    sweep = load_sweep(Path("mine.yaml"))
    shared = project / "shared"
    shared.mkdir()
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    assert with_output_folder(sweep, None, {}, project).tracking.output_dir == "outputs"
    assert with_output_folder(sweep, Path("elsewhere"), {}, project).tracking.output_dir == "elsewhere"
    on_cluster = job | {"TUNE_JOBS_STORAGE": str(shared)}
    assert with_output_folder(sweep, None, on_cluster, project).tracking.output_dir == f"{shared}/outputs"
    assert with_output_folder(sweep, Path("/data/x"), on_cluster, project).tracking.output_dir == "/data/x"
    assert (
        with_output_folder(sweep, None, job, project).tracking.output_dir == f"{project}/dialogue-summarizers/outputs"
    )
    with pytest.raises(RequestError, match="is it mounted"):
        with_output_folder(sweep, None, job | {"TUNE_JOBS_STORAGE": "/absent/folder"}, project)


@pytest.mark.parametrize("address", ["s3://bucket/results", "gs://bucket", "hdfs://name:8020/results"])
def test_results_on_an_object_store_are_refused_with_what_works(project: Path, address: str) -> None:
    (project / "there.yaml").write_text(f"{SWEEP}tracking: {{output_dir: '{address}'}}\n")
    shared = {"TUNE_JOBS_STORAGE": address}
    for name, output, environment in (
        ("mine", Path(address), {}), ("there", None, {}), ("mine", None, shared),
    ):  # fmt: skip
        sweep = load_sweep(Path(f"{name}.yaml"))
        with pytest.raises(RequestError) as caught:
            with_output_folder(sweep, output, environment, project)
        assert str(caught.value).startswith(f"{address}: ")
        assert "a folder that all machines mount" in str(caught.value)


def test_data_that_came_with_a_job_is_kept_under_its_content_where_every_node_finds_it(project: Path) -> None:
    folders = shared_folders_of(project / "shared", {"TUNE_JOBS_STORAGE": str(project)}, project)
    first = folders.permanent_path(Path("data/train.jsonl"))
    assert first.is_relative_to(project / "shared" / "inputs")
    assert first.read_text() == "{}\n"
    assert folders.permanent_path(Path("data/train.jsonl")) == first
    Path("data/train.jsonl").write_text("{} \n")
    other = folders.permanent_path(Path("data/train.jsonl"))
    assert other != first
    assert first.read_text() == "{}\n"
    assert folders.permanent_path(first) == first
    other.unlink()
    other.symlink_to(first)  # what somebody planted under the hash of another content is replaced
    assert folders.permanent_path(Path("data/train.jsonl")).read_text() == "{} \n"
    assert not other.is_symlink()
    assert first.read_text() == "{}\n"
    at_home = shared_folders_of(project, {}, project)
    assert at_home.permanent_path(Path("data/train.jsonl")) == project / "data" / "train.jsonl"


def test_the_member_of_the_command_line_goes_before_the_files(project: Path) -> None:
    sweep = load_sweep(Path("mine.yaml"))
    assert sweep.with_member("ann").team.member == "ann"
    assert sweep.with_member(None) is sweep


def submit(project: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    return subprocess.run(
        [sys.executable, "-m", "tune_jobs", "submit", "mine.yaml", *arguments],
        cwd=project,
        env=plain | {"PYTHONPATH": str(ROOT), "HOME": str(project)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_dry_run_shows_what_would_be_sent_and_not_the_key(project: Path) -> None:
    (project / ".ray").mkdir()
    (project / ".ray" / "auth_token").touch(0o600)
    (project / ".ray" / "auth_token").write_text(TOKEN)
    shown = submit(project, "--dry-run", "--member", "ann", "--supervise", WANDB_API_KEY=KEY)
    assert shown.returncode == 0, shown.stderr
    assert "job:     ann-mine\ncommand: python -m tune_jobs run mine.yaml --supervise\n" in shown.stdout
    assert "no team.yaml here: --member names the job, and no quota is used" in shown.stderr
    assert "data/train.jsonl" in shown.stdout
    assert "W&B key: sealed with the cluster token" in shown.stdout
    assert KEY not in shown.stdout + shown.stderr
    assert json.dumps(TOKEN) not in shown.stdout + shown.stderr


def test_with_a_team_file_the_members_quota_is_used(project: Path) -> None:
    (project / "team.yaml").write_text("members:\n  ann: {quota_gpus: 1}\n")
    shown = submit(project, "--dry-run", "--member", "ann", "--start-at", "22:00", "--language", "ko")
    assert "command: python -m tune_jobs run mine.yaml --member ann --start-at 22:00 --language ko\n" in shown.stdout
    assert "team.yaml\n" in shown.stdout
    assert "W&B key: none is sent" in shown.stdout


def test_no_token_no_submission(project: Path) -> None:
    refused = submit(project)
    assert refused.returncode == 2
    assert "no token; make one with `python -m cluster token`" in refused.stderr
    assert "RAY_AUTH_MODE=disabled" in refused.stderr


def test_where_no_cluster_answers_the_remedy_is_named(project: Path) -> None:
    refused = submit(project, "--address", "http://127.0.0.1:9", RAY_AUTH_MODE="disabled")
    assert refused.returncode == 2
    assert "http://127.0.0.1:9: no cluster answers" in refused.stderr
    assert "ssh -N -L 8265:127.0.0.1:8265 HEAD" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_list_of_jobs_shows_progress_while_they_run_and_when_they_ended() -> None:
    running = Job(name="ann-wide", status="RUNNING", started_at=1_000_000.0)
    assert jobs_cli.row(running, "3 of 10 trials ended", 1_000_060.0)[1:3] == ["running", "1 min 00 s"]
    assert jobs_cli.row(running, "3 of 10 trials ended", 1_000_060.0)[4:] == ["", "3 of 10 trials ended"]
    over = Job(name="ann-wide", status="SUCCEEDED", started_at=1_000_000.0, ended_at=1_000_060.0)
    begun, ended = jobs_cli.row(over, "", 2_000_000.0)[3:5]
    assert begun
    assert ended
    assert jobs_cli.progress_line("\n \n") == ""
    assert jobs_cli.progress_line("refused\n") == "refused"
    frame = SweepFrame(sweep="wide", metric="m", goal="maximize", total=1, longest=2, slots=1)
    trial = TrialProgress(number=1, name="wide_1", status="finished", iteration=2, last=7.25, best=7.25, run_s=10.0)
    shown: dict[Language, str] = {
        "en": "1 of 1 trials ended | best 7.250 (trial 1) | 10 s",
        "ko": "시도 1개 중 1개 끝남 | 최고 7.250(시도 1) | 10초",
    }
    for language, line in shown.items():
        with use_language(language):
            output = screen(SweepProgress(frame=frame, trials={1: trial}, now_s=10.0))
        assert jobs_cli.progress_line(f"{output}\nbest model: ...\n") == line
