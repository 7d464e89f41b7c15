"""Failures are told apart, and an out-of-memory makes a trial smaller and then its share larger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.driver.recovery import larger_share
from tune_jobs.records.trial_spec import RunShape
from tune_jobs.trial.failures import classify, smaller
from tuning_common.errors import RequestError

CLASSES = (0.0625, 0.125, 0.25, 0.3333, 0.5, 0.6666, 0.75, 1.0)


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


def test_torchs_own_type_is_an_out_of_memory_wherever_it_stands_in_the_chain() -> None:
    torch = pytest.importorskip("torch")
    assert classify(torch.OutOfMemoryError("no bytes")) == "out_of_memory"
    wrapped = ValueError("while training")
    wrapped.__cause__ = OutOfMemoryError("no bytes")
    assert classify(wrapped) == "out_of_memory"


def test_rays_memory_monitor_and_dead_workers_are_no_out_of_memory_of_the_card() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    assert classify(exceptions.OutOfMemoryError("host")) == "host_memory"
    assert classify(exceptions.ActorDiedError()) == "worker_lost"
    assert classify(MemoryError()) == "host_memory"


def test_a_message_that_only_speaks_of_memory_is_an_ordinary_error() -> None:
    assert classify(RuntimeError("the speaker ran out of memory of that day")) == "error"
    assert classify(ValueError("CUDA out of memory")) == "error"
    assert classify(RequestError("bad data")) == "wrong_request"


@given(st.integers(1, 256), st.booleans())
def test_getting_smaller_keeps_the_effective_batch_and_ends(batch: int, checkpointing: bool) -> None:
    shape: RunShape | None = RunShape(micro_batch=batch, accumulation=1, gradient_checkpointing=checkpointing)
    steps = 0
    while shape is not None:
        assert shape.batch_size == batch
        previous, shape, steps = shape, smaller(shape), steps + 1
        if shape is not None and shape.micro_batch == previous.micro_batch:
            assert shape.gradient_checkpointing
            assert not previous.gradient_checkpointing
    assert (previous.micro_batch, previous.gradient_checkpointing) == (1, True)
    assert steps <= 11


@given(st.sampled_from(CLASSES))
def test_a_share_grows_to_the_whole_card_in_a_few_steps(first: float) -> None:
    share: float | None = first
    shares = []
    while share is not None:
        shares.append(share)
        share = larger_share(share, CLASSES)
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    assert len(shares) <= 8
