"""Rules hold for every batch, length and learning rate."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dialsum.config import RunConfig
from tune_jobs.config.rules import Rules, resolve

batches = st.integers(1, 512)


@given(batches, st.integers(1, 4096), st.integers(64, 1024))
def test_accumulation_never_changes_the_batch_and_always_divides_it(batch: int, length: int, above: int) -> None:
    trial = resolve(RunConfig(), {"batch_size": batch, "encoder_max_len": length}, Rules(accumulate_above_tokens=above))
    config = trial.resolved
    assert config.batch_size == batch
    assert batch % config.gradient_accumulation_steps == 0
    assert (config.gradient_accumulation_steps > 1) == (length > above and batch > 1)
    if config.micro_batch > 1:
        assert config.micro_batch * math.ceil(length / above) <= batch


@given(batches, st.floats(1e-7, 1e-3), batches)
def test_scaling_the_learning_rate_can_be_undone(batch: int, rate: float, reference: int) -> None:
    rules = Rules(scale_learning_rate_from_batch=reference)
    scaled = resolve(RunConfig(), {"batch_size": batch, "learning_rate": rate}, rules).resolved.learning_rate
    assert math.isclose(scaled / math.sqrt(batch / reference), rate, rel_tol=1e-9)


@given(st.dictionaries(st.sampled_from(["num_beams", "num_epochs", "seed"]), st.integers(1, 9)))
def test_resolving_twice_changes_nothing(sampled: dict[str, int]) -> None:
    once = resolve(RunConfig(), sampled, Rules(set={"num_beams": "max(num_beams, 2)"}))
    again = resolve(once.resolved, {}, Rules(set={"num_beams": "max(num_beams, 2)"}))
    assert again.resolved == once.resolved
    assert again.notes == ()
