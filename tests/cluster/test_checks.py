"""What nodes told is judged: what is wrong is named with its node and its remedy; golden text for a sick cluster."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machines import nvml
from cluster.machines.checks import CardFacts, Check, NodeFacts, Status, Wanted, as_json, as_text, evaluate, exit_code
from cluster.machines.node_facts import code_hash, pinned
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "cluster_check.txt"
GIB = 2**30
CARD = CardFacts(name="L4", total_bytes=24 * GIB)
PINS = {"torch": "2.13.0", "ray": "2.60.0"}
WELL = NodeFacts(
    name="10.0.0.1",
    python="3.11.7",
    packages={"torch": "2.13.0+cu128", "ray": "2.60.0"},
    code="aaaa",
    cuda="12.8",
    driver="570.86",
    gpus=1,
    cards=(CARD,),
    storage_error="",
    free_bytes=100 * 10**9,
    token_error="",
)
WANTED = Wanted(packages=PINS, storage="/mnt/x", data=("/mnt/x/train.jsonl",))


def other(**changes: object) -> NodeFacts:
    return dataclasses.replace(WELL, name="10.0.0.2", **changes)  # type: ignore[arg-type]


def checks_of(second: NodeFacts, wanted: Wanted = WANTED) -> dict[str, Check]:
    return {check.name: check for check in evaluate([WELL, second], wanted)}


def test_a_healthy_cluster_has_no_remedies() -> None:
    checks = evaluate([WELL, other()], WANTED)
    assert {check.status for check in checks} == {"ok"}
    assert {check.remedy for check in checks} == {""}
    assert exit_code(checks) == 0


@pytest.mark.parametrize(
    ("changes", "name", "status", "told"),
    [
        ({"python": "3.10.1"}, "python", "failed", "10.0.0.2: 3.10.1"),
        ({"python": "3.12.1"}, "python", "failed", "10.0.0.2: 3.12.1"),
        ({"packages": {"torch": "2.13.0+cu128"}}, "packages", "failed", "10.0.0.2: ray absent instead of 2.60.0"),
        ({"packages": {"torch": "2.12.0", "ray": "2.60.0"}}, "packages", "failed", "torch 2.12.0 instead of 2.13.0"),
        (
            {"packages": {"torch": "2.13.0+cu126", "ray": "2.60.0"}},
            "packages",
            "warning",
            "10.0.0.2: torch 2.13.0+cu126",
        ),
        ({"packages": {"torch": "2.13.0+cpu", "ray": "2.60.0"}}, "cuda", "failed", "10.0.0.2: torch 2.13.0+cpu"),
        ({"cuda": "12.4"}, "cuda", "failed", "the driver has CUDA 12.4"),
        ({"code": "bbbb"}, "code", "failed", "10.0.0.2: bbbb"),
        ({"gpu_problems": ("card 1: GPU is lost",)}, "gpu driver", "failed", "10.0.0.2: card 1: GPU is lost"),
        (
            {"cards": (), "gpus_unavailable": "no driver"},
            "gpu driver",
            "warning",
            "10.0.0.2: no driver; simulated GPUs: 1",
        ),
        ({"gpu_notes": ("one raylet has 2 models",)}, "gpu driver", "warning", "10.0.0.2: one raylet has 2 models"),
        (
            {"cards": (dataclasses.replace(CARD, others_bytes=12 * GIB),)},
            "gpu memory",
            "warning",
            "12.0 GiB of 24.0 GiB",
        ),
        ({"storage_error": "/mnt/x is not there"}, "storage", "failed", "10.0.0.2: /mnt/x is not there"),
        ({"free_bytes": 10**9}, "storage", "warning", "954 MiB free"),
        ({"missing_data": ("/mnt/x/train.jsonl",)}, "data", "failed", "10.0.0.2: /mnt/x/train.jsonl"),
        ({"skew_s": -9.0, "skew_error_s": 0.1}, "clock", "failed", "10.0.0.2: 9.0 s behind"),
        ({"skew_s": 1.0, "skew_error_s": 0.1}, "clock", "warning", "10.0.0.2: 1.0 s ahead"),
        ({"skew_s": 3.0, "skew_error_s": 3.0}, "clock", "ok", "at most 0.0 s apart"),
        ({"token_error": "others may read it"}, "token", "failed", "10.0.0.2: others may read it"),
    ],
)
def test_what_is_wrong_is_named_with_its_node_and_a_remedy(
    changes: dict[str, object], name: str, status: Status, told: str
) -> None:
    check = checks_of(other(**changes))[name]
    assert check.status == status
    assert told in check.detail
    assert bool(check.remedy) == (status != "ok")


def test_several_machines_need_a_shared_folder_and_one_does_not() -> None:
    several = [dataclasses.replace(node, storage_error=None) for node in (WELL, other())]
    found = {check.name: check for check in evaluate(several, Wanted(packages=PINS))}
    assert found["storage"].status == "failed"
    one = dataclasses.replace(WELL, name="10.0.0.1 (L4)", storage_error=None)
    same = dataclasses.replace(one, name="10.0.0.1 (A100)")
    found = {check.name: check for check in evaluate([one, same], Wanted(packages=PINS))}
    assert found["storage"].status == "skipped"


def test_a_cluster_without_a_token_is_warned_about() -> None:
    open_nodes = [dataclasses.replace(node, token_error=None) for node in (WELL, other())]
    token = evaluate(open_nodes, WANTED)[-1]
    assert (token.name, token.status) == ("token", "warning")
    assert "who reaches it runs code on it" in token.detail


def test_a_sick_cluster_as_text_and_as_json() -> None:
    sick = other(
        packages={"torch": "2.12.0+cpu", "ray": "2.60.0"},
        code="bbbb",
        storage_error="/mnt/x cannot be written: Read-only file system",
        missing_data=("/mnt/x/train.jsonl",),
        skew_s=61.0,
        token_error="/home/u/.ray/auth_token: others may read it (mode 644); chmod 600 /home/u/.ray/auth_token",
    )
    checks = evaluate([WELL, sick], WANTED, ["10.0.0.3: no answer in 60 s"])
    assert as_text(checks) + "\n" == GOLDEN.read_text()
    assert exit_code(checks) == 1
    told = json.loads(json.dumps(as_json([WELL, sick], checks)))
    assert told["status"] == "failed"
    assert [node["name"] for node in told["nodes"]] == ["10.0.0.1", "10.0.0.2"]
    assert {tuple(check) for check in told["checks"]} == {("name", "status", "detail", "remedy")}


def test_another_torch_on_every_node_is_a_warning() -> None:
    newer = {"torch": "2.14.1+cu128", "ray": "2.60.0"}
    nodes = [dataclasses.replace(WELL, packages=newer), other(packages=newer)]
    found = {check.name: check for check in evaluate(nodes, WANTED)}["packages"]
    assert (found.status, found.detail.splitlines()[0]) == ("warning", "10.0.0.1: torch 2.14.1+cu128 instead of 2.13.0")


def test_pins_are_read_as_pip_reads_them() -> None:
    found = pinned()
    assert found["torch"] == "2.13.0"
    assert found["ray"] == "2.60.0"
    assert found["rouge-score"] == "0.1.2"
    assert pinned(ROOT / "absent.txt") == {}


def test_code_has_one_hash_until_a_line_of_it_changes(tmp_path: Path) -> None:
    (tmp_path / "tuning_common").mkdir()
    (tmp_path / "tuning_common" / "a.py").write_text("x = 1\n")
    first = code_hash(tmp_path)
    assert first == code_hash(tmp_path)
    (tmp_path / "tuning_common" / "a.py").write_text("x = 2\n")
    assert code_hash(tmp_path) != first


def test_how_busy_cards_are_is_asked_of_each(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(busy=97), FakeCard(lost=True), FakeCard(busy=3)])
    assert nvml.utilisation() == ((0, 97), (2, 3))


def test_the_command_checks_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "check", "--format", "json", "--storage", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = json.loads(done.stdout)
    checks = {check["name"]: check for check in told["checks"]}
    assert done.returncode == (1 if told["status"] == "failed" else 0)
    assert checks["packages"]["status"] == "ok", checks["packages"]
    assert checks["storage"]["status"] in ("ok", "warning")
    assert checks["code"]["detail"] == f"the same everywhere ({code_hash()})"
    assert list(tmp_path.iterdir()) == [], "probes are removed"
