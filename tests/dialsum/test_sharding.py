"""A model divided among two processes learns what it learns whole, from and into the same files (gloo, CPUs)."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from dialsum.config import RunConfig
from dialsum.sharded_trainer import ShardedTrainer
from dialsum.sharding import Pieces, check_divisible, pieces_of
from dialsum.trainer import train
from dialsum.workload import empty_model
from tests.dialsum.test_ranks import files_below
from tests.dialsum.test_training_invariants import CutAt, small_run, weights_of
from tests.dialsum.together import LIMIT_S, run_together
from tuning_common.errors import RequestError
from tuning_common.files import write_json

CACHE = Path(".cache") / "dialsum"
KEPT = "checkpoint-3000"
NUMBERS = ("train/loss", "train/grad_norm", "eval/loss", "eval/rouge_combined_f1", "train/global_step")


def learn(config: RunConfig, folder: Path, resume_from: Path | None = None) -> None:
    train(config, folder, resume_from=resume_from, cache_dir=CACHE)


def learn_until_cut(config: RunConfig, folder: Path) -> None:
    train(config, folder, reporter=CutAt(3, folder / KEPT), cache_dir=CACHE)


def learn_and_count(config: RunConfig, folder: Path) -> None:
    """Writes down how many elements this process held when it saved its state."""
    save = ShardedTrainer._save_optimizer_and_scheduler

    def count(self: ShardedTrainer, output_dir: str) -> None:
        assert self.optimizer is not None
        states = [value for state in self.optimizer.state.values() for value in state.values() if value.dim()]
        weights = list(self.model.parameters())
        held = {"weights": sum(map(own, weights)), "states": sum(map(own, states))}
        write_json(Path(f"held_{os.environ['RANK']}.json"), held | {"whole": sum(one.numel() for one in weights)})
        save(self, output_dir)

    ShardedTrainer._save_optimizer_and_scheduler = count  # type: ignore[method-assign]
    learn(config, folder)


def own(tensor: torch.Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()


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


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT_S)
@pytest.mark.parametrize("model", ["tiny-bart", "tiny-gpt2", "tiny-t5"])
def test_a_divided_model_learns_what_a_whole_one_learns_and_goes_on_from_either_checkpoint(
    tmp_path: Path, model: str
) -> None:
    """SGD without clipping: a gradient of the wrong size gives other weights; and Adam, whose states are divided too.

    The whole run makes two pieces of each batch. BART is cut and goes on; of GPT-2 a whole and a divided run are cut,
    and each goes on from the other's checkpoint.
    """
    changes = {"optimizer": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.3}
    if model != "tiny-bart":
        changes = {"optimizer": "adamw_fused", "max_grad_norm": 1.0, "learning_rate": 1e-3}
    whole = small_run(
        tmp_path, model=model, label_smoothing=0.1, dropout=0.0, batch_size=12, eval_steps=3, max_steps=6,
        gradient_accumulation_steps=2, **changes,
    )  # fmt: skip
    divided = dataclasses.replace(
        whole, fsdp=True, gradient_accumulation_steps=1, gradient_checkpointing=model != "tiny-bart"
    )
    train(whole, tmp_path / "whole", cache_dir=tmp_path / CACHE)
    output, resume_from = tmp_path / "divided", None
    if model != "tiny-t5":
        run_together(tmp_path, learn_until_cut, divided, output, is_cut=True)
        resume_from = output / KEPT
        assert (resume_from / "rng_state_1.pth").exists()
    if model == "tiny-gpt2":
        exchange_checkpoints(tmp_path, whole)
    run_together(tmp_path, learn, divided, output, resume_from)
    assert_alike(output, tmp_path / "whole")


def exchange_checkpoints(folder: Path, whole: RunConfig) -> None:
    """Cuts a run of the whole model too, lets it go on from the divided one's checkpoint, and leaves that its own."""
    turned, divided = folder / "turned", folder / "divided"
    with pytest.raises(SystemExit):
        train(whole, turned, reporter=CutAt(3, folder / KEPT), cache_dir=folder / CACHE)
    (divided / KEPT).rename(turned / KEPT)
    (folder / KEPT).rename(divided / KEPT)
    train(whole, turned, resume_from=turned / KEPT, cache_dir=folder / CACHE)
    assert_alike(turned, folder / "whole")


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_each_process_holds_half_and_bf16_trains(tmp_path: Path) -> None:
    config = small_run(tmp_path, fsdp=True, precision="bf16", max_steps=4, eval_steps=4)
    run_together(tmp_path, learn_and_count, config, tmp_path / "run")
    both = [json.loads((tmp_path / f"held_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert sum(one["weights"] for one in both) == both[0]["whole"]
    assert sum(one["states"] for one in both) == 2 * both[0]["whole"]  # Adam's two moments
    assert max(one["weights"] for one in both) <= 0.51 * both[0]["whole"]
    assert history(tmp_path / "run")[-1]["eval/loss"] < 8
    weights = weights_of(tmp_path / "run" / "models" / "best_model")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


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
