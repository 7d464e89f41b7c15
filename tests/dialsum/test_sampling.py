"""The order of an epoch is a permutation in batches of similar length, decided by seed and epoch alone."""

import hypothesis.strategies as st
from hypothesis import given

from dialsum.sampling import GroupedSampler, grouped_order


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch_size=st.integers(1, 32),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 5),
)
def test_every_example_comes_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    order = grouped_order(lengths, batch_size, seed, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == grouped_order(lengths, batch_size, seed, epoch)


def padded(lengths: list[int], order: list[int], batch_size: int) -> int:
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)


def test_grouping_saves_most_of_the_padding_and_the_longest_batch_is_first() -> None:
    lengths = [1 + (index * 7919) % 500 for index in range(1600)]
    order = grouped_order(lengths, 16, seed=0, epoch=0)
    assert lengths[order[0]] == 500
    assert padded(lengths, order, 16) < 1.1 * sum(lengths) < 1.7 * sum(lengths) < padded(lengths, list(range(1600)), 16)


def test_epochs_and_seeds_have_their_own_order() -> None:
    lengths = list(range(1, 65))
    sampler = GroupedSampler(lengths, 8, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert len(sampler) == 64
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != grouped_order(lengths, 8, seed=4, epoch=0)
