"""An evaluation's batches need no memory beyond training, and never make it more than a tenth slower."""

import itertools
from dataclasses import replace

import pytest

from cluster.estimator.estimate import Estimator
from cluster.estimator.evaluation_batches import BATCHES, SIZES, with_evaluation_batches
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.request import MemoryRequest
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.memory_templates import template_finder
from tuning_common.cli import note

GIB = 2**30
ESTIMATOR = Estimator(template_finder(note))


def request(model: str, gpu: str = "RTX 3090", **settings: object) -> MemoryRequest:
    return request_of(RunConfig.from_dict({"model": model, "batch_size": 4, **settings}), find_gpu(gpu))


@pytest.mark.parametrize(
    ("model", "of_32", "after", "batches"),
    [
        ("kogpt2", (0.202, "train"), 0.202, (32, 32)),  # its head computes no scores of the prompt
        ("mt5", (0.54, "evaluate"), 0.33, (8, 64)),
    ],
)
def test_the_peak_of_a_small_trial_is_in_its_training(
    model: str, of_32: tuple[float, str], after: float, batches: tuple[int, int]
) -> None:
    asked = request(model)
    found = with_evaluation_batches(ESTIMATOR, asked)
    plain, estimate = ESTIMATOR.estimate(replace(asked, loss_batch_size=32)), ESTIMATOR.estimate(found)
    assert (round(plain.gpu_fraction, 3), plain.peak_phase.split("/")[0]) == of_32
    assert (round(estimate.gpu_fraction, 3), estimate.peak_phase.split("/")[0]) == (after, "train")
    assert (found.loss_batch, found.generation_batch_size) == batches


@pytest.mark.parametrize("gpu", ["T4", "RTX 3090", "H100 PCIe"])
@pytest.mark.parametrize("model", ["kobart", "kogpt2", "t5", "mt5"])
def test_no_more_memory_or_else_no_slower_than_a_tenth(model: str, gpu: str) -> None:
    for batch, beams, checkpointing in itertools.product((1, 2, 8, 32), (1, 4), (False, True)):
        asked = request(model, gpu, batch_size=batch, num_beams=beams, gradient_checkpointing=checkpointing)
        found = with_evaluation_batches(ESTIMATOR, asked)
        limit_s = 1.1 * _dialogue_s(replace(asked, loss_batch_size=32, generation_batch_size=32))
        assert _dialogue_s(found) <= limit_s
        train_bytes = ESTIMATOR.tensor_bytes(found, "train")
        large = {name: size for name, size in sizes(found).items() if bytes_of(found, name) > train_bytes}
        if large:
            halves = {name: size // 2 for name, size in large.items()}
            assert max(large.values()) <= 32
            assert _dialogue_s(replace(found, **halves)) > limit_s


def test_what_the_configuration_sets_stays() -> None:
    asked = replace(request("kogpt2"), loss_batch_size=3, generation_batch_size=5)
    assert with_evaluation_batches(ESTIMATOR, asked, ()) == asked
    found = with_evaluation_batches(ESTIMATOR, asked, ("loss_batch_size",))
    assert (found.loss_batch, found.generation_batch_size) == (32, 5)
    assert found.generation_batch_size not in SIZES


def test_without_a_loss_batch_it_is_a_micro_batch() -> None:
    asked = request("kobart", batch_size=16, gradient_accumulation_steps=4)
    assert (asked.loss_batch, asked.generation_batch_size) == (4, 32)


def sizes(asked: MemoryRequest) -> dict[str, int]:
    return {"loss_batch_size": asked.loss_batch, "generation_batch_size": asked.generation_batch_size}


def bytes_of(asked: MemoryRequest, name: str) -> int:
    return ESTIMATOR.tensor_bytes(asked, BATCHES[name])


def _dialogue_s(asked: MemoryRequest) -> float:
    seconds = ESTIMATOR.seconds(asked)
    assert seconds is not None
    return (seconds.evaluate + seconds.generate).total_s / asked.generation_batch_size
