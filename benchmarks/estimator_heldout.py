"""Compares templates with traces at held-out shapes; writes estimator_heldout.md in its own folder.

`python -m benchmarks.estimator_heldout [--cases N]` traces each case in full (two optimizer steps, an evaluation and a
generation in order), and compares it with its template and three common rules of thumb. About twenty minutes on
two cores; `--cases 12 --output FILE` for a quick run.
"""

import json
import logging
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.pages import page_parser, table
from cluster.estimator.cuda_imitation import KernelFamily
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import ROUTINES, Routine, Template
from cluster.estimator.template_requests import key_of, settings_of, sizes_of
from cluster.estimator.template_store import find_template
from cluster.estimator.trace import TracedPeaks, traced_peaks
from cluster.estimator.workload import Recipe, Shape
from dialsum.models import SPECS
from tune_jobs.placing.memory_requests import values_of
from tune_jobs.placing.memory_templates import FACTORY
from tuning_common.files import write_text
from tuning_common.units import format_duration

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
GPUS: dict[KernelFamily, str] = {"cudnn": "H100 80GB HBM3", "flash": "RTX 3090"}
MODELS = ("kobart", "kogpt2", "t5-small", "t5-base", "mt5", "mt5-base")
OPTIONS: tuple[dict[str, object], ...] = (
    {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "fp16"}, {"precision": "bf16", "label_smoothing": 0.1},
    {"precision": "bf16", "gradient_checkpointing": True}, {"precision": "fp32", "gradient_checkpointing": True},
    {"precision": "bf16", "gradient_accumulation_steps": 2}, {"precision": "bf16", "attention": "eager"},
    {"precision": "bf16", "dropout": 0.0}, {"precision": "fp32", "optimizer": "adamw"},
    {"precision": "bf16", "optimizer": "adafactor"}, {"precision": "bf16", "optimizer": "adamw_8bit"},
    {"precision": "bf16", "optimizer": "sgd"}, {"precision": "fp32", "label_smoothing": 0.1},
    {"precision": "bf16", "no_repeat_ngram_size": 3},
)  # fmt: skip
UNTIED = ("mt5", "mt5-base")
TRACED_PASSES = 12  # of a generation; more of them change nothing but the length of the trace
# "A sample takes so many GB at length 512, and 80 % of the card may be used": a rule of thumb of teams without a model.
GB_A_SAMPLE = {"bart": 0.5, "gpt2": 0.7, "t5": 0.6, "mt5": 0.8}
RULE_PART = 0.8
STATE_BYTES = {"adamw_fused": 16, "adamw": 16, "adafactor": 8, "adamw_8bit": 10, "sgd": 8}  # weight, gradient, states
MEMTRACKER_CASES = (("kobart", "fp32"), ("kobart", "bf16"), ("kogpt2", "fp32"), ("t5-small", "fp32"), ("mt5", "fp32"))
MEMTRACKER_SHAPE = Shape(batch=8, encoder_len=512, decoder_len=128)
MEMTRACKER_LIMIT_S = 240.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job at one shape."""

    model: str
    untied: bool
    options: dict[str, object]
    family: KernelFamily
    shape: Shape

    @property
    def request(self) -> MemoryRequest:
        """Returns the request of the job."""
        facts = model_facts(self.model, values_of(SPECS[self.model]), untied=self.untied)
        pieces = int(str(self.options.get("gradient_accumulation_steps", 1)))
        asked = {"batch_size": self.shape.batch * pieces, **self.options}
        return MemoryRequest(model=facts, gpu=find_gpu(GPUS[self.family]), **asked)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """For a table."""
        words = [f"{name}={value}" for name, value in self.options.items() if name != "precision"]
        head = " untied" if self.untied else ""
        return " ".join([f"{self.model}{head}", str(self.options["precision"]), self.family, *words])

    @property
    def sizes(self) -> str:
        """For a table."""
        shape = self.shape
        return f"{shape.batch} x {shape.encoder_len} + {shape.decoder_len}, {shape.beams} beams"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A case, traced and estimated; bytes."""

    case: Case
    traced: TracedPeaks
    estimated: TracedPeaks
    parameters: int

    def error(self, routine: Routine) -> float:
        """Estimate over trace, minus 1."""
        traced: int = getattr(self.traced, routine)
        estimated: int = getattr(self.estimated, routine)
        return estimated / traced - 1


def drawn_cases(count: int, seed: int = 0) -> list[Case]:
    """Draws cases: every model with every option in turn, at odd and even shapes."""
    draw = random.Random(seed)
    cases = []
    for index in range(count):
        model = MODELS[index % len(MODELS)]
        options = OPTIONS[(index // len(MODELS) + index) % len(OPTIONS)]
        causal = SPECS[model].kind == "causal"
        encoder_len = draw.randrange(17, 900 if causal else 1025)
        decoder_len = (
            draw.randrange(17, 1025 - encoder_len if causal else 1025) if index % 3 else draw.randrange(17, 124)
        )
        shape = Shape(batch=draw.choice((1, 2, 3, 5, 8, 13, 16, 27, 32, 64)), encoder_len=encoder_len,
                      decoder_len=decoder_len, beams=draw.choice((1, 2, 4, 5)))  # fmt: skip
        untied = model in UNTIED and draw.random() < 0.5
        cases.append(Case(model=model, untied=untied, options=options, family=draw.choice(tuple(GPUS)), shape=shape))
    return cases


def compare(case: Case) -> Compared:
    """Traces and estimates one case."""
    request = case.request
    recipe = Recipe(factory=FACTORY, settings=settings_of(request))
    template = find_template(key_of(request), sizes_of(request), recipe)
    # What shares a template need not be traced alike: here it is traced as it is asked.
    asked = {"precision": request.precision, "no_repeat_ngram_size": request.no_repeat_ngram_size}
    settings = {**settings_of(request), **asked}
    generated = replace(case.shape, decoder_len=TRACED_PASSES)
    traced = traced_peaks(
        Recipe(factory=FACTORY, settings=settings).make(), case.shape, family=case.family,
        micro_steps=request.gradient_accumulation_steps, generated=generated,
    )  # fmt: skip
    return Compared(
        case=case, traced=traced, estimated=_estimated(template, case.shape), parameters=template.model_parameters
    )


def _estimated(template: Template, shape: Shape) -> TracedPeaks:
    size = (shape.batch, shape.encoder_len, shape.decoder_len)
    return TracedPeaks(
        train=template.allocated_bytes(*size),
        evaluate=template.allocated_bytes(*size, routine="evaluate"),
        generate=template.allocated_bytes(*size[:2], TRACED_PASSES, routine="generate", beams=shape.beams),
    )


def by_constant_table(compared: Compared) -> float:
    """Returns the error of a rule of thumb: GB per sample at length 512, proportional to the longer length."""
    shape = compared.case.shape
    longest = max(shape.encoder_len, shape.decoder_len)
    return _gigabytes_a_sample(compared.case.model) * 1e9 * shape.batch * longest / 512 / compared.traced.train - 1


def by_states_alone(compared: Compared) -> float:
    """Returns the error of "weights + gradients + optimizer", as in calculators without activations."""
    optimizer = str(compared.case.options.get("optimizer", "adamw_fused"))
    return STATE_BYTES[optimizer] * compared.parameters / compared.traced.train - 1


def _gigabytes_a_sample(model: str) -> float:
    return GB_A_SAMPLE[SPECS[model].architecture]


def compared_cases(cases: Sequence[Case]) -> Iterator[Compared]:
    """Yields the comparison of each case and prints the progress."""
    begin_s = time.monotonic()
    for done, case in enumerate(cases, 1):
        yield compare(case)
        left_s = (time.monotonic() - begin_s) / done * (len(cases) - done)
        print(
            f"{done} of {len(cases)}: {case.label}, about {format_duration(left_s)} left", file=sys.stderr, flush=True
        )


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """MemTracker's and the tracer's bytes; None where MemTracker failed."""

    model: str
    precision: str
    traced_bytes: int
    tracked_bytes: int | None
    wall_s: float


def memtracker_cases() -> Iterator[Tracked]:
    """Runs torch's MemTracker, each case in a process of its own that is ended after MEMTRACKER_LIMIT_S."""
    for model, precision in MEMTRACKER_CASES:
        case = Case(model=model, untied=False, options={"precision": precision}, family="cudnn", shape=MEMTRACKER_SHAPE)
        shape = MEMTRACKER_SHAPE
        asked = {"model": model, "batch": shape.batch, "encoder_len": shape.encoder_len,
                 "decoder_len": shape.decoder_len, "precision": precision}  # fmt: skip
        begin_s = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.memtracker_baseline", json.dumps(asked)], cwd=ROOT,
                capture_output=True, text=True, timeout=MEMTRACKER_LIMIT_S, check=True,
            )  # fmt: skip
            tracked = int(done.stdout.split()[-1])
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            tracked = None
        yield Tracked(
            model=model, precision=precision, traced_bytes=compare(case).traced.train, tracked_bytes=tracked,
            wall_s=time.monotonic() - begin_s,
        )  # fmt: skip
        print(f"MemTracker: {model} {precision}", file=sys.stderr, flush=True)


def summary(found: Sequence[Compared]) -> list[tuple[object, ...]]:
    """One row per routine: cases, how many are under, error in median and at most."""
    rows: list[tuple[object, ...]] = []
    for routine in ROUTINES:
        errors = [compared.error(routine) for compared in found]
        under = sum(error < 0 for error in errors)
        rows.append((routine, len(errors), under, _percent(statistics.median(errors)), _percent(max(errors))))
    return rows


def report(found: Sequence[Compared], tracked: Sequence[Tracked], command: str) -> str:
    """Writes the tables."""
    habits = [("constant table", by_constant_table), ("weights + gradients + optimizer", by_states_alone)]
    habit_rows = []
    for name, error_of in habits:
        errors = [error_of(compared) for compared in found]
        under = sum(error < 0 for error in errors)
        middle = statistics.median(map(abs, errors))
        habit_rows.append((name, len(errors), under, _percent(middle), _percent(min(errors)), _percent(max(errors))))
    own = [compared.error("train") for compared in found]
    middle = statistics.median(map(abs, own))
    habit_rows.append(("this estimator", len(own), sum(e < 0 for e in own), _percent(middle), _percent(min(own)),
                       _percent(max(own))))  # fmt: skip
    tracked_rows = [
        (
            f"{row.model} {row.precision}", _mib(row.traced_bytes),
            _mib(row.tracked_bytes) if row.tracked_bytes is not None else "no answer",
            _percent(row.tracked_bytes / row.traced_bytes - 1) if row.tracked_bytes is not None else "",
            f"{row.wall_s:.0f} s",
        )
        for row in tracked
    ]  # fmt: skip
    case_rows = [
        (
            compared.case.label, compared.case.sizes,
            *(
                cell
                for routine in ROUTINES
                for cell in (_mib(getattr(compared.traced, routine)), _percent(compared.error(routine)))
            ),
        )
        for compared in found
    ]  # fmt: skip
    return "\n".join([
        "# Templates against the tracer, at shapes that no template was made from",
        "",
        f"Made by `{command}` with torch {version('torch')} and transformers {version('transformers')}. Every case is",
        "traced in full, as its trainer runs it: two optimizer steps, the loss of a dev batch, a generation of"
        f" {TRACED_PASSES} tokens;",
        "the template, which was made from traces at two other shapes, answers the same question. Batch 1 to 64,",
        "lengths 17 to 1024, odd ones too. Bytes are those that torch holds for tensors, blocks rounded to 512 bytes.",
        "",
        "**Peaks on a GPU: not measured.** The table compares the estimator with its own tracer, not with CUDA; see"
        " [gpu_peaks.md](gpu_peaks.md).",
        "",
        table(("routine", "cases", "under", "over, median", "over, at most"), summary(found)),
        "",
        "## Habits of today, for training",
        "",
        "*Constant table*: so many GB a sample at length 512 (KoBART 0.5, KoGPT2 0.7, T5 0.6, mT5 0.8), in proportion",
        "to the longer length. *Weights + gradients + optimizer*: what calculators give that know no activations.",
        "",
        table(("way", "cases", "under", "error, median", "smallest", "largest"), habit_rows),
        "",
        f"*MemTracker* (`torch.distributed._tools`), batch {MEMTRACKER_SHAPE.batch}, lengths"
        f" {MEMTRACKER_SHAPE.encoder_len} + {MEMTRACKER_SHAPE.decoder_len}, tied head, ended after"
        f" {MEMTRACKER_LIMIT_S:.0f} s. Without CUDA it follows",
        "the CPU's kernels (dropout and attention that are not fused), so the difference is not its error on a GPU;",
        "there it needs one.",
        "",
        table(("case", "tracer, MiB", "MemTracker, MiB", "difference", "wall time"), tracked_rows),
        "",
        "## Every case",
        "",
        "MiB by the tracer, and the template's error.",
        "",
        table(("job", "batch x lengths", "train", "error", "evaluate", "error", "generate", "error"), case_rows),
        "",
    ])  # fmt: skip


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.1f}"


def _percent(part: float) -> str:
    return f"{part:+.3%}" if abs(part) < 0.1 else f"{part:+.0%}"


def main() -> None:
    """Compares the cases and writes the tables."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")  # of models that are never trained here
    logging.disable(logging.WARNING)
    found = list(compared_cases(drawn_cases(chosen.cases, chosen.seed)))
    tracked = list(memtracker_cases())
    command = f"python -m benchmarks.estimator_heldout --cases {chosen.cases} --seed {chosen.seed}"
    write_text(chosen.output, report(found, tracked, command))
    print(table(("routine", "cases", "under", "over, median", "over, at most"), summary(found)))


if __name__ == "__main__":
    main()
