"""Measures how much earlier a sweep ends when the broker packs trials by estimates; writes packing.md.

`python -m benchmarks.packing` runs a made-up mixed sweep (cluster/scheduling/synthetic_trials.py) through the broker of
real sweeps under a simulated clock, on clusters of 1 to 1,000 cards, under three policies, beside a bound that no
placement can beat. Some minutes on one quiet core, with `--large` (1,000 cards) more. No GPU is used: trials per hour
on a real card are not measured.
"""

import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.pages import page_parser, table
from cluster.machines.hardware import parse_simulated
from cluster.scheduling.compute_sharing import Contention
from cluster.scheduling.simulation import Policy, SimulatedTrial, Simulation, bound_s, hold_under, rules_under, simulate
from cluster.scheduling.synthetic_trials import synthetic_trials
from tuning_common.cli import note
from tuning_common.files import write_text
from tuning_common.units import format_duration

POLICIES: tuple[Policy, ...] = ("shares", "half", "whole")
TRIALS_PER_CARD = 20
EQUAL = ("1x24GiB", "8x24GiB", "64x24GiB")
FOUR_MODELS = "400xT4:16GiB@0.4,300x3090:24GiB,200xA100:40GiB@1.6,100xH100:80GiB@3"
UNEQUAL = ("6x24GiB,2x80GiB", "48x24GiB,16x80GiB")
SEEDED = ("8x24GiB", "3x24GiB,1x80GiB", "6x24GiB,2x80GiB")
SEEDS = 10
NOISE = (0.1, 0.3)  # parts by which a predicted duration is at most wrong
COMPUTE = ((0.25, 0.0), (0.5, 0.0), (0.9, 0.0), (0.9, 0.05))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One cluster under all policies.

    Attributes:
        cluster: Description of the cluster.
        trials: Number of trials.
        lower_bound_s: Lower bound of the makespan for any placement.
        done: Results by policy, with known durations.
        predicted: The policy `shares` by the noise of the durations that the broker is told.
        in_order: Shares by bytes alone, durations unknown.
        wall_s: Of the policy `shares`.
        cpu_s: Of the policy `shares`.
    """

    cluster: str
    trials: int
    lower_bound_s: float
    done: dict[Policy, Simulation]
    predicted: dict[float, Simulation]
    in_order: Simulation
    wall_s: float
    cpu_s: float


def main() -> None:
    """Simulates everything and writes the tables."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument(
        "--large",
        action="store_true",
        help="also 1,000 cards, equal ones and four models: some minutes more",
    )
    chosen = parser.parse_args()
    output: Path = chosen.output
    equal = (*EQUAL, "1000x24GiB") if chosen.large else EQUAL
    mixed = (*UNEQUAL, FOUR_MODELS) if chosen.large else UNEQUAL
    progress = _Progress([*equal, *equal, *mixed, *("64x24GiB" for _ in COMPUTE)])
    memory = [compared(cluster, progress, busy=0.0) for cluster in equal]
    usual = [compared(cluster, progress) for cluster in equal]
    unequal = [compared(cluster, progress) for cluster in mixed]
    compute = [
        (busy, overhead, compared("64x24GiB", progress, busy=busy, overhead=overhead)) for busy, overhead in COMPUTE
    ]
    seeded = [over_seeds(cluster) for cluster in SEEDED]
    write_text(output, report(memory, usual, unequal, compute, seeded, large=chosen.large))
    note(f"written to {output}")


class _Progress:
    """Prints the progress of the simulations; simulations with equally many trials should take equally long.

    Args:
        clusters: All clusters to simulate.
    """

    def __init__(self, clusters: Sequence[str]) -> None:
        self._left = (len(POLICIES) + len(NOISE) + 1) * sum(trials_on(cluster) for cluster in clusters)
        self._done = 0
        self._started_s = time.perf_counter()

    def step(self, cluster: str, what: str, above_bound: str) -> None:
        """Counts one finished simulation."""
        self._left, self._done = self._left - trials_on(cluster), self._done + trials_on(cluster)
        left_s = (time.perf_counter() - self._started_s) / self._done * self._left
        note(f"{cluster}, {what}: {above_bound} above the bound; about {format_duration(left_s)} left")


def trials_on(cluster: str) -> int:
    """Returns the number of trials for a cluster."""
    return min(10_000, TRIALS_PER_CARD * parse_simulated(cluster).cards)


def compared(cluster: str, progress: _Progress, *, busy: float | None = None, overhead: float = 0.0) -> Compared:
    """Simulates one cluster; the times are those of the policy `shares`."""
    inventory, contention = parse_simulated(cluster), Contention(overhead=overhead)
    count = trials_on(cluster)
    trials = synthetic_trials(count, inventory, seed=0, busy=busy).trials
    unknown = synthetic_trials(count, inventory, seed=0, busy=busy, known=False).trials
    lower_bound_s = bound_s(trials, inventory)

    def simulated(some: Sequence[SimulatedTrial], policy: Policy, what: str) -> Simulation:
        held = [replace(one, request=hold_under(policy, one.request, inventory)) for one in some]
        result = simulate(held, inventory, contention=contention, rules=rules_under(policy))
        progress.step(cluster, what, above(result.makespan_s, lower_bound_s))
        return result

    started_s, cpu_started_s = time.perf_counter(), time.process_time()
    done: dict[Policy, Simulation] = {"shares": simulated(trials, "shares", "shares")}
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
    done |= {"half": simulated(trials, "half", "half"), "whole": simulated(trials, "whole", "whole")}
    predicted = {
        noise: simulated(
            synthetic_trials(count, inventory, seed=0, busy=busy, noise=noise).trials,
            "shares",
            f"shares, durations {noise:.0%} wrong",
        )
        for noise in NOISE
    }
    return Compared(
        cluster=cluster,
        trials=len(trials),
        lower_bound_s=lower_bound_s,
        done=done,
        predicted=predicted,
        in_order=simulated(unknown, "shares", "shares, durations unknown"),
        wall_s=wall_s,
        cpu_s=cpu_s,
    )


def over_seeds(cluster: str) -> list[str]:
    """Returns a row: above the bound with true and predicted durations, and beside the better of half and whole."""
    inventory, count = parse_simulated(cluster), trials_on(cluster)
    parts: dict[float, list[float]] = {noise: [] for noise in (0.0, *NOISE)}
    ratios = []
    for seed in range(SEEDS):
        note(f"{cluster}: seed {seed + 1} of {SEEDS}")
        true = synthetic_trials(count, inventory, seed=seed).trials
        lower_bound_s = bound_s(true, inventory)
        others: tuple[Policy, Policy] = ("half", "whole")
        held = [[replace(one, request=hold_under(policy, one.request, inventory)) for one in true] for policy in others]
        best_s = min(simulate(some, inventory, rules=rules_under("half")).makespan_s for some in held)
        for noise, found in parts.items():
            trials = synthetic_trials(count, inventory, seed=seed, noise=noise).trials
            makespan_s = simulate(trials, inventory).makespan_s
            found.append(makespan_s / lower_bound_s - 1)
            ratios.append(makespan_s / best_s)
    cells = [f"{statistics.median(found):.1%} ({max(found):.1%})" for found in parts.values()]
    return [cluster, str(SEEDS), *cells, f"{max(ratios):.2f} x"]


def above(makespan_s: float, lower_bound_s: float) -> str:
    """Returns how far a makespan is above its bound, as text."""
    return f"{makespan_s / lower_bound_s - 1:.1%}"


def report(
    memory: Sequence[Compared],
    usual: Sequence[Compared],
    unequal: Sequence[Compared],
    compute: Sequence[tuple[float, float, Compared]],
    seeded: Sequence[Sequence[str]],
    *,
    large: bool,
) -> str:
    """Returns all tables."""
    command = "python -m benchmarks.packing" + (" --large" if large else "")
    wrong = [f"{100 * noise:.0f} % wrong" for noise in NOISE]
    results = ["lower bound", "shares", "above it", *wrong, "half", "whole", "gain over half", "over whole", "in order"]
    head = ["cluster", "trials", *results, "wall", "CPU"]
    return "\n".join(
        [
            "# How much sooner a packed sweep ends",
            "",
            f"Made by `{command}` on {platform.machine()}, Python {platform.python_version()}.",
            "Everything here is **simulated**: trials per hour on a real GPU are *not measured*.",
            "",
            "*shares*: packed by estimates of memory and by how busy each trial keeps a card, durations known;",
            "*10 % wrong*, *30 % wrong*: how far above the bound where predicted durations are up to that much wrong;",
            "*half*: 0.5 of a card for each trial that fits it; *whole*: one trial a card; *in order*: shares, but",
            "durations and busy parts unknown, so the largest start first. The trials are made up (every assumption",
            "stands in `synthetic_trials.py`), drawn with seed 0, all known at the start. All go through the broker of",
            "real sweeps, which chooses the node; of its cards a trial gets the fullest one that has room, as Ray",
            "chooses.",
            "",
            "**Sweeps tell the broker predicted durations and busy parts on GPU models whose peaks are known. On cards",
            "that are known only by their size the column *in order* holds.**",
            "",
            "The lower bound counts bytes, the limit of eight co-tenants and compute, and what mixes of trials can",
            "make of a card (`lower_bound.py`); no policy can go below it. *Wall* and *CPU* are the time of",
            "`shares`, without its bound, on a machine that other work shared.",
            "",
            "## By memory alone",
            "",
            "As if co-tenants never waited for each other's kernels: how good the packing itself is.",
            "",
            table(head, [_row(one) for one in memory]),
            "",
            "## With compute",
            "",
            "Each trial keeps a part of a card's compute busy, by the tokens in its micro-batch (10 % to 90 %); "
            "where the",
            "parts on a card add up to more than 1, all its trials slow down alike.",
            "",
            table(head, [_row(one) for one in usual]),
            "",
            "## Unequal cards",
            "",
            "With compute, cards of two sizes and, with `--large`, of four models of unequal speed.",
            "",
            table(head, [_row(one) for one in unequal]),
            "",
            "## Ten seeds",
            "",
            "Median (and worst) distance to the bound over ten drawn sweeps, and the worst makespan, with true and "
            "predicted",
            "durations, beside the better one of half and whole cards.",
            "",
            table(["cluster", "seeds", "true", *wrong, "worst beside half and whole"], seeded),
            "",
            "## What the gain depends on",
            "",
            "64 cards of 24 GiB. *busy* is the part of a card's compute that a trial keeps busy alone, "
            "*overhead* what each",
            "co-tenant costs the others beyond their turns (both are assumptions). Packing gains as long as a "
            "trial alone",
            "leaves compute idle; where it leaves none, it gains little.",
            "",
            table(["busy", "overhead", *results], [[f"{b:g}", f"{o:g}", *_row(one)[2:-2]] for b, o, one in compute]),
            "",
        ]
    )


def _row(one: Compared) -> list[str]:
    shares_s, half_s, whole_s = (one.done[policy].makespan_s for policy in POLICIES)
    return [
        one.cluster,
        f"{one.trials:,}",
        *(format_duration(seconds) for seconds in (one.lower_bound_s, shares_s)),
        above(shares_s, one.lower_bound_s),
        *(above(found.makespan_s, one.lower_bound_s) for found in one.predicted.values()),
        *(format_duration(seconds) for seconds in (half_s, whole_s)),
        *(f"{seconds / shares_s:.2f} x" for seconds in (half_s, whole_s)),
        format_duration(one.in_order.makespan_s),
        f"{one.wall_s:.1f} s",
        f"{one.cpu_s:.1f} s",
    ]


if __name__ == "__main__":
    main()
