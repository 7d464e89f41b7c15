"""A snapshot holds what is needed to run an experiment again, and no secret, wherever one was planted."""

import importlib.metadata
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tune_jobs.records import snapshot
from tune_jobs.records.code_state import read_code
from tune_jobs.records.redaction import HIDDEN, Redactor, is_secret_file
from tune_jobs.records.snapshot import current_state, file_state, keep_code, load_snapshot, take_snapshot
from tune_jobs.records.surroundings import installed_packages, read_surroundings

PLANTED = {  # none of them is or was a real key
    "W&B": "0123456789abcdef0123456789abcdef01234567",
    "hub": "hf_" + "Q" * 34,
    "code host": "ghp_" + "w" * 36,
    "cloud": "AKIA" + "Z" * 16,
    "password": "correct-horse-battery",
    "variable": "plain-words-that-no-pattern-knows",
    "private key": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit and data, in place of this one."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "train.py").write_text("rate = 1\n")
    (folder / ".env").write_text("A=1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    (folder / "train.jsonl").write_text('{"fname": "a"}\n')
    monkeypatch.setattr(snapshot, "CODE_FOLDER", folder)
    return folder


def config(folder: Path) -> dict[str, object]:
    data = str(folder / "train.jsonl")
    return {"model": "tiny-bart", "train_file": data, "dev_file": data, "test_file": None, "seed": 7}


def everything(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_snapshot_tells_code_data_surroundings_and_seeds(repository: Path) -> None:
    (repository / "train.py").write_text("rate = 2\n")
    (repository / "notes.txt").write_text("new\n")
    keep_code(repository / "sweep", "python -m tune_jobs run a.yaml", {"search": 3})
    take_snapshot(repository / "one", config(repository), sweep_snapshot=repository / "sweep", sweep="wide")
    found = load_snapshot(repository / "one")
    assert found is not None
    assert (found.code.branch, found.code.dirty) == ("trunk", ("train.py",))
    assert found.code.commit is not None
    assert len(found.code.commit) == 40
    assert set(found.code.untracked) == {"notes.txt", "train.jsonl"}
    assert (found.command, found.seeds, found.sweep) == (
        "python -m tune_jobs run a.yaml",
        {"training": 7, "search": 3},
        "wide",
    )
    assert found.data["train_file"] == file_state(repository / "train.jsonl")
    assert found.data["train_file"].size_bytes == 15
    assert found.surroundings.torch.startswith(found.surroundings.packages["torch"].split("+")[0])
    diff = (repository / "one" / "changes.diff").read_text()
    assert "-rate = 1\n+rate = 2" in diff
    git(repository, "stash", "-q")
    (repository / "changes.diff").write_text(diff)
    git(repository, "apply", "changes.diff")
    assert (repository / "train.py").read_text() == "rate = 2\n"


@pytest.mark.parametrize("place", ["command", "diff", "variable", "config", "name", "secret file"])
def test_no_planted_secret_is_kept(repository: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("TEAM_SECRET", PLANTED["variable"])
    monkeypatch.setenv("WANDB_API_KEY", PLANTED["W&B"])
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    command, chosen = "run", config(repository)
    if place == "command":
        command = (
            f"HF_TOKEN={PLANTED['hub']} python -m x --password {PLANTED['password']} --note {PLANTED['variable']}"
            f" https://me:{PLANTED['password']}@host/data --api-key={PLANTED['cloud']}"
        )
    elif place == "diff":
        bare = [f"x = '{PLANTED[name]}'" for name in ("W&B", "hub", "code host", "cloud", "variable")]
        block = ["-----BEGIN PRIVATE KEY-----", PLANTED["private key"], "-----END PRIVATE KEY-----"]
        lines = [*bare, f'db_password: "{PLANTED["password"]}"', *block, ""]
        (repository / "train.py").write_text("\n".join(lines))
    elif place == "config":
        chosen["model"] = f"https://{PLANTED['hub']}@hub/{PLANTED['variable']}"
    elif place == "name":
        (repository / f"notes_{PLANTED['variable']}.txt").write_text("x")
    elif place == "secret file":
        (repository / ".env").write_text("\n".join(f"A{n}={value}" for n, value in enumerate(PLANTED.values())))
        (repository / "id_rsa").write_text(PLANTED["private key"])
    keep_code(repository / "sweep", command, {})
    take_snapshot(repository / "one", chosen, sweep_snapshot=repository / "sweep")
    kept = everything(repository / "one") + everything(repository / "sweep")
    assert [name for name, value in PLANTED.items() if value in kept] == []
    assert (HIDDEN in kept) == (place != "variable")
    assert "4096" in kept
    if place in ("diff", "secret file"):
        found = load_snapshot(repository / "one")
        assert found is not None
        assert found.code.hidden >= 1


def test_code_that_speaks_of_tokens_stays_readable() -> None:
    code = """
+    token = tokenizer.eos_token
+    max_new_tokens: int = 128
+    tokens = sorted(words, key=lambda word: -len(word))
+    self.auth = auth
+index 0123456789
+    return {"eos_token_id": 2, "api_key": os.environ["KEY"]}
"""
    assert Redactor().hide(code) == code


def test_names_of_files_with_secrets() -> None:
    names = (
        ".env",
        "a/.env.local",
        "server.pem",
        "aws_credentials",
        "id_ed25519",
        "token.py",
        "keys.md",
        "environment.yml",
    )
    assert [is_secret_file(name) for name in names] == [True, True, True, True, True, False, False, False]


def test_without_git_a_reason_is_given(tmp_path: Path) -> None:
    state = read_code(tmp_path, Redactor())
    assert (state.commit, state.reason) == (None, "not a git repository")
    git(tmp_path, "init", "-q")
    assert read_code(tmp_path, Redactor()).reason == "the repository has no commit yet"


def test_a_later_attempt_keeps_the_first_snapshot_and_notes_where_it_went_on(repository: Path) -> None:
    take_snapshot(repository / "one", config(repository))
    first = (repository / "one" / "snapshot.json").read_text()
    take_snapshot(repository / "one", config(repository), goes_on=True)
    assert (repository / "one" / "snapshot.json").read_text() == first
    restart = json.loads((repository / "one" / "restarts.jsonl").read_text())
    assert restart["surroundings"]["python"] == json.loads(first)["surroundings"]["python"]


def test_changed_data_has_another_checksum(repository: Path) -> None:
    before = current_state(config(repository)).data["dev_file"]
    (repository / "train.jsonl").write_text('{"fname": "b"}\n')
    after = current_state(config(repository)).data["dev_file"]
    assert (before.path, before.size_bytes) == (after.path, after.size_bytes)
    assert before.sha256 != after.sha256
    folder = file_state(repository)
    (repository / "train.py").rename(repository / "other.py")
    assert file_state(repository).sha256 != folder.sha256


def test_the_trials_of_a_process_read_the_installed_packages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    real = importlib.metadata.distributions

    def counted(**options: list[str]) -> Iterable[importlib.metadata.Distribution]:
        reads.append(options)
        return real(**options)

    installed_packages.cache_clear()
    monkeypatch.setattr(importlib.metadata, "distributions", counted)
    first, second = read_surroundings(), read_surroundings()
    assert len(reads) == 1
    assert first.packages == second.packages
    assert first.packages["pytest"] == importlib.metadata.version("pytest")
