"""Replays a trial's process through the allocator model: training, then generation, with cuBLAS's workspaces."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.estimator.allocator import CachingAllocator
from cluster.estimator.gpu_profile import BLAS_HANDLES
from cluster.estimator.template import EventLog, Template

Sizes = tuple[int, int, int]
"""Batch, encoder length, decoder length."""
DYNAMIC_BATCHES = 40  # after this many different lengths the reserved bytes hardly grow
STEPS = 3  # reserved bytes at one shape stop growing after one or two steps

# Where a replay of each trial would take too long, replays at these sizes give the allocator's overhead: (micro-batch,
# encoder length, decoder length, generation batch). benchmarks/estimator_allocator.md counts how many of 240 random
# shapes of four families exceed the largest of these.
_PROBES = ((1, 512, 128, 1), (8, 300, 30, 1), (16, 700, 60, 1), (64, 512, 64, 8), (64, 200, 100, 32))
_PROBE_BEAMS = 4
_PROBE_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings and initial content of torch's allocator.

    Attributes:
        expandable: Whether expandable_segments is on.
        workspace_bytes: cuBLAS workspaces, which are never released.
    """

    expandable: bool
    workspace_bytes: int


@dataclass(frozen=True, kw_only=True)
class ProcessPeaks:
    """Peaks of a replay.

    Attributes:
        train_allocated_bytes: Peak of allocated bytes in training.
        train_reserved_bytes: Reserved bytes at the end of training.
        reserved_bytes: Reserved bytes after the following generation.
    """

    train_allocated_bytes: int
    train_reserved_bytes: int
    reserved_bytes: int


def replay_process(
    template: Template,
    setting: Setting,
    *,
    train: Sizes | None,
    generate: Sizes,
    beams: int,
    steps: int = STEPS,
    others: Sequence[Sizes] = (),
) -> ProcessPeaks:
    """Replays optimizer steps of one shape, then of others, and a generation after them.

    Args:
        template: Template of the run.
        setting: Setting of the allocator.
        train: The longest micro-batch; None for a process that only generates.
        generate: The longest batch that is summarized.
        beams: Beams of the generation.
        steps: Optimizer steps with the longest micro-batch.
        others: Micro-batches of other lengths that follow, see dynamic_batches.
    """
    pieces = 2 if template.key.accumulation else 1
    shapes = [*([train] * (steps * pieces) if train is not None else []), *others]
    log = template.events(shapes, micro_steps=pieces, generate=[generate], beams=beams)
    training_ends = len(template.events(shapes, micro_steps=pieces, beams=beams).ids)
    allocator = CachingAllocator(expandable=setting.expandable)
    for handle in range(BLAS_HANDLES):
        allocator.allocate(-1 - handle, setting.workspace_bytes // BLAS_HANDLES)
    _play(allocator, log, 0, training_ends)
    allocated_bytes, reserved_bytes = allocator.peak_allocated_bytes, allocator.peak_reserved_bytes
    _play(allocator, log, training_ends, len(log.ids))
    return ProcessPeaks(
        train_allocated_bytes=allocated_bytes,
        train_reserved_bytes=reserved_bytes,
        reserved_bytes=allocator.peak_reserved_bytes,
    )


def dynamic_batches(
    lengths: Sequence[tuple[int, int]], batch: int, *, count: int = DYNAMIC_BATCHES, seed: int = 0
) -> list[Sizes]:
    """Returns micro-batches of a data set in a trainer's order: dialogues of similar length together, shuffled.

    Args:
        lengths: (encoder, decoder) tokens of each dialogue.
        batch: Dialogues of a micro-batch.
        count: Maximum number of micro-batches.
        seed: Seed of the order.

    Returns:
        (batch, longest encoder length, longest decoder length) of each, not yet padded to whole steps.

    >>> dynamic_batches([(10, 3), (12, 2), (50, 9), (40, 8)], 2)
    [(2, 12, 3), (2, 50, 9)]
    """
    similar = sorted(lengths)
    groups = [similar[start : start + batch] for start in range(0, len(similar), batch)]
    random.Random(seed).shuffle(groups)
    return [
        (len(group), max(encoder for encoder, _ in group), max(decoder for _, decoder in group))
        for group in groups[:count]
    ]


def usual_slack(template: Template, setting: Setting) -> float:
    """Returns reserved ÷ allocated, the largest of a few sizes, at least 1; rarely exceeded by other sizes."""
    ratios = [1.0]
    for batch, encoder_len, decoder_len, together in _PROBES:
        train, generate = (batch, encoder_len, decoder_len), (together, encoder_len, decoder_len)
        replayed = replay_process(
            template, setting, train=train, generate=generate, beams=_PROBE_BEAMS, steps=_PROBE_STEPS
        )
        allocated = max(
            template.allocated_bytes(*train),
            template.allocated_bytes(*generate, routine="generate", beams=_PROBE_BEAMS),
        )
        ratios.append(replayed.reserved_bytes / (allocated + setting.workspace_bytes))
    return max(ratios)


def _play(allocator: CachingAllocator, log: EventLog, start: int, end: int) -> None:
    for number, size in zip(log.ids[start:end].tolist(), log.sizes[start:end].tolist(), strict=True):
        if number < 0:
            allocator.release(-number)
        else:
            allocator.allocate(number, size)
