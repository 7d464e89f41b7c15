"""python -m tune_jobs estimate: predicts the GPU memory of a run, without a GPU."""

import argparse
import dataclasses
import typing
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cluster.estimator.calibration import Calibration, load_calibration
from cluster.estimator.estimate import Estimator, MemoryEstimate
from cluster.estimator.evaluation_batches import with_evaluation_batches
from cluster.estimator.gpu_profile import PROFILES_FILE, GpuProfile, find_gpu, gpu_of_size, with_measured
from cluster.estimator.memory_plan import NoPlan, Plan
from cluster.estimator.model_facts import ModelFacts
from cluster.estimator.planning import plan_request
from cluster.estimator.request import ALLOCATORS, MemoryRequest
from cluster.estimator.step_seconds import StepSeconds
from dialsum.config import FIELD_DESCRIPTIONS, AdapterType, Attention, OptimizerName, Precision, RunConfig
from tune_jobs.commands.estimate_text import as_json, as_text
from tune_jobs.placing.memory_lengths import lengths_of
from tune_jobs.placing.memory_requests import facts_of, open_batches, request_of
from tune_jobs.placing.memory_templates import template_finder
from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.units import parse_bytes

CALIBRATION_FILE = Path("outputs/calibration.jsonl")  # every sweep adds to it
UNNAMED_CARD = "24GiB"  # assumed if no card is named: the most common size in small labs
T = typing.TypeVar("T")
_NUMBERS = (
    "batch_size", "encoder_max_len", "decoder_max_len", "gradient_accumulation_steps", "num_beams",
    "loss_batch_size", "generation_batch_size", "generation_max_len", "no_repeat_ngram_size", "adapter_r",
)  # fmt: skip
_FRACTIONS = ("label_smoothing", "dropout", "adapter_dropout")
_CHOICES = {"precision": Precision, "optimizer": OptimizerName, "attention": Attention, "adapter_type": AdapterType}
_LISTS = ("adapter_target_modules", "adapter_modules_to_save")
_SWITCHES = ("gradient_checkpointing", "fsdp", "torch_compile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Predicts the peak bytes of training, evaluation and generation, term by term, and the share of"
        " a GPU that a trial is placed with. Nothing is run."
    )
    parser.epilog = (
        "example: python -m tune_jobs estimate --model kobart --batch-size 8 --encoder-max-len 512"
        " --decoder-max-len 128 --precision bf16 --gpu 'rtx 3090'"
    )
    add_run_flags(parser)
    card = parser.add_mutually_exclusive_group()
    card.add_argument("--gpu", metavar="NAME", help="a GPU model, for example 'NVIDIA L4' or 3090")
    card.add_argument("--gpu-memory", metavar="SIZE", help=f"any card of this size; {UNNAMED_CARD} if absent")
    parser.add_argument(
        "--budget", metavar="SIZE", help="also plan how the batch runs within this size, for example 8GiB"
    )
    parser.add_argument("--allocator", choices=ALLOCATORS, default="expandable", help="of torch; trials: expandable")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="data-parallel processes, a card each")
    parser.add_argument(
        "--train-file", metavar="FILE", help="replay batches of these dialogues, not the longest one alone",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", default=CALIBRATION_FILE,
        help="ledger of measured peaks, for the margin (default: %(default)s)",
    )  # fmt: skip
    cli.add_format(parser)
    parser.set_defaults(run=run)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that describe a run; `run_config` reads them. Defaults are those of a run configuration."""
    parser.add_argument("--model", required=True, help=FIELD_DESCRIPTIONS["model"])
    for name in _NUMBERS:
        parser.add_argument(_flag(name), type=int, metavar="N", help=FIELD_DESCRIPTIONS[name])
    for name in _FRACTIONS:
        parser.add_argument(_flag(name), type=float, metavar="P", help=FIELD_DESCRIPTIONS[name])
    for name, literal in _CHOICES.items():
        parser.add_argument(_flag(name), choices=typing.get_args(literal), help=FIELD_DESCRIPTIONS[name])
    for name in _LISTS:
        parser.add_argument(_flag(name), nargs="+", metavar="NAME", help=FIELD_DESCRIPTIONS[name])
    for name in _SWITCHES:
        parser.add_argument(_flag(name), action="store_true", help=FIELD_DESCRIPTIONS[name])
    head = parser.add_mutually_exclusive_group()
    for kind, value in (("untied", True), ("tied", False)):
        text = f"the output head is {kind}, regardless of configuration and weights"
        head.add_argument(f"--{kind}-head", dest="untied", action="store_const", const=value, default=None, help=text)


def run_config(chosen: argparse.Namespace) -> RunConfig:
    """Returns the run that the flags describe.

    Raises:
        RequestError: With every invalid value.
    """
    names = ("model", *_NUMBERS, *_FRACTIONS, *_CHOICES, *_LISTS, *_SWITCHES)
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    if given.get("adapter_target_modules") == ["auto"]:
        given["adapter_target_modules"] = "auto"
    if any(name.startswith("adapter_") for name in given):
        given.setdefault("adapter_type", "lora")
    return RunConfig.from_dict(given, where="the run")


def run(chosen: argparse.Namespace) -> int:
    """Estimates and prints.

    Raises:
        RequestError: With everything that is wrong with the request.
    """
    found = estimated(chosen)
    cli.answer(chosen.format, as_json(*found), as_text(*found))
    return 0


Estimated = tuple[MemoryRequest, MemoryEstimate, Plan | NoPlan | None, StepSeconds | None]


def estimated(chosen: argparse.Namespace) -> Estimated:
    """Returns the request that the flags describe, its estimate, what would need less, and seconds; see run."""
    request, budget_bytes = _request(chosen)
    calibration = load_calibration(chosen.calibration)
    if calibration.unreadable:
        cli.note(f"{calibration.source}: {calibration.unreadable} unreadable lines were skipped")
    estimator = Estimator(template_finder(cli.note), calibration)
    placed = with_evaluation_batches(estimator, request, open_batches(run_config(chosen)))
    found = estimator.estimate(placed)
    if budget_bytes is None and not found.fits:
        budget_bytes = request.gpu.usable_bytes
    alternative = _plan(estimator, calibration, request, budget_bytes) if budget_bytes is not None else None
    return placed, found, alternative, estimator.seconds(placed)


def _plan(estimator: Estimator, calibration: Calibration, request: MemoryRequest, budget_bytes: int) -> Plan | NoPlan:
    at_hand = Estimator(template_finder(cli.note, only_at_hand=True), calibration)
    return plan_request(estimator, request, budget_bytes, confirm=True, remedies_from=at_hand.upper_bytes)


def _request(chosen: argparse.Namespace) -> tuple[MemoryRequest, int | None]:
    """Reads the flags; reports all problems at once."""
    problems = Problems()
    gpu = _kept(problems, lambda: card_of(chosen))
    config = _kept(problems, lambda: run_config(chosen), whole=False)
    facts = _kept(problems, lambda: _facts(chosen, config))
    budget_bytes = _kept(problems, lambda: _size(chosen.budget)) if chosen.budget else None
    problems.raise_if_any("estimate")
    assert gpu is not None
    assert config is not None
    assert facts is not None
    request = request_of(config, gpu, model=facts, allocator=chosen.allocator, ranks=chosen.ranks)
    if chosen.train_file is not None:
        lengths = lengths_of(config.with_changes({"train_file": chosen.train_file}))
        request = dataclasses.replace(request, lengths=lengths)
    return request, budget_bytes


def card_of(chosen: argparse.Namespace) -> GpuProfile:
    """Returns the card that the flags name, with the measured profile of its GPU model if there is one.

    Raises:
        RequestError: When the GPU model is unknown or the size is invalid.
    """
    if chosen.gpu is None:
        return gpu_of_size(chosen.gpu_memory or UNNAMED_CARD)
    return with_measured(find_gpu(chosen.gpu), PROFILES_FILE, torch_version=version("torch"))


def _facts(chosen: argparse.Namespace, config: RunConfig | None) -> ModelFacts:
    return facts_of(config or RunConfig(model=chosen.model or "?"), untied=chosen.untied)


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise RequestError(f"--budget: {error}") from None


def _kept(problems: Problems, read: Callable[[], T], *, whole: bool = True) -> T | None:
    """Calls a reader and records its error: as one problem if `whole`, else as the problems that the error lists."""
    try:
        return read()
    except RequestError as error:
        if whole:
            problems.add("; ".join((error.message, *error.problems)))
        else:
            problems.extend(error.problems)
        return None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
