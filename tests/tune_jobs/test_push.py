"""A model on the hub: what arrives, who may see it, and that the token stays where it belongs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.tune_jobs.hub_server import TOKEN, HubServer, hub_server
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.after.push import files_of, hub_of, push
from tune_jobs.records.ledger import ExperimentFolder
from tuning_common.errors import RequestError, WorkError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server
        assert server.unknown == []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "given" / "model"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# A model\n")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub's own upload by Git LFS
def test_a_model_arrives_whole_and_private_and_again_as_another_commit(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # else read when it is imported
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    api = HfApi(endpoint=hub.url, token=TOKEN)
    pushed = push(api, model, "team/summarizer")
    assert (pushed.repo, pushed.url, pushed.private) == ("team/summarizer", f"{hub.url}/team/summarizer", True)
    (model / "README.md").write_text("# A better card\n")
    push(api, model, "team/summarizer")
    there = hub.repositories["team/summarizer"]
    assert there.files == {name: (model / name).read_bytes() for name in files_of(model)}
    assert there.commits == ["Hand over given"] * 2
    assert (len(hub.objects), hub.by_xet) == (1, 0), "weights came by Git LFS"
    assert push(api, model, "own", public=True).repo == "minji/own"
    assert not hub.repositories["minji/own"].private


def test_nothing_goes_to_a_public_repository_unasked(hub: HubServer, model: Path) -> None:
    api = HfApi(endpoint=hub.url, token=TOKEN)
    push(api, model, "team/open", public=True)
    before = dict(hub.repositories["team/open"].files)
    (model / "secret.txt").write_text("not yet public")
    with pytest.raises(RequestError, match="is public; add --public"):
        push(api, model, "team/open")
    assert hub.repositories["team/open"].files == before


def test_what_the_hub_refuses_is_told_with_the_command_for_later(hub: HubServer, model: Path) -> None:
    with pytest.raises(RequestError, match=r"refuses to write others/a \(403\)"):
        push(HfApi(endpoint=hub.url, token=TOKEN), model, "others/a")
    with pytest.raises(RequestError, match=r"refuses to write team/a \(401\)") as refused:
        push(HfApi(endpoint=hub.url, token="hf_" + "w" * 34), model, "team/a")
    assert f"hf upload team/a {model}" in str(refused.value)
    assert "www" not in str(refused.value)
    hub.fails = 422
    with pytest.raises(
        WorkError, match=r"answered 422 for team/a; the model is complete in .*; to send it later: hf upload"
    ):
        push(HfApi(endpoint=hub.url, token=TOKEN), model, "team/a")


def test_the_token_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub_of("team/a").token == TOKEN


def test_a_hub_that_is_not_there_and_a_wrong_name_are_told(model: Path) -> None:
    with pytest.raises(WorkError, match=r"http://127\.0\.0\.1:9: the upload failed \(ConnectError: "):
        push(HfApi(endpoint="http://127.0.0.1:9", token=TOKEN), model, "team/a")
    with pytest.raises(RequestError, match="write OWNER/NAME"):
        hub_of("team/a/b")


@pytest.mark.slow
def test_the_command_sends_the_best_model_with_its_card_and_keeps_the_token(hub: HubServer, tmp_path: Path) -> None:
    from dialsum.trainer import train

    write_dialogues(tmp_path)
    folder = ExperimentFolder.of(tmp_path / "outputs", "one").path
    train(tiny_config(tmp_path), folder, cache_dir=tmp_path / "cache")
    home = tmp_path / "hub_home"

    def hand_over(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tune_jobs", "hand-over", str(folder), "--push", "team/one", *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        hub_names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
        return subprocess.run(
            command, cwd=tmp_path, env=kept | hub_names | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip

    refused = hand_over()
    assert refused.returncode == 2, refused.stderr
    assert "--push needs a token of the Hugging Face hub" in refused.stderr
    assert "hf auth login" in refused.stderr
    assert not (tmp_path / "outputs/hand_over").exists()

    home.mkdir(exist_ok=True)
    (home / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    done = hand_over("--format", "json")
    assert done.returncode == 0, done.stderr
    there, model = hub.repositories["team/one"], tmp_path / "outputs/hand_over/one/model"
    assert there.private
    assert there.files == {name: (model / name).read_bytes() for name in files_of(model)}
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= set(there.files)
    assert hub.by_xet == 1
    assert there.files["README.md"].startswith(b"---\n")
    for name in there.files:
        assert f"  {name}  " in done.stderr
    wanted = {"repo": "team/one", "url": f"{hub.url}/team/one", "private": True, "files": files_of(model)}
    assert json.loads(done.stdout)["pushed"] == wanted
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != home / "token"]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in done.stdout + done.stderr
