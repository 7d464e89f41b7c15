"""The order of an epoch: batches of similar length, shuffled, and the same for a seed wherever a run was cut."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

FILLER = -1  # in place of an example where a last batch does not divide evenly; see EncodedDataset
POOL_BATCHES = 50  # batches that are sorted together: more waste less padding, fewer mix better


def grouped_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """Orders examples so that each slice of `batch_size` holds examples of similar length.

    Examples are shuffled, sorted by length inside pools of batches, and the batches are shuffled. In the first epoch
    the longest batch goes first, so that memory runs out early or not at all. A batch that is not full stays last.

    Args:
        lengths: Tokens of each example.
        batch_size: The effective batch: pieces of one batch then hold what the whole would hold.
        seed: Seed of the run.
        epoch: Counts from 0; each has its own order.

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
    """Gives a data loader the order of the epoch that `set_epoch` named.

    transformers' own sampler draws from the global generator, whose state at the start of an epoch no checkpoint
    holds: a run that is cut within its second epoch would go on with other batches.

    Args:
        lengths: Tokens of each example.
        batch_size: See grouped_order.
        seed: Seed of the run.
        multiple: The number of examples is filled up to a multiple of it: processes that share a batch must each make
            as many pieces of it as the others, and as large ones.

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
        """Is called by the trainer at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._fillers

    def __iter__(self) -> Iterator[int]:
        order = grouped_order(self._lengths, self._batch_size, self._seed, self._epoch)
        return iter(order + [FILLER] * self._fillers)
