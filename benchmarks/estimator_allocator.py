"""Measures the overhead of torch's allocator in its model; writes estimator_allocator.md in its own folder.

`python -m benchmarks.estimator_allocator` compares reserved with allocated bytes, without a GPU: for batches of
one shape and of a data set's lengths, with native and expandable segments. It also counts how often a replayed estimate
exceeds the quick one, which takes the allocator's overhead from a few probes. Two minutes on one core.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

from benchmarks.pages import page_parser, table
from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.request import Allocator, MemoryRequest
from tune_jobs.placing.memory_templates import template_finder
from tune_jobs.placing.template_shipping import shipped_facts
from tuning_common.cli import note
from tuning_common.files import write_text

MODELS = ("kobart", "kogpt2", "t5-base", "mt5-untied")
ALLOCATORS: tuple[Allocator, ...] = ("expandable", "native")
SHAPES = 30  # random ones for each model, with checkpointing and without
BATCHES = (1, 2, 4, 8, 16, 32)


def drawn_lengths(draw: random.Random, count: int, longest: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Draws dialogues and summaries of log-normal lengths (medians 221 and 49 tokens), cut at the longest."""
    return tuple(
        (min(longest[0], round(draw.lognormvariate(5.4, 0.45))), min(longest[1], round(draw.lognormvariate(3.9, 0.4))))
        for _ in range(count)
    )


def reserved_over_used(estimator: Estimator, request: MemoryRequest) -> float:
    """Returns reserved over allocated bytes of training."""
    found = estimator.estimate(request)
    return found.train_reserved_bytes / found.train_allocated_bytes


def fragmentation(estimator: Estimator, plain: dict[str, MemoryRequest]) -> Sequence[tuple[object, ...]]:
    """One row per model: reserved over used for one shape and for a data set, with both kinds of segments."""
    rows = []
    for name, request in plain.items():
        draw = random.Random(0)
        lengths = drawn_lengths(draw, 2000, (request.encoder_max_len, request.decoder_max_len))
        cells = []
        for allocator in ALLOCATORS:
            for known in ((), lengths):
                asked = replace(request, batch_size=16, allocator=allocator, lengths=known)
                cells.append(f"{reserved_over_used(estimator, asked):.3f}")
        note(f"{name}: reserved over used {', '.join(cells)}")
        rows.append((name, *cells))
    return rows


def quick_against_replayed(estimator: Estimator, plain: dict[str, MemoryRequest]) -> Sequence[tuple[object, ...]]:
    """One row per model: the quick upper bound over the replayed one, at random shapes."""
    rows = []
    for name, request in plain.items():
        draw = random.Random(1)
        ratios = []
        for index in range(2 * SHAPES):
            asked = replace(
                request, batch_size=draw.choice(BATCHES), encoder_max_len=draw.randrange(64, 897),
                decoder_max_len=draw.randrange(16, 128), generation_batch_size=draw.choice((1, 8, 16, 32)),
                num_beams=draw.choice((1, 4)), gradient_checkpointing=index % 2 == 1,
            )  # fmt: skip
            ratios.append(estimator.upper_bytes(asked) / estimator.estimate(asked).upper_bytes - 1)
        note(f"{name}: quick over replayed {min(ratios):+.2%} to {max(ratios):+.2%}")
        below = sum(ratio < 0 for ratio in ratios)
        spread = [f"{value:+.2%}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
        rows.append((name, len(ratios), below, *spread))
    return rows


def report(fragments: Sequence[Sequence[object]], quick: Sequence[Sequence[object]]) -> str:
    """Writes the tables."""
    return "\n".join([
        "# What torch's allocator adds",
        "",
        f"Made by `python -m benchmarks.estimator_allocator` with templates of torch {version('torch')}. The allocator",
        "is a model on paper of the documented rules of `CUDACachingAllocator.cpp`. **Measured on a GPU: not",
        "measured**, see [gpu_peaks.md](gpu_peaks.md).",
        "",
        "Reserved over used bytes of training, batch 16, lengths up to 512 + 128, bf16. *One shape*: three steps of",
        "the longest batch. *Data*: then 40 batches of 2,000 dialogues with log-normal lengths, in a trainer's order.",
        "",
        table(("model", "expandable, one shape", "expandable, data", "native, one shape", "native, data"), fragments),
        "",
        "A plan asks for many sizes, so it does not replay each: it takes the largest part that the allocator added in"
        " five probes.",
        "The quick upper bound over the replayed one, at random shapes; where the quick one is below, a plan that is",
        "confirmed, as those of sweeps and of `estimate --budget` are, takes the replayed one.",
        "",
        table(("model", "shapes", "quick is below", "median", "least", "most"), quick),
        "",
    ])  # fmt: skip


def main() -> None:
    """Runs the replays and writes the tables."""
    parser = page_parser(__file__, __doc__)
    chosen = parser.parse_args()
    estimator = Estimator(template_finder(note, only_at_hand=True))
    plain = {name: MemoryRequest(model=shipped_facts(name), gpu=find_gpu("L4"), batch_size=8) for name in MODELS}
    text = report(fragmentation(estimator, plain), quick_against_replayed(estimator, plain))
    write_text(chosen.output, text)
    print(text)


if __name__ == "__main__":
    main()
