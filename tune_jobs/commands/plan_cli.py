"""python -m tune_jobs plan: shows what a sweep would run, without training."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common import cli
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from cluster.machines.hardware import Inventory
    from tune_jobs.config.sweep import Sweep
    from tune_jobs.planning.plan_values import SweepPlan
    from tune_jobs.planning.quota_end import QuotaEnd
    from tune_jobs.records.ledger import Ledger
    from tune_jobs.search.inputs import SweepInputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Shows what a sweep would run on the cluster at hand, or on one that you describe: its trials, the"
        " memory and share of each, how they pack, GPU-hours and the end from earlier runs or a few steps here, which"
        " parameters matter most, and warnings. Nothing is trained."
    )
    parser.epilog = "example: python -m tune_jobs plan tune_jobs/sweeps/wide_search.yaml --cluster 2x24GiB,1x80GiB"
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep file")
    parser.add_argument("--count", type=int, metavar="N", help="how many trials, where the file has none")
    cards = parser.add_mutually_exclusive_group()
    cards.add_argument("--cluster", metavar="CARDS", help="a described cluster, for example 2x24GiB,1x80GiB")
    cards.add_argument("--cpu-only", action="store_true", help="no cards at all: place by CPUs and host memory")
    parser.add_argument("--measure", action="store_true", help="time a few real steps of each kind of trial here")
    parser.add_argument("--strict", action="store_true", help="refuse a sweep on which there is a warning")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Plans and prints.

    Raises:
        RequestError: When the file or the cluster cannot be used, or `--strict` refuses.
    """
    described = describe(chosen)
    cli.answer(chosen.format, described.values, described.text)
    if described.refused:
        raise RequestError(described.refused)
    return 0


@dataclass(frozen=True, kw_only=True)
class DescribedPlan:
    """A plan for people and for programs.

    Attributes:
        text: For people.
        values: For programs.
        refused: Why no trial can run; empty where some can.
    """

    text: str
    values: dict[str, object]
    refused: str


def describe(chosen: argparse.Namespace) -> DescribedPlan:
    """Plans the sweep that the arguments name; see run."""
    from tune_jobs.config.sweep_file import load_sweep
    from tune_jobs.driver.trained_model import with_trained_base
    from tune_jobs.planning.earlier import earlier_ledgers, importances_of
    from tune_jobs.planning.impact import impacts
    from tune_jobs.planning.known_facts import facts_of, remarks_on
    from tune_jobs.planning.plan_json import as_json
    from tune_jobs.planning.plan_text import as_text
    from tune_jobs.search.inputs import prepare_inputs
    from tune_jobs.search.text_lengths import cache_of, cut_texts_of_plan

    sweep = load_sweep(chosen.sweep, chosen.count)
    if sweep.trained_model is not None:
        sweep = with_trained_base(sweep)
    inputs = prepare_inputs(sweep, for_plan=True)
    facts = facts_of(sweep, inputs)
    remarks_on(sweep, facts, strict=chosen.strict)  # refuses a huge grid before listing it
    ledgers = earlier_ledgers(Path(sweep.tracking.output_dir))
    with _cards(chosen, sweep) as inventory:
        plan = _planned(chosen, sweep, inputs, inventory, ledgers)
    if inputs.trains and not inputs.sizes.absent:
        plan = replace(plan, cut_texts=cut_texts_of_plan(inputs.of_phases(), cache_of(sweep), sweep.source))
    if plan.timed:
        facts = replace(facts, makespan_s=plan.makespan, makespan_at_most_s=plan.makespan_at_most)
    remarks = remarks_on(sweep, facts, strict=chosen.strict)
    experience, parts = importances_of(ledgers, sweep.metric.name, sweep.metric.goal)
    rows = impacts(plan.phases[0].sweep if len(plan.phases) == 1 else _searching(sweep), parts)
    now = datetime.now().astimezone()
    quota = _in_quota(sweep, plan, now)
    refused = all(group.refused for group in plan.groups)
    return DescribedPlan(
        text=as_text(plan, remarks, rows, experience=experience, now=now, quota=quota),
        values=as_json(plan, remarks, rows, experience=experience, now=now, quota=quota),
        refused=f"{sweep.source}: no trial can run on {inventory.describe()}" if refused else "",
    )


@contextmanager
def _cards(chosen: argparse.Namespace, sweep: "Sweep") -> "Iterator[Inventory]":
    if chosen.cluster is not None:
        from cluster.machines.hardware import parse_simulated

        yield parse_simulated(chosen.cluster)
        return
    from tune_jobs.driver.cards import cards_at_hand

    with cards_at_hand(sweep.resources.simulate, cpu_only=chosen.cpu_only) as inventory:
        yield inventory


def _planned(
    chosen: argparse.Namespace,
    sweep: "Sweep",
    inputs: "SweepInputs",
    inventory: "Inventory",
    ledgers: "Sequence[Ledger]",
) -> "SweepPlan":
    from tune_jobs.placing.placer import sweep_placer
    from tune_jobs.placing.throughput import Throughput
    from tune_jobs.planning.earlier import observations_of
    from tune_jobs.planning.plan import make_plan

    throughput = Throughput(observations_of(ledgers))
    if chosen.measure:
        from tune_jobs.planning.quick_measurement import measure_kinds

        searched = inputs.of_phases(phase for phase in sweep.phases if phase.kind != "confirm")
        throughput = Throughput(measure_kinds(searched), anywhere=True)
    described = chosen.cluster is not None
    placer = sweep_placer(sweep, inventory, inputs.sizes, throughput, described=described)
    return make_plan(sweep, inventory, described=described, options=placer.options, sizes=inputs.sizes)


def _in_quota(sweep: "Sweep", plan: "SweepPlan", now: datetime) -> "QuotaEnd | None":
    """Returns when the sweep would end within its member's quota; None without a member, cards or times.

    Raises:
        RequestError: When the team file has a problem or does not know the member.
    """
    if sweep.team.member is None:
        return None
    from cluster.scheduling.quotas import load_team, quota_gpus
    from tune_jobs.planning.quota_end import end_in_quota

    team = load_team(Path(sweep.team.file))
    quota_gpus(team, sweep.team.member, now)  # refuses an unknown member, also without times
    if not plan.timed or not plan.gpu_time:
        return None
    return end_in_quota(plan, team, sweep.team.member, now)


def _searching(sweep: "Sweep") -> "Sweep":
    """Returns the first phase that searches, whose parameters are shown."""
    return next((phase.sweep for phase in sweep.phases if phase.kind in ("wide", "narrow")), sweep)
