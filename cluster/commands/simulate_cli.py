"""python -m cluster simulate: schedules a synthetic sweep on a described cluster; prints makespan and utilisation."""

import argparse
import time
from dataclasses import dataclass, replace

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.compute_sharing import Contention
from cluster.scheduling.shares import MAX_TENANTS
from cluster.scheduling.simulation import Simulation, bound_s, hold_under, rules_under, simulate
from cluster.scheduling.synthetic_trials import Synthetic, synthetic_trials
from tuning_common import cli
from tuning_common.errors import Problems
from tuning_common.units import format_duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Lets the broker of real sweeps place trials of four model families, with synthetic but typical"
        " sizes and durations, and compares the makespan with a lower bound that no placement can beat."
    )
    parser.epilog = "example: python -m cluster simulate --cluster 64x24GiB,16x80GiB --trials 10000 --policy shares"
    parser.add_argument(
        "--cluster", required=True, metavar="CARDS",
        help="COUNTxSIZE, COUNTxMODEL or COUNTxNAME:SIZE[@SPEED], for example 64xT4:16GiB@0.5,16xA100:80GiB@2",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="number of trials (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up trials (default: %(default)s)")
    parser.add_argument(
        "--policy", choices=("shares", "half", "whole"), default="shares",
        help="shares as estimated; half a card for each trial that fits it; one trial a card (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--busy", type=float, metavar="PART",
        help="busy part of every trial when it is alone on a card (default: by its tokens in a micro-batch)",
    )  # fmt: skip
    parser.add_argument(
        "--unknown-durations", action="store_true",
        help="the broker knows bytes only: trials start largest first",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="PART",
        help="largest relative error of the durations that the broker expects (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--overhead", type=float, default=0.0, metavar="PART",
        help="extra slowdown by each co-tenant, beyond sharing compute (default: %(default)s, an assumption)",
    )  # fmt: skip
    parser.add_argument(
        "--max-trials-per-gpu", type=int, default=MAX_TENANTS, metavar="N",
        help="most trials on one card under the policy shares (default: %(default)s)",
    )  # fmt: skip
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Simulates and prints.

    Raises:
        RequestError: When the cluster cannot be parsed or a number is out of its range.
    """
    inventory = _checked(chosen)
    drawn = synthetic_trials(
        chosen.trials,
        inventory,
        seed=chosen.seed,
        busy=chosen.busy,
        known=not chosen.unknown_durations,
        noise=chosen.noise,
        max_tenants=chosen.max_trials_per_gpu,
    )
    trials = [replace(one, request=hold_under(chosen.policy, one.request, inventory)) for one in drawn.trials]
    started_s = time.perf_counter()
    done = simulate(
        trials, inventory, contention=Contention(overhead=chosen.overhead), rules=rules_under(chosen.policy)
    )
    wall_s = time.perf_counter() - started_s
    lower_bound_s = bound_s(drawn.trials, inventory, max_tenants=chosen.max_trials_per_gpu)
    result = _Result(drawn=drawn, done=done, lower_bound_s=lower_bound_s, wall_s=wall_s)
    cli.answer(
        chosen.format,
        {
            "makespan_s": done.makespan_s,
            "lower_bound_s": lower_bound_s,
            "gpu_utilisation": done.gpu_utilisation,
            "memory_utilisation": done.memory_utilisation,
            "wall_s": wall_s,
            "decisions_per_s": len(trials) / wall_s,
            "refused": len(drawn.refused),
            "placed": len(trials),
            "policy": chosen.policy,
            "simulated": True,
        },
        _text(chosen, inventory, result),
    )
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    drawn: Synthetic
    done: Simulation
    lower_bound_s: float
    wall_s: float


def _checked(chosen: argparse.Namespace) -> Inventory:
    problems = Problems()
    if chosen.trials < 1:
        problems.add(f"--trials {chosen.trials}: at least 1")
    if chosen.busy is not None and not 0 <= chosen.busy <= 1:
        problems.add(f"--busy {chosen.busy:g}: a part of a card's compute, from 0 to 1")
    if not 0 <= chosen.noise < 1:
        problems.add(f"--noise {chosen.noise:g}: a part of a duration, at least 0 and below 1")
    if chosen.overhead < 0:
        problems.add(f"--overhead {chosen.overhead:g}: at least 0")
    if chosen.max_trials_per_gpu < 1:
        problems.add(f"--max-trials-per-gpu {chosen.max_trials_per_gpu}: at least 1")
    problems.raise_if_any("python -m cluster simulate")
    return parse_simulated(chosen.cluster)


def _text(chosen: argparse.Namespace, inventory: Inventory, result: _Result) -> str:
    done, bound, refused = result.done, result.lower_bound_s, result.drawn.refused
    above = f"{done.makespan_s / bound - 1:.1%} above it" if bound else "nothing was placed"
    placed = len(result.drawn.trials)
    rows = [
        ("makespan", format_duration(done.makespan_s)),
        ("lower bound", f"{format_duration(bound)}; the makespan is {above}"),
        ("compute in use", f"{done.gpu_utilisation:.1%} of all cards until the end"),
        ("memory in use", f"{done.memory_utilisation:.1%} of what trials may use"),
        ("refused", str(len(refused))),
        ("decisions", f"{placed} in {result.wall_s:.1f} s, {placed / result.wall_s:,.0f} a second"),
    ]
    title = f"{chosen.trials} made-up trials (seed {chosen.seed}), policy {chosen.policy}, on {inventory.describe()}"
    why = "".join(f"\nnot placed: {reason}" for reason in refused[:3])
    more = f"\n... and {len(refused) - 3} more" if len(refused) > 3 else ""
    return f"{title}\n\n" + "\n".join(f"{name:<16}{value}" for name, value in rows) + why + more
