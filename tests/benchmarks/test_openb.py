"""The benchmark on a stranger's trace, with a trace of seven tasks by hand; see benchmarks/openb.md."""

import sys
from pathlib import Path

import pytest

from benchmarks import openb
from benchmarks.openb import (
    AS_IT_IS,
    Placed,
    broker_picks_card,
    first_come_first_served,
    main,
    placed,
    read_nodes,
    read_tasks,
    report,
    waits_s,
    with_more,
    without_fragmentation,
)

NODES = "sn,cpu_milli,memory_mib,gpu,model\na,8000,1024,2,T4\nb,8000,1024,1,P100\n"
TASKS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
t0,1000,64,1,600,T4,LS,Running,0,100,0
t1,1000,64,2,1000,,LS,Running,10,60,10
t2,1000,64,1,400,,LS,Running,20,30,20
t3,1000,64,0,0,,LS,Running,20,30,20
t4,1000,64,1,1000,P100|T4,LS,Running,25,35,25
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "tasks.csv").write_text(TASKS)
    return tmp_path


def test_a_small_trace_is_read_placed_and_replayed(folder: Path) -> None:
    inventory = read_nodes(folder / "nodes.csv")
    tasks = read_tasks(folder / "tasks.csv", [pool.model for pool in inventory.pools])
    assert [(one.gpus, [alternative.model for alternative in one.alternatives]) for one in tasks] == [
        (0.6, ["T4"]), (2.0, ["P100", "T4"]), (0.4, ["P100", "T4"]), (0.0, [""]), (1.0, ["P100", "T4"]),
    ]  # fmt: skip
    for seed in range(5):
        found = placed(tasks, inventory, seed=seed)
        assert 0 < found.at_100_percent <= found.at_130_percent <= 100
        assert placed(tasks, inventory, seed=seed).at_130_percent == found.at_130_percent
        with without_fragmentation(), broker_picks_card():
            assert 0 < placed(tasks, inventory, seed=seed).at_130_percent <= 100
    waits = waits_s(tasks, inventory)
    assert waits == [0, 0, 0, 0, 0] or max(waits) == 90, "the pair waits for the first, at most"
    assert sum(waits_s(tasks, inventory, first_come_first_served)) > sum(waits)


def test_without_the_trace_it_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["openb", "--data", str(tmp_path / "absent"), "--output", str(tmp_path / "o.md")])
    main()
    assert "skipped: " in capsys.readouterr().err
    assert not (tmp_path / "o.md").exists()


def test_a_held_out_variant_repeats_tasks_until_they_ask_for_their_part(folder: Path) -> None:
    tasks = read_tasks(folder / "tasks.csv", ["T4"])
    more = with_more(tasks, several=True, percent=80)
    assert more[: len(tasks)] == tasks
    assert {task.gpus for task in more[len(tasks) :]} == {2.0}
    assert sum(task.gpus for task in more if task.gpus > 1) >= 0.8 * sum(task.gpus for task in more)


def test_a_run_that_was_ended_goes_on_and_its_page_names_what_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "nodes.csv").rename(folder / "openb_node_list_gpu_node.csv")
    (folder / "tasks.csv").rename(folder / "openb_pod_list_default.csv")
    kept = tmp_path / "kept.jsonl"
    with openb._Kept(kept) as first:
        found = first.placed(folder, "default", 0, AS_IT_IS)
    with openb._Kept(kept) as again:
        monkeypatch.setattr(openb, "placed", None)
        assert again.has("default", 0, AS_IT_IS)
        assert again.placed(folder, "default", 0, AS_IT_IS) == found
        assert not again.has("default", 1, AS_IT_IS)
    one = Placed(at_100_percent=90.0, at_130_percent=95.0, decision_ms=0.5)
    text = "\n".join(report({(AS_IT_IS, "default"): [one]}, {}, []))
    assert "| **our broker, Ray's card** | **95.00** (95.00; 1) | *not measured*" in text
