"""How much sooner a sweep ends when trials are packed by their estimates; writes packing.md beside itself.

`python -m benchmarks.packing` simulates a made-up mixed sweep (cluster/trial_mix.py) on clusters of 1 to 1,000 cards,
under three policies, beside a bound that no placement can beat. A minute on one core. No GPU is used: trials per
hour on a real card are not measured.
"""

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.compute_sharing import Contention
from cluster.hardware import parse_simulated
from cluster.simulate import Policy, Simulation, simulate
from cluster.trial_mix import mixed_trials
from common.cli import note
from common.files import write_text
from common.units import format_duration

POLICIES: tuple[Policy, ...] = ("shares", "half", "whole")
TRIALS_PER_CARD = 20
EQUAL = ("1x24GiB", "8x24GiB", "64x24GiB")
FOUR_MODELS = "400xT4:16GiB@0.4,300x3090:24GiB,200xA100:40GiB@1.6,100xH100:80GiB@3"
UNEQUAL = ("6x24GiB,2x80GiB", "48x24GiB,16x80GiB")
COMPUTE = ((0.25, 0.0), (0.5, 0.0), (0.9, 0.0), (0.9, 0.05))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One cluster under all policies."""

    cluster: str
    trials: int
    done: dict[Policy, Simulation]
    wall_s: float


def main() -> None:
    """Simulates everything and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"), metavar="FILE")
    parser.add_argument(
        "--large", action="store_true", help="also 1,000 cards, equal ones and four models: ten minutes"
    )
    chosen = parser.parse_args()
    output: Path = chosen.output
    equal = (*EQUAL, "1000x24GiB") if chosen.large else EQUAL
    mixed = (*UNEQUAL, FOUR_MODELS) if chosen.large else UNEQUAL
    memory = [compared(cluster, busy=0.0) for cluster in equal]
    usual = [compared(cluster) for cluster in equal]
    unequal = [compared(cluster) for cluster in mixed]
    compute = [(busy, overhead, compared("64x24GiB", busy=busy, overhead=overhead)) for busy, overhead in COMPUTE]
    write_text(output, report(memory, usual, unequal, compute))
    note(f"written to {output}")


def compared(cluster: str, *, busy: float | None = None, overhead: float = 0.0) -> Compared:
    """Simulates one cluster; the wall time is that of the policy `shares`."""
    inventory = parse_simulated(cluster)
    trials = mixed_trials(min(10_000, TRIALS_PER_CARD * inventory.cards), inventory, seed=0, busy=busy)
    done: dict[Policy, Simulation] = {}
    wall_s = 0.0
    for policy in POLICIES:
        started_s = time.perf_counter()
        done[policy] = simulate(trials, inventory, policy=policy, contention=Contention(overhead=overhead))
        wall_s = wall_s or time.perf_counter() - started_s
    note(f"{cluster}: {above(done['shares'])} above the bound in {wall_s:.1f} s")
    return Compared(cluster=cluster, trials=len(trials), done=done, wall_s=wall_s)


def above(done: Simulation) -> str:
    """Says how far a makespan is above its bound."""
    return f"{done.makespan_s / done.lower_bound_s - 1:.1%}"


def report(
    memory: Sequence[Compared],
    usual: Sequence[Compared],
    unequal: Sequence[Compared],
    compute: Sequence[tuple[float, float, Compared]],
) -> str:
    """Lays out all tables."""
    results = ["lower bound", "shares", "above it", "half", "whole", "gain over half", "over whole"]
    head = ["cluster", "trials", *results, "wall"]
    return "\n".join(
        [
            "# How much sooner a packed sweep ends",
            "",
            f"Made by `python -m benchmarks.packing` on {platform.machine()}, Python {platform.python_version()}.",
            "Everything here is **simulated**: trials per hour on a real GPU are *not measured*.",
            "",
            "*shares*: placed by estimates; *half*: 0.5 of a card for each trial that fits it; *whole*: one "
            "trial a card.",
            "The trials are made up (every assumption stands in `cluster/trial_mix.py`), drawn with seed 0, all "
            "known at the",
            "start. The lower bound counts bytes, the limit of eight co-tenants, and compute; no policy can go "
            "below it.",
            "",
            "## By memory alone",
            "",
            "As if co-tenants never waited for each other's kernels: how good the packing itself is.",
            "",
            *_table(head, [_row(one) for one in memory]),
            "",
            "## With compute",
            "",
            "Each trial keeps a part of a card's compute busy, by the tokens in its micro-batch (10 % to 90 %); "
            "where the",
            "parts on a card add up to more than 1, all its trials slow down alike.",
            "",
            *_table(head, [_row(one) for one in usual]),
            "",
            "## Unequal cards",
            "",
            "With compute, cards of two sizes; 1,000 cards are simulated with `--large` only.",
            "Where shares lose here: placement knows bytes and not compute, puts up to eight trials on one large card,",
            "and a long trial among them is slowed several times over. `max_trials_per_gpu` is the remedy until busy",
            "parts are measured.",
            "",
            *_table(head, [_row(one) for one in unequal]),
            "",
            "## What the gain depends on",
            "",
            "64 cards of 24 GiB. *busy* is the part of a card's compute that a trial keeps busy alone, "
            "*overhead* what each",
            "co-tenant costs the others beyond their turns (both are assumptions). Packing gains as long as a "
            "trial alone",
            "leaves compute idle; where it leaves none, it gains nothing, and with an overhead it loses: set",
            "`max_trials_per_gpu` then.",
            "",
            *_table(["busy", "overhead", *results], [[f"{b:g}", f"{o:g}", *_row(one)[2:-1]] for b, o, one in compute]),
            "",
        ]
    )


def _row(one: Compared) -> list[str]:
    shares, half, whole = (one.done[policy] for policy in POLICIES)
    return [
        one.cluster,
        f"{one.trials:,}",
        *(format_duration(seconds) for seconds in (shares.lower_bound_s, shares.makespan_s)),
        above(shares),
        *(format_duration(done.makespan_s) for done in (half, whole)),
        *(f"{done.makespan_s / shares.makespan_s:.2f} x" for done in (half, whole)),
        f"{one.wall_s:.1f} s",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    main()
