"""python -m tune_jobs check: finds problems before, during and after a sweep, with a remedy for each."""

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands import check_cli as nodes_cli
from cluster.machines.checks import Check, NodeFacts, Wanted, as_json, as_text, evaluate, exit_code
from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.units import counted

if TYPE_CHECKING:
    from dialsum.config import RunConfig
    from tune_jobs.config.sweep import Sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "With a sweep file: checks whether it can run here, or on a cluster. With a sweep's results: checks"
        " its progress, or what it left."
    )
    parser.epilog = "example: python -m tune_jobs check tune_jobs/sweeps/sample.yaml   (exit code 1 if a check failed)"
    parser.add_argument("target", type=Path, nargs="?", metavar="SWEEP", help="a sweep file, or a sweep's results")
    parser.add_argument("--count", type=int, metavar="N", help="how many trials, where the file has none")
    parser.add_argument("--no-pipeline", action="store_true", help="before: skip the quick training")
    parser.add_argument("--clean", action="store_true", help="after: remove checkpoints and partial files")
    nodes_cli.add_node_arguments(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Runs the checks and prints them.

    Raises:
        RequestError: When the sweep file cannot be read, or no cluster answers.
    """
    nodes: tuple[NodeFacts, ...] = ()
    if chosen.target is not None and chosen.target.is_dir():
        checks = _of_folder(chosen.target, chosen)
    else:
        nodes, checks = _before(chosen)
    cli.answer(chosen.format, as_json(nodes, checks), as_text(checks))
    return exit_code(checks)


def _before(chosen: argparse.Namespace) -> tuple[tuple[NodeFacts, ...], list[Check]]:
    from cluster.machines.node_facts import every_node, pinned, this_machine
    from tune_jobs.checks.sweep_checks import login_check, pipeline_check
    from tune_jobs.checks.sweep_facts import data_of, login, quick_run
    from tune_jobs.config.sweep_file import load_sweep
    from tune_jobs.search.inputs import configs_by_phase

    sweep = None if chosen.target is None else load_sweep(chosen.target, chosen.count)
    by_phase = {} if sweep is None else configs_by_phase(sweep)
    configs = [config for part in by_phase.values() for config in part]
    wanted = Wanted(packages=pinned(), storage=chosen.storage, data=data_of(configs))
    address = chosen.address or os.environ.get("RAY_ADDRESS")
    with nodes_cli.connection(address):
        answers = every_node(wanted) if address else this_machine(wanted)
    checks = evaluate(answers.nodes, answers.wanted, answers.silent)
    if sweep is not None:
        checks.append(_check_inputs(sweep, by_phase))
    checks.append(login_check(login(sweep, os.environ, Path.home())))
    if sweep is not None and not chosen.no_pipeline and checks[-2].status != "failed":
        cli.note("a quick training on a few dialogues of this sweep ... (--no-pipeline leaves it out)")
        checks.append(pipeline_check(*quick_run(configs[0])))
    return answers.nodes, checks


def _check_inputs(sweep: "Sweep", configs: "Mapping[str, tuple[RunConfig, ...]]") -> Check:
    from tune_jobs.search.inputs import prepare_inputs
    from tune_jobs.search.text_lengths import cache_of, find_cut_texts

    try:
        inputs = prepare_inputs(sweep, configs)
        cut_texts = find_cut_texts(inputs.of_phases(), cache_of(sweep), sweep.source) if inputs.trains else ()
    except RequestError as error:
        remedy = "correct the files and names above, in the sweep file or its data"
        return Check(name="sweep", status="failed", detail=str(error), remedy=remedy)
    detail = f"{counted(sweep.trials, 'trial')}; its data files, tokenizers and models can be read"
    if cut_texts:
        remedy = "a larger encoder_max_len or decoder_max_len, if memory allows"
        return Check(name="sweep", status="warning", detail="\n".join((detail, *cut_texts)), remedy=remedy)
    return Check(name="sweep", status="ok", detail=detail)


def _of_folder(folder: Path, chosen: argparse.Namespace) -> list[Check]:
    from tune_jobs.checks.sweep_checks import after_checks, during_checks
    from tune_jobs.checks.sweep_facts import left, leftovers_of, running, stage_of

    if stage_of(folder) == "during":
        if chosen.clean:
            raise RequestError(f"{folder}: the sweep runs and needs its checkpoints; --clean is for afterwards")
        return during_checks(running(folder))
    facts = left(folder)
    if chosen.clean and not facts.unfinished:
        for path in leftovers_of(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        facts = left(folder)
    return after_checks(facts)
