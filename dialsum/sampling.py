"""The order of examples in an epoch: shuffled batches of similar length, the same after a resume."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

FILLER = -1  # replaces an example where a last batch does not divide evenly; see EncodedDataset
POOL_BATCHES = 50  # batches that are sorted together: more reduce padding, fewer mix better


def grouped_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """Orders examples so that each slice of `batch_size` has examples of similar length.

    Examples are shuffled, sorted by length inside pools of batches, and the batches are shuffled. In the first epoch
    the longest batch comes first, so that an out-of-memory comes early. A partial batch stays last.

    Args:
        lengths: Tokens of each example.
        batch_size: The effective batch size, so that the order does not depend on accumulation.
        seed: Seed of the run.
        epoch: Number from 0; each epoch has its own order.

    Returns:
        A permutation of the examples' indices.

    >>> grouped_order([9, 1, 8, 2, 7, 3, 5], 2, seed=0, epoch=0)
    [0, 4, 6, 5, 3, 1, 2]
    """
    generator = random.Random(f"{seed}/{epoch}")
    shuffled = list(range(len(lengths)))
    generator.shuffle(shuffled)
    full = len(shuffled) - len(shuffled) % batch_size
    pool = batch_size * max(4, min(POOL_BATCHES, full // batch_size // 4))
    batches: list[list[int]] = []
    for start in range(0, full, pool):
        similar = sorted(shuffled[start : min(start + pool, full)], key=lambda index: -lengths[index])
        batches += [similar[at : at + batch_size] for at in range(0, len(similar), batch_size)]
    generator.shuffle(batches)
    if epoch == 0 and batches:
        longest = max(range(len(batches)), key=lambda at: lengths[batches[at][0]])
        batches.insert(0, batches.pop(longest))
    return [index for batch in batches for index in batch] + shuffled[full:]


class GroupedSampler(Sampler[int]):
    """Yields the order of the epoch that `set_epoch` has set.

    transformers' own sampler draws from the global generator, whose state at the start of an epoch is in no checkpoint:
    a run that resumes within its second epoch would continue with other batches.

    Args:
        lengths: Tokens of each example.
        batch_size: See grouped_order.
        seed: Seed of the run.
        multiple: The number of examples is padded to a multiple of it: processes that share a batch need equally many
            micro-batches of the same size.

    >>> list(GroupedSampler([9, 1, 8], 2, seed=0, multiple=2))
    [0, 2, 1, -1]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, multiple: int = 1) -> None:
        self._lengths = lengths
        self._fillers = -len(lengths) % multiple
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; the trainer calls it at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._fillers

    def __iter__(self) -> Iterator[int]:
        order = grouped_order(self._lengths, self._batch_size, self._seed, self._epoch)
        return iter(order + [FILLER] * self._fillers)
