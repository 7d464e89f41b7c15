"""A run that goes on from another's checkpoint learns at its own rate, at the schedule's place, with its own decay."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dialsum.config import RunConfig
from dialsum.data import write_examples
from dialsum.reporter import NullReporter, RecordingReporter
from dialsum.retune import retune_checkpoint
from dialsum.sample_data.generate import generate
from dialsum.trainer import train


class KeepsFirst(NullReporter):
    """Keeps the first checkpoint and ends the run there."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def report(self, metrics: object, checkpoint: Path) -> None:
        shutil.copytree(checkpoint, self.target)
        raise SystemExit


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A configuration and its checkpoint after the first of four epochs."""
    folder = tmp_path_factory.mktemp("retune")
    for part, examples in zip(("train", "dev"), generate(seed=0, train_count=24, dev_count=4), strict=True):
        write_examples(folder / f"{part}.jsonl", examples)
    config = RunConfig.from_dict(
        {
            "train_file": str(folder / "train.jsonl"), "dev_file": str(folder / "dev.jsonl"), "batch_size": 8,
            "learning_rate": 1e-3, "num_epochs": 4, "decoder_max_len": 12, "encoder_max_len": 48, "warmup_ratio": 0.0,
            "tiny_hidden_size": 16, "tiny_layers": 1, "tiny_vocab_size": 400, "weight_decay": 0.1,
        }
    )  # fmt: skip
    with pytest.raises(SystemExit):
        train(config, folder / "first", reporter=KeepsFirst(folder / "kept"), cache_dir=folder / "cache")
    return config, folder


def test_the_rate_keeps_its_place_in_the_schedule(started: tuple[RunConfig, Path]) -> None:
    config, folder = started
    shutil.copytree(folder / "kept", folder / "copied")
    before = (folder / "kept" / "optimizer.pt").read_bytes()
    other = config.with_changes({"learning_rate": 4e-3, "weight_decay": 0.0})
    for _ in range(2):  # twice is as once
        retune_checkpoint(folder / "copied", other)
    schedule = torch.load(folder / "copied" / "scheduler.pt", weights_only=True)
    assert schedule["base_lrs"] == [4e-3, 4e-3]
    assert schedule["_last_lr"] == pytest.approx([3e-3, 3e-3])  # a quarter of a linear schedule is over
    groups = torch.load(folder / "copied" / "optimizer.pt", weights_only=True)["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0]
    assert (folder / "kept" / "optimizer.pt").read_bytes() == before
    listener = RecordingReporter()
    train(other, folder / "second", reporter=listener, resume_from=folder / "copied", cache_dir=folder / "cache")
    rates = {row["train/global_step"]: row["train/learning_rate"] for row in listener.reports}
    assert rates == pytest.approx({6.0: 4e-3 * 7 / 12, 9.0: 4e-3 * 4 / 12, 12.0: 4e-3 * 1 / 12}, rel=0.2)
    assert json.loads((folder / "second" / "metrics.json").read_text())


def test_a_rate_that_had_come_down_to_nothing_stays_there(started: tuple[RunConfig, Path]) -> None:
    config, folder = started
    shutil.copytree(folder / "kept", folder / "ended")
    schedule = torch.load(folder / "ended" / "scheduler.pt", weights_only=True)
    torch.save(schedule | {"base_lrs": [0.0, 0.0], "_last_lr": [0.0, 0.0]}, folder / "ended" / "scheduler.pt")
    retune_checkpoint(folder / "ended", config)
    assert torch.load(folder / "ended" / "scheduler.pt", weights_only=True)["_last_lr"] == [0.0, 0.0]
