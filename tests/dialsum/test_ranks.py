"""Two processes that share each batch learn what one learns in two pieces, and leave the same files (gloo, CPUs)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dialsum.config import RunConfig
from dialsum.encoding import Collator, EncodedDataset, Encoding
from dialsum.models import Kind
from dialsum.ranks import MEETING_FILE, Ranks, piece_of
from dialsum.sampling import FILLER, GroupedSampler
from dialsum.trainer import train
from tests.dialsum.test_training_invariants import small_run, weights_of
from tuning_common.errors import RequestError
from tuning_common.files import write_text
from tuning_common.strict import dump_yaml

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300
CUT = """
import sys
from pathlib import Path
from dialsum.config import load_run_config
from dialsum.trainer import train
from tests.dialsum.test_training_invariants import CutAt

config, output = map(Path, sys.argv[1:])
train(load_run_config(config), output, reporter=CutAt(6, output / "checkpoint-6000"))
"""


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
def test_two_processes_learn_what_one_learns_in_two_pieces(tmp_path: Path) -> None:
    """SGD without clipping, dropout off: a gradient of the wrong size gives other weights. The last of an epoch's
    batches of 12 holds 4 of the 40 dialogues, all of them the first process's. The two are cut in the second epoch,
    whose order is not that of the first, and go on."""
    config = small_run(
        tmp_path, model="tiny-bart", label_smoothing=0.1, dropout=0.0, optimizer="sgd", max_grad_norm=0.0,
        learning_rate=0.3, batch_size=12, eval_steps=3, max_steps=9,
    )  # fmt: skip
    halves = dataclasses.replace(config, gradient_accumulation_steps=2)
    one = train(halves, tmp_path / "one", cache_dir=tmp_path / ".cache" / "dialsum")
    run_file, two = tmp_path / "two.yaml", tmp_path / "two"
    write_text(run_file, dump_yaml(config.to_dict()))
    write_text(tmp_path / "cut.py", CUT)
    torchrun(tmp_path, "cut.py", str(run_file), str(two))
    assert (two / "checkpoint-6000" / "rng_state_1.pth").exists()
    command = ("-m", "dialsum", "train", "--resume", "--format", "json", "--config", str(run_file))
    done = torchrun(tmp_path, *command, "--output", str(two))
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["best_model_dir"] == str(two / "models" / "best_model")  # one of the two speaks

    rows = json.loads((two / "metrics.json").read_text(encoding="utf-8"))["history"]
    assert [sorted(row) for row in rows] == [sorted(row) for row in one.history]
    for name in ("train/loss", "eval/loss", "eval/rouge_combined_f1", "train/global_step"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in one.history], rel=1e-4), name
    assert files_below(two) == files_below(tmp_path / "one")
    found = weights_of(two / "models" / "best_model")
    for name, weight in weights_of(one.best_model_dir).items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


def torchrun(folder: Path, *program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


SOCKETS = """
import json, psutil
from dialsum.ranks import joined_ranks
with joined_ranks() as ranks:
    found = [ranks.rank, [one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"]]
    everybody = ranks.together([found])
if ranks.is_first:
    print(json.dumps(everybody))
"""


@pytest.mark.slow
def test_processes_that_meet_by_a_file_listen_to_their_own_machine_only(tmp_path: Path) -> None:
    common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", MEETING_FILE: str(tmp_path / "meeting"), "GLOO_SOCKET_IFNAME": "lo"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SOCKETS],
            env=os.environ | common | {"RANK": rank, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    first, _ = [process.communicate(timeout=LIMIT_S)[0] for process in both]
    found = dict(json.loads(first))
    assert sorted(found) == [0, 1]
    assert {address for addresses in found.values() for address in addresses} == {"127.0.0.1"}


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_last_batch_is_filled_up_so_that_all_make_as_many_pieces() -> None:
    sampler = GroupedSampler([5] * 10, 8, seed=0, multiple=4)
    order = list(sampler)
    assert (len(sampler), order[10:]) == (12, [FILLER, FILLER])
    assert sorted(order[:10]) == list(range(10))
    assert list(GroupedSampler([5] * 10, 8, seed=0)) == order[:10]


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_a_filler_carries_no_loss(kind: Kind) -> None:
    data = EncodedDataset(Encoding(sources=((7,),), targets=((8, 9),), cut_dialogues=0, cut_summaries=0), kind)
    batch = Collator(pad_id=0, kind=kind)([data[FILLER], data[0]])
    assert (batch["labels"][0] == -100).all()
    assert len(batch["positions"]) == 2  # the other one's labels
    assert batch["attention_mask"][0].sum() > 1  # attention over nothing would be no number


def test_parts_are_every_second_or_third_item() -> None:
    parts = [Ranks(rank=rank, size=3).part_of("abcdefg") for rank in range(3)]
    assert parts == [["a", "d", "g"], ["b", "e"], ["c", "f"]]


def test_a_batch_that_cannot_be_divided_is_refused_with_what_can() -> None:
    with pytest.raises(RequestError, match=r"batch_size 6 cannot be divided among 4 .* take a multiple of 4"):
        piece_of(RunConfig(batch_size=6), 4)
