"""Measures what each technique of training gives on this machine's CPU, beside estimates; writes techniques.md.

`python -m benchmarks.techniques` trains three small models on the first dialogues of DialogSum, once as the product
does by default and once with each technique changed, in turns in one process, with one thread. Estimates are those of
the product: bytes of the largest micro-batch, and seconds of every micro-batch by the roofline of this core. Results
are kept in outputs/benchmarks/techniques.jsonl: what is there is not run again, and `--page` writes the page from it
alone. Reads ../shared/data/dialogsum, which is not a part of this project. About twelve CPU minutes.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.pages import page_parser, table
from benchmarks.step_seconds import FIND, cpu_roofline
from benchmarks.training import FAMILIES
from benchmarks.training import run_of as training_run_of
from benchmarks.training_run import (
    DATA,
    ROOT,
    Measured,
    Purpose,
    System,
    TrainingRun,
    machine,
    read_results,
    start_missing,
)
from cluster.estimator.estimate import Estimator
from cluster.estimator.request import MemoryRequest
from cluster.estimator.roofline import Roofline
from cluster.estimator.step_seconds import predict_seconds
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.profile_run import card_here
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import json_object, write_json, write_text
from tuning_common.strict import from_mapping

RESULTS = ROOT / "outputs/benchmarks/techniques.jsonl"
ROOFLINE = RESULTS.with_name("techniques_roofline.json")
SEEDS = (0, 1)
STEPS = 8
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Technique:
    """What differs from the default.

    Attributes:
        system: See TrainingRun.
        changes: Values of the RunConfig.
        has_estimate: Whether the estimator knows it.
    """

    system: System = "dialsum"
    changes: Mapping[str, object] = field(default_factory=dict)
    has_estimate: bool = False


NOT_MEASURED = "*not measured*"
DEFAULT = "default"
COMPILED = "`torch_compile: true`, once compiled"
TECHNIQUES: Mapping[str, Technique] = {
    DEFAULT: Technique(has_estimate=True),
    "`precision: bf16`": Technique(changes={"precision": "bf16"}, has_estimate=True),
    "`gradient_accumulation_steps: 4`": Technique(changes={"gradient_accumulation_steps": 4}, has_estimate=True),
    "`gradient_checkpointing: true`": Technique(changes={"gradient_checkpointing": True}, has_estimate=True),
    "`dataloader_workers: 2`": Technique(changes={"dataloader_workers": 2}),
    COMPILED: Technique(changes={"torch_compile": True}),
    "without grouped lengths": Technique(system="ungrouped", has_estimate=True),
    "without chunked loss": Technique(system="own_loss"),
    "`optimizer: adamw` (foreach)": Technique(changes={"optimizer": "adamw"}, has_estimate=True),
    "AdamW as a loop": Technique(system="looped", changes={"optimizer": "adamw"}),
}
OPTIMIZERS = {"fused": DEFAULT, "foreach": "`optimizer: adamw` (foreach)", "loop": "AdamW as a loop"}
INTERPRETED = tuple(name for name in TECHNIQUES if name != COMPILED)


def run_of(family: str, name: str, seed: int, *, purpose: Purpose = "time") -> TrainingRun:
    """Returns a run: one pass over the first dialogues, of the size that benchmarks/training.py has."""
    technique = TECHNIQUES[name]
    config = dict(training_run_of(family, "`dialsum`", seed).config) | {
        "batch_size": BATCH, "max_train_samples": STEPS * BATCH, "max_steps": STEPS, "max_eval_samples": BATCH,
    }  # fmt: skip
    return TrainingRun(system=technique.system, config=config | dict(technique.changes), purpose=purpose)


def groups() -> list[list[TrainingRun]]:
    """Lists what is run, a family in one process, each seed in another order; compiled ones after those of all others.

    The first compiled run finds no code that an earlier one compiled, the second what the first one left on the disk.
    """
    found: list[list[TrainingRun]] = []
    for seed, family in itertools.product(SEEDS, FAMILIES):
        order = INTERPRETED if seed % 2 == 0 else INTERPRETED[::-1]
        found.append([run_of(family, name, seed) for name in order])
    found += [[run_of(family, name, 0, purpose="memory") for name in INTERPRETED] for family in FAMILIES]
    return found + [[run_of(family, COMPILED, seed) for seed in SEEDS] for family in FAMILIES]


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--page", action="store_true", help="write the page from the results so far")
    chosen = parser.parse_args()
    if not (ROOT / DATA).exists():
        raise RequestError(f"needs DialogSum in {ROOT / DATA}; see --help")
    if not ROOFLINE.exists():
        write_json(ROOFLINE, asdict(cpu_roofline()))
    roofline = from_mapping(Roofline, json_object(ROOFLINE.read_bytes()), where=str(ROOFLINE))
    found = read_results(RESULTS) if chosen.page else start_missing(groups(), RESULTS)
    write_text(chosen.output, page(found, roofline))
    note(f"written to {chosen.output}")


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What torch.compile does to a model; CPU seconds.

    Attributes:
        ratio: Seconds of an interpreted step / seconds of a compiled one, the median over the second half of the steps.
        step_s: Of an interpreted step there, the mean.
        extra_s: What all steps together took longer than at that ratio.
    """

    ratio: float
    step_s: float
    extra_s: float

    @property
    def break_even(self) -> float | None:
        """Steps after which the extra seconds are saved; None where a compiled step saves none.

        >>> Compiled(ratio=1.25, step_s=0.5, extra_s=20.0).break_even
        200.0
        """
        saved_s = self.step_s * (1 - 1 / self.ratio)
        return self.extra_s / saved_s if saved_s > 0 else None


def compiled(interpreted_s: Sequence[float], compiled_s: Sequence[float]) -> Compiled:
    """Compares the steps of a compiled run with those of an interpreted run over the same batches.

    Args:
        interpreted_s: Seconds of each step.
        compiled_s: The same with torch.compile, which compiles in the first steps and at some shapes later.

    >>> compiled([2, 2, 2, 2, 2, 2], [30, 3, 1, 1, 5, 1])
    Compiled(ratio=2.0, step_s=2.0, extra_s=35.0)
    """
    half = len(interpreted_s) // 2
    ratio = statistics.median(a / b for a, b in zip(interpreted_s[half:], compiled_s[half:], strict=True))
    extra_s = sum(compiled_s) - sum(interpreted_s) / ratio
    return Compiled(ratio=ratio, step_s=statistics.fmean(interpreted_s[half:]), extra_s=extra_s)


def estimated_bytes(run: TrainingRun, measured: Measured) -> float:
    """Returns the estimated bytes of a run's largest micro-batch."""
    estimator = Estimator(FIND)
    return max(estimator.tensor_bytes(request, "train") for request in _requests(run, measured))


def estimated_s(run: TrainingRun, measured: Measured, roofline: Roofline) -> float:
    """Returns the estimated seconds of a run, the sum over its micro-batches of their part of a step."""
    total_s = 0.0
    for request in _requests(run, measured):
        predicted = predict_seconds(FIND(request), request, roofline)
        assert predicted is not None
        total_s += predicted.step.total_s / request.gradient_accumulation_steps
    return total_s


def _requests(run: TrainingRun, measured: Measured) -> list[MemoryRequest]:
    config = RunConfig.from_dict(run.config, where="benchmark")
    pieces = config.gradient_accumulation_steps
    return [
        request_of(
            config.with_changes(
                {"batch_size": rows * pieces, "encoder_max_len": source, "decoder_max_len": max(target, 2)}
            ),
            card_here(None),
        )
        for rows, source, target in measured.batches
    ]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page is made of.

    Attributes:
        found: Results by key.
        roofline: Of this core.
    """

    found: Mapping[str, Measured]
    roofline: Roofline

    def pairs(self, family: str, name: str, purpose: Purpose = "time") -> list[tuple[Measured, Measured]]:
        """Returns default and technique at each seed for which both were measured."""
        keys = [[run_of(family, one, seed, purpose=purpose).key for one in (DEFAULT, name)] for seed in SEEDS]
        return [(self.found[a], self.found[b]) for a, b in keys if a in self.found and b in self.found]

    def speeds(self, family: str, name: str) -> list[float]:
        """Returns the ratio of samples per CPU second at each seed."""
        pairs = self.pairs(family, name)
        if name == COMPILED:
            return [compiled(default.step_cpu_s, other.step_cpu_s).ratio for default, other in pairs]
        return [default.train_cpu_s / other.train_cpu_s for default, other in pairs]

    def speed_cell(self, family: str, name: str) -> str:
        """Returns measured speed and estimated speed of a technique."""
        return self._cell(
            self.speeds(family, name), family, name, lambda run, measured: 1 / estimated_s(run, measured, self.roofline)
        )

    def memory_cell(self, family: str, name: str) -> str:
        """Returns measured peak and estimated peak of a technique."""
        if name == COMPILED:  # resident memory holds the compiler too
            return NOT_MEASURED
        pairs = self.pairs(family, name, "memory")
        ratios = [other.peak_bytes / default.peak_bytes for default, other in pairs]
        return self._cell(ratios, family, name, estimated_bytes)

    def _cell(
        self, ratios: Sequence[float], family: str, name: str, estimate: Callable[[TrainingRun, Measured], float]
    ) -> str:
        if not ratios:
            return "missing"
        measured = f"{statistics.fmean(ratios):.2f}"
        if not TECHNIQUES[name].has_estimate:
            return measured
        runs = [run_of(family, one, SEEDS[0]) for one in (DEFAULT, name)]
        base, other = (estimate(run, self.found[run.key]) for run in runs)
        return f"{measured} ({other / base:.2f})"


def page(found: Mapping[str, Measured], roofline: Roofline) -> str:
    """Returns the page."""
    made = Page(found=found, roofline=roofline)
    keys = [run.key for group in groups() for run in group]
    missing = sum(key not in found for key in keys)
    gaps = f" **{missing} of {len(keys)} runs are missing.**" if missing else ""
    rows = [
        [
            name,
            *(cell(family, name) for cell in (made.speed_cell, made.memory_cell) for family in FAMILIES),
            NOT_MEASURED,
        ]
        for name in TECHNIQUES
        if name != DEFAULT
    ]
    head = ["technique", *(f"{what} {_short(family)}" for what in ("speed", "peak") for family in FAMILIES), "GPU"]
    return f"""# Techniques of training: what each gives

Made by `python -m benchmarks.techniques` on {machine()}.{gaps}

Each run trains the same {STEPS * BATCH} dialogues of DialogSum in {STEPS} steps of {BATCH}, with models of 2 layers
(of encoder and decoder each), width 128 and a vocabulary of up to 8,000. The default is fp32, one micro-batch, no
checkpointing, no workers, grouped lengths, chunked loss and fused AdamW. *speed*: samples per CPU second, workers
included, as a part of the default's. *peak*: peak memory of training, as a part of the default's. Above 1: quicker, or
more memory. In brackets: estimated, by the roofline of this core, without the factor that earlier runs would give (see
[step_seconds.md](step_seconds.md)), and by the bytes of the largest micro-batch, both traced with CUDA's kernels.
Without brackets the estimator does not know it.{_spread(made)}

{table(head, rows)}

## AdamW

CPU milliseconds of an optimizer step, the first one left out, the median over seeds; in brackets its part of a step.

{table(["model", *OPTIMIZERS], [[_short(family), *_optimizer_cells(made, family)] for family in FAMILIES])}

## When torch.compile pays back

*extra*: CPU seconds that compilation adds to a trial. *first trial*: nothing was compiled before; *later*: the code of
an earlier trial of the same model lies in torch's cache on the disk. *pays back after*: steps whose saving makes up for
the extra seconds.

{table(_COMPILE_HEAD, [_compile_row(made, family) for family in FAMILIES])}
"""


_COMPILE_HEAD = [
    "model",
    "speed once compiled",
    "extra, first trial",
    "pays back after",
    "extra, later",
    "pays back after",
]


def _spread(made: Page) -> str:
    ratios = [made.speeds(family, name) for family in FAMILIES for name in INTERPRETED[1:]]
    apart = [abs(a / b - 1) for a, b in (one for one in ratios if len(one) == 2)]
    if not apart:
        return ""
    return (
        f" Where {len(SEEDS)} seeds were run, the speed is their mean, and their\nratios differ by"
        f" {statistics.median(apart):.0%} in the median and by {max(apart):.0%} at most."
    )


def _optimizer_cells(made: Page, family: str) -> list[str]:
    cells = []
    for name in OPTIMIZERS.values():
        runs = [other for _, other in made.pairs(family, name)]
        if not runs:
            cells.append("missing")
            continue
        steps = STEPS - 1
        step_ms = statistics.median(run.optimizer_cpu_s / steps for run in runs) * 1000
        part = statistics.median(run.optimizer_cpu_s / sum(run.step_cpu_s[1:]) for run in runs)
        cells.append(f"{step_ms:.1f} ({part:.0%})")
    return cells


def _compile_row(made: Page, family: str) -> list[str]:
    pairs = made.pairs(family, COMPILED)
    if len(pairs) < len(SEEDS):
        return [_short(family), *["missing"] * (len(_COMPILE_HEAD) - 1)]
    first, later = (compiled(default.step_cpu_s, other.step_cpu_s) for default, other in pairs)
    cells = [f"{statistics.fmean((first.ratio, later.ratio)):.2f}"]
    for one in (first, later):
        steps = one.break_even
        cells += [f"{one.extra_s:.0f} s", "never" if steps is None else f"{steps:,.0f} steps"]
    return [_short(family), *cells]


def _short(family: str) -> str:
    return {"tiny-bart": "BART", "tiny-gpt2": "GPT-2", "tiny-t5": "T5"}[family]


if __name__ == "__main__":
    main()
