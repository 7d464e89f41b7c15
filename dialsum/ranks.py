"""The processes that train one model together, each on a card of its own: how they agree, add up and share work.

transformers' trainer becomes data-parallel by the variables that `torchrun` sets (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT) and averages the gradients by itself. What is left for us lies here: evaluation is shared,
numbers are added up, and what one process decides, all do. This goes over gloo also where gradients go over NCCL, so
that no word between the processes waits for a kernel.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from common.errors import RequestError
from dialsum.config import RunConfig

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)  # of one process for another, which may have to wait for room on its card
MEETING_FILE = "DIALSUM_RANKS_FILE"  # names a file by which processes of one machine find each other, without a port


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run, as one of them sees them. One alone agrees with itself at once.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        group: Over which they speak; None where there is one alone.

    >>> alone = Ranks()
    >>> alone.is_first, alone.together(alone.part_of("abc")), alone.total(2.0), alone.agree(True)
    (True, ['a', 'b', 'c'], 2.0, True)
    """

    rank: int = 0
    size: int = 1
    group: "distributed.ProcessGroup | None" = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def part_of(self, items: Sequence[T]) -> list[T]:
        """Returns this process's part of some work: every size-th item, so that neighbours of like length are split."""
        return list(items[self.rank :: self.size])

    def missing(self, total: int) -> int:
        """Returns how much less of some work this process has than the first one.

        >>> [Ranks(rank=rank, size=3).missing(7) for rank in range(3)]
        [0, 1, 1]
        """
        return -(-total // self.size) - len(range(self.rank, total, self.size))

    def together(self, part: Sequence[T]) -> list[T]:
        """Returns what all made of their parts, in the order that part_of was given."""
        if self.size == 1:
            return list(part)
        parts: list[list[T] | None] = [None] * self.size
        distributed.all_gather_object(parts, list(part), group=self.group)
        whole: dict[int, T] = {}
        for rank, made in enumerate(parts):
            whole |= {rank + place * self.size: one for place, one in enumerate(made or [])}
        return [whole[place] for place in sorted(whole)]

    def total(self, number: float) -> float:
        """Returns the sum of everybody's number."""
        return float(sum(self.together([number])))

    def highest(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Returns the highest of everybody's numbers, name by name."""
        everybody = self.together([dict(numbers)])
        return {name: max(one[name] for one in everybody if name in one) for name in numbers}

    def agree(self, value: bool) -> bool:
        """Returns what the first process decided; is asked after each step, so it sends one byte."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.uint8)
        distributed.broadcast(said, src=0, group=self.group)
        return bool(said.item())

    def told(self, value: T) -> T:
        """Returns what the first process knows; the others' own is not looked at."""
        return self.together([value])[0]

    def wait(self) -> None:
        """Waits until all have come here."""
        if self.size > 1:
            distributed.barrier(group=self.group)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the other processes of this run, where the environment names any.

    A process that fails leaves without a farewell: the others would wait for it, and whoever started them ends them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1:
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    meeting = os.environ.get(MEETING_FILE)
    distributed.init_process_group(
        backend="nccl" if cuda else "gloo",
        init_method=f"file://{meeting}" if meeting else "env://",
        rank=int(os.environ["RANK"]),
        world_size=size,
        timeout=LONGEST_WAIT,  # whoever started the processes ends them all when one is gone
    )
    yield Ranks(
        rank=distributed.get_rank(), size=size, group=distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    )
    distributed.destroy_process_group()


def piece_of(config: RunConfig, ranks: int) -> int:
    """Returns the dialogues in one forward pass of one process.

    Args:
        config: The run.
        ranks: Processes that share its batch.

    Raises:
        RequestError: When the batch cannot be divided so.

    >>> piece_of(RunConfig(batch_size=16, gradient_accumulation_steps=2), 2)
    4
    """
    pieces = config.gradient_accumulation_steps * ranks
    if config.batch_size % pieces:
        raise RequestError(
            f"batch_size {config.batch_size} cannot be divided among {ranks} processes with"
            f" gradient_accumulation_steps {config.gradient_accumulation_steps} each; take a multiple of {pieces}"
        )
    return config.batch_size // pieces
