"""A model divided among two processes learns what it learns whole, from and into the same files (gloo, CPUs)."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from common.errors import RequestError
from common.files import write_text
from common.strict import dump_yaml
from dialsum.config import RunConfig
from dialsum.sharding import Pieces, check_divisible, pieces_of
from dialsum.trainer import train
from dialsum.workload import empty_model
from tests.dialsum.test_ranks import CUT, LIMIT_S, files_below, torchrun
from tests.dialsum.test_training_invariants import CutAt, small_run, weights_of

NUMBERS = ("train/loss", "train/grad_norm", "eval/loss", "eval/rouge_combined_f1", "train/global_step")
HELD = """
import json, sys
from pathlib import Path
from torch.distributed.tensor import DTensor
from dialsum.config import load_run_config
from dialsum.ranks import joined_ranks
from dialsum.sharded_trainer import ShardedTrainer
from dialsum.trainer import train

def held(tensor):
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()

seen = {}
step = ShardedTrainer._save_optimizer_and_scheduler

def count(self, folder):
    states = [value for state in self.optimizer.state.values() for value in state.values() if value.dim()]
    weights = list(self.model.parameters())
    seen.update(weights=sum(map(held, weights)), states=sum(map(held, states)), whole=sum(w.numel() for w in weights))
    return step(self, folder)

ShardedTrainer._save_optimizer_and_scheduler = count
config, output = map(Path, sys.argv[1:])
train(load_run_config(config), output)
import os
Path(f"held.{os.environ['RANK']}.json").write_text(json.dumps(seen))
"""


def written(folder: Path, name: str, config: RunConfig) -> str:
    write_text(folder / name, dump_yaml(config.to_dict()))
    return name


def history(run: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["history"]
    return rows


def assert_alike(found: Path, wanted: Path) -> None:
    for name in NUMBERS:
        values = [row[name] for row in history(wanted)]
        assert [row[name] for row in history(found)] == pytest.approx(values, rel=1e-4), name
    assert files_below(found) == files_below(wanted)
    weights = weights_of(found / "models" / "best_model")
    assert sorted(weights) == sorted(weights_of(wanted / "models" / "best_model"))  # a tied one once
    for name, weight in weights_of(wanted / "models" / "best_model").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)


def exchange_checkpoints(folder: Path, whole: RunConfig, cache: Path) -> None:
    """Cuts a run of the whole model too, lets it go on from the divided one's checkpoint, and leaves that its own."""
    turned = folder / "turned"
    with pytest.raises(SystemExit):
        train(whole, turned, reporter=CutAt(6, folder / "of_the_whole"), cache_dir=cache)
    checkpoint = folder / "divided" / "checkpoint-6000"
    checkpoint.rename(turned / "checkpoint-6000")
    (folder / "of_the_whole").rename(checkpoint)
    train(whole, turned, resume_from=turned / "checkpoint-6000", cache_dir=cache)
    assert_alike(turned, folder / "whole")


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT_S)
@pytest.mark.parametrize("model", ["tiny-bart", "tiny-gpt2", "tiny-t5"])
def test_a_divided_model_learns_what_a_whole_one_learns_and_goes_on_from_either_checkpoint(
    tmp_path: Path, model: str
) -> None:
    """SGD without clipping: a gradient of the wrong size gives other weights. The whole run makes two pieces of each
    batch. Of the divided ones the second is cut and goes on; for one model each goes on from the other's checkpoint."""
    changes = {"optimizer": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.3}
    if model != "tiny-bart":  # and with Adam, whose states are divided too
        changes = {"optimizer": "adamw_fused", "max_grad_norm": 1.0, "learning_rate": 1e-3}
    whole = small_run(
        tmp_path, model=model, label_smoothing=0.1, dropout=0.0, batch_size=12, eval_steps=3, max_steps=9,
        gradient_accumulation_steps=2, **changes,
    )  # fmt: skip
    divided = dataclasses.replace(
        whole, fsdp=True, gradient_accumulation_steps=1, gradient_checkpointing=model != "tiny-bart"
    )
    cache = tmp_path / ".cache" / "dialsum"
    train(whole, tmp_path / "whole", cache_dir=cache)
    run_file = written(tmp_path, "divided.yaml", divided)
    write_text(tmp_path / "cut.py", CUT)
    done = torchrun(tmp_path, "cut.py", run_file, "divided")
    assert (tmp_path / "divided" / "checkpoint-6000" / "rng_state_1.pth").exists(), done.stderr[-4000:]
    if model == "tiny-gpt2":
        exchange_checkpoints(tmp_path, whole, cache)
    done = torchrun(tmp_path, "-m", "dialsum", "train", "--resume", "--config", run_file, "--output", "divided")
    assert done.returncode == 0, done.stderr[-4000:]
    assert_alike(tmp_path / "divided", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_each_process_holds_half_and_bf16_trains(tmp_path: Path) -> None:
    config = small_run(tmp_path, fsdp=True, precision="bf16", max_steps=4, eval_steps=4)
    write_text(tmp_path / "held.py", HELD)
    done = torchrun(tmp_path, "held.py", written(tmp_path, "run.yaml", config), "run")
    assert done.returncode == 0, done.stderr[-4000:]
    both = [json.loads((tmp_path / f"held.{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert sum(one["weights"] for one in both) == both[0]["whole"]
    assert sum(one["states"] for one in both) == 2 * both[0]["whole"]  # Adam's two moments
    assert max(one["weights"] for one in both) <= 0.51 * both[0]["whole"]
    assert history(tmp_path / "run")[-1]["eval/loss"] < 8
    assert {str(weight.dtype) for weight in weights_of(tmp_path / "run/models/best_model").values()} == {
        "torch.float32"
    }


def test_pieces_are_the_largest_layer_and_what_is_in_none() -> None:
    shape = {"vocab_size": 100, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1}
    attention, feed_forward = 4 * 16 * 16 + 16, 2 * 16 * 32 + 16
    decoder_layer = 2 * attention + feed_forward + 32 * 2  # the first one's table of relative positions
    norms, encoder_table, embedding = 2 * 16, 32 * 2, 100 * 16
    found = pieces_of(empty_model({"model_type": "t5", "num_decoder_layers": 1, **shape}, untied=False))
    del encoder_table  # in the encoder's layer, which is the smaller one
    assert found == Pieces(layer=decoder_layer, rest=embedding + norms, table=embedding)
    untied = pieces_of(empty_model({"model_type": "t5", "num_decoder_layers": 1, **shape}, untied=True))
    assert untied == Pieces(layer=decoder_layer, rest=2 * embedding + norms, table=embedding)


def test_what_cannot_be_divided_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"there is one; start it with torchrun --nproc-per-node 2"):
        train(small_run(tmp_path, fsdp=True), tmp_path / "run", cache_dir=tmp_path / "cache")
    with pytest.raises(RequestError, match=r"computes in fp16, .* take fp32"):
        check_divisible(2, "fp16")
    with pytest.raises(RequestError) as caught:
        RunConfig(fsdp=True, optimizer="adafactor", precision="fp16", torch_compile=True)
    assert len(caught.value.problems) == 3
