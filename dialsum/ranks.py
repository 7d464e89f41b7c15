"""The processes that train one model together, each on its own card: shared decisions, sums and work.

transformers' trainer becomes data-parallel by the variables that `torchrun` sets (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT) and averages the gradients by itself. This module shares the evaluation, adds up
numbers and broadcasts decisions. It uses gloo also where gradients use NCCL, so that no message waits for a kernel.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from dialsum.config import RunConfig
from tuning_common.errors import RequestError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)  # one process may wait for memory on its card
MEETING_FILE = "DIALSUM_RANKS_FILE"  # path of a file for the rendezvous on one machine, without a port


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The process group of a run, from one process. A single process needs no communication.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        group: Their process group; None for a single process.

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
        """Returns this process's part of some work: every size-th item, which balances lengths in sorted items."""
        return list(items[self.rank :: self.size])

    def missing(self, total: int) -> int:
        """Returns how many fewer items of some work this process has than the first.

        >>> [Ranks(rank=rank, size=3).missing(7) for rank in range(3)]
        [0, 1, 1]
        """
        return -(-total // self.size) - len(range(self.rank, total, self.size))

    def together(self, part: Sequence[T]) -> list[T]:
        """Gathers the results of all processes, in the order of the items before part_of."""
        if self.size == 1:
            return list(part)
        parts: list[list[T] | None] = [None] * self.size
        distributed.all_gather_object(parts, list(part), group=self.group)
        whole: dict[int, T] = {}
        for rank, made in enumerate(parts):
            whole |= {rank + place * self.size: one for place, one in enumerate(made or [])}
        return [whole[place] for place in sorted(whole)]

    def total(self, number: float) -> float:
        """Returns the sum of a number over all processes."""
        return float(sum(self.together([number])))

    def highest(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Returns the maximum of each number over all processes."""
        everybody = self.together([dict(numbers)])
        return {name: max(one[name] for one in everybody if name in one) for name in numbers}

    def agree(self, value: bool) -> bool:
        """Returns the first process's value; sends only one byte, as it is called after each step."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.uint8)
        distributed.broadcast(said, src=0, group=self.group)
        return bool(said.item())

    def from_first(self, value: T) -> T:
        """Returns the first process's value; ignores the others'."""
        return self.together([value])[0]

    def wait(self) -> None:
        """Waits until all processes have called this."""
        if self.size > 1:
            distributed.barrier(group=self.group)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the process group of this run, where the environment defines one.

    A failing process leaves without a barrier, as the others would wait; their launcher ends them.
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
        timeout=LONGEST_WAIT,  # the launcher ends all processes when one is gone
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
        RequestError: When the batch cannot be divided evenly.

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
