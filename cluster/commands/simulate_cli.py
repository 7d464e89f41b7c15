"""python -m cluster simulate: how long a made-up sweep would take on a described cluster, and how full it would be."""

import argparse
import time

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.compute_sharing import Contention
from cluster.scheduling.shares import MAX_TENANTS
from cluster.scheduling.simulate import Simulation, simulate
from cluster.scheduling.trial_mix import mixed_trials
from common import cli
from common.errors import Problems
from common.units import format_duration


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m cluster`."""
    parser = commands.add_parser(
        "simulate",
        help="place a made-up sweep on a described cluster under a simulated clock",
        description="Places trials of four model families, with made-up but usual sizes and durations, by the code that"
        " places real ones, and compares the makespan with a lower bound that no placement can beat.",
        epilog="example: python -m cluster simulate --cluster 64x24GiB,16x80GiB --trials 10000 --policy shares",
    )
    parser.add_argument(
        "--cluster", required=True, metavar="CARDS",
        help="COUNTxSIZE or COUNTxNAME:SIZE[@SPEED], with commas between, for example 64xT4:16GiB@0.5,16xA100:80GiB@2",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="number of trials (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up trials (default: %(default)s)")
    parser.add_argument(
        "--policy", choices=("shares", "half", "whole"), default="shares",
        help="shares as estimated; half a card for each trial that fits it; one trial a card (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--busy", type=float, metavar="PART",
        help="part of a card's compute that every trial keeps busy alone (default: by its tokens in a micro-batch)",
    )  # fmt: skip
    parser.add_argument(
        "--overhead", type=float, default=0.0, metavar="PART",
        help="by which each co-tenant slows the others down beyond their turns (default: %(default)s, an assumption)",
    )  # fmt: skip
    parser.add_argument(
        "--max-trials-per-gpu", type=int, default=MAX_TENANTS, metavar="N",
        help="most trials on one card under the policy shares (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for a person or for a program")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Simulates and shows.

    Raises:
        RequestError: When the cluster cannot be read or a number makes no sense.
    """
    inventory = _checked(chosen)
    trials = mixed_trials(chosen.trials, inventory, seed=chosen.seed, busy=chosen.busy)
    started_s = time.perf_counter()
    done = simulate(
        trials,
        inventory,
        policy=chosen.policy,
        max_tenants=chosen.max_trials_per_gpu,
        contention=Contention(overhead=chosen.overhead),
    )
    wall_s = time.perf_counter() - started_s
    if chosen.format == "json":
        cli.emit_json(
            {
                "makespan_s": done.makespan_s,
                "lower_bound_s": done.lower_bound_s,
                "gpu_utilisation": done.gpu_utilisation,
                "memory_utilisation": done.memory_utilisation,
                "wall_s": wall_s,
                "decisions_per_s": len(trials) / wall_s,
                "refused": len(done.refusals),
                "placed": len(done.placements),
                "policy": chosen.policy,
                "simulated": True,
            }
        )
    else:
        cli.emit(_text(chosen, inventory, done, wall_s))
    return 0


def _checked(chosen: argparse.Namespace) -> Inventory:
    problems = Problems()
    if chosen.trials < 1:
        problems.add(f"--trials {chosen.trials}: at least 1")
    if chosen.busy is not None and not 0 <= chosen.busy <= 1:
        problems.add(f"--busy {chosen.busy:g}: a part of a card's compute, from 0 to 1")
    if chosen.overhead < 0:
        problems.add(f"--overhead {chosen.overhead:g}: at least 0")
    if chosen.max_trials_per_gpu < 1:
        problems.add(f"--max-trials-per-gpu {chosen.max_trials_per_gpu}: at least 1")
    problems.raise_if_any("python -m cluster simulate")
    return parse_simulated(chosen.cluster)


def _text(chosen: argparse.Namespace, inventory: Inventory, done: Simulation, wall_s: float) -> str:
    above = f"{done.makespan_s / done.lower_bound_s - 1:.1%} above it" if done.lower_bound_s else "nothing was placed"
    rows = [
        ("makespan", format_duration(done.makespan_s)),
        ("lower bound", f"{format_duration(done.lower_bound_s)}; the makespan is {above}"),
        ("compute in use", f"{done.gpu_utilisation:.1%} of all cards until the end"),
        ("memory in use", f"{done.memory_utilisation:.1%} of what trials may use"),
        ("refused", str(len(done.refusals))),
        ("decisions", f"{chosen.trials} in {wall_s:.1f} s, {chosen.trials / wall_s:,.0f} a second"),
    ]
    title = f"{chosen.trials} made-up trials (seed {chosen.seed}), policy {chosen.policy}, on {inventory.describe()}"
    why = "".join(f"\nnot placed: {refusal}" for refusal in done.refusals[:3])
    more = len(done.refusals) - 3
    lines = "\n".join(f"{name:<16}{value}" for name, value in rows)
    return f"{title}\n\n{lines}{why}" + (f"\n... and {more} more" if more > 0 else "")
