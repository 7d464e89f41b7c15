"""Compares predicted seconds of training steps with measured ones, on this machine's CPU; writes step_seconds.md.

`python -m benchmarks.step_seconds` times 96 shapes of small BART, GPT-2 and T5 models (batch, lengths, fp32 and bf16,
gradient checkpointing) on one core, in CPU seconds, the best of three. The CPU is one more device with a roofline:
matrix products and memory traffic are timed by themselves, the time of an operation in steps of models so small that
nothing else counts. Three shapes of each family and precision give the factor that corrects its predictions (their
median), as earlier runs do in a sweep; the other 78 are predicted. Some five minutes of one quiet core.
"""

import itertools
import logging
import math
import os
import platform
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.pages import page_parser, table
from cluster.estimator.roofline import Roofline
from cluster.estimator.step_seconds import predict_seconds
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.memory_templates import template_finder
from tune_jobs.placing.profile_run import card_here, measure_run
from tuning_common.cli import note
from tuning_common.files import write_text
from tuning_common.units import format_duration

FAMILIES = ("tiny-bart", "tiny-gpt2", "tiny-t5")
PRECISIONS = ("fp32", "bf16")
MODELS = ((128, 2, 4000), (256, 3, 8000))  # width, layers, vocabulary
SHAPES = ((2, 64, 32), (1, 96, 32), (4, 128, 48), (6, 64, 24), (8, 192, 64), (3, 256, 96))  # batch, lengths
CHECKPOINTED = ((4, 128, 48), (8, 192, 64))
KNOWN = ((128, 2), (256, 4), (256, 8))  # width and batch of those that give the factor, without checkpointing
TRAINING = ("forward", "backward", "optimizer")
TIMES = 3
FIND = template_finder(lambda text: None)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One shape.

    Attributes:
        config: The run.
        measured_s: CPU seconds of a step.
        raw_s: Predicted by the roofline alone.
        factor: Of its family in its precision.
        gave_factor: Whether it did.
    """

    config: RunConfig
    measured_s: float
    raw_s: float
    factor: float
    gave_factor: bool

    @property
    def error(self) -> float:
        """Relative error of the corrected prediction."""
        return self.raw_s * self.factor / self.measured_s - 1


def main() -> None:
    """Measures, predicts and writes the table."""
    parser = page_parser(__file__, __doc__)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    loads = [os.getloadavg()[0]]
    roofline = cpu_roofline()
    found = compared(list(shapes()), roofline)
    loads.append(os.getloadavg()[0])
    write_text(chosen.output, "\n".join(report(found, roofline, loads)))
    note(f"written to {chosen.output}")


def shapes() -> Iterator[RunConfig]:
    """Lists what is measured."""
    for family, (width, layers, vocabulary), precision, checkpointing in itertools.product(
        FAMILIES, MODELS, PRECISIONS, (False, True)
    ):
        for batch, encoder_len, decoder_len in CHECKPOINTED if checkpointing else SHAPES:
            yield shape(
                family,
                tiny_hidden_size=width,
                tiny_layers=layers,
                tiny_vocab_size=vocabulary,
                precision=precision,
                gradient_checkpointing=checkpointing,
                batch_size=batch,
                encoder_max_len=encoder_len,
                decoder_max_len=decoder_len,
            )


def shape(family: str, **values: object) -> RunConfig:
    """Returns the run of a shape."""
    return RunConfig.from_dict(
        {"model": family, "generation_batch_size": 2, "generation_max_len": 4, **values}, where="benchmark"
    )


def cpu_roofline() -> Roofline:
    """Times one core at matrix products, at memory traffic and at operations of real steps."""
    import torch

    torch.set_num_threads(1)
    single = torch.randn(512, 512)
    half = single.bfloat16()
    large = torch.randn(4 * 2**20)
    flops = 2 * 512**3
    return Roofline(
        half_flops_s=flops / _best_s(lambda: half @ half),
        single_flops_s=flops / _best_s(lambda: single @ single),
        bytes_s=2 * large.numel() * 4 / _best_s(lambda: torch.nn.functional.gelu(large)),
        launch_s=statistics.mean(operation_s(family) for family in FAMILIES),
        host_s=0.0,  # the CPU is device and host: nothing runs beside
        source="timed alone, one core",
    )


def operation_s(family: str) -> float:
    """Times an operation within a step, modules and autograd included, of a model that computes next to nothing."""
    config = shape(
        family,
        tiny_hidden_size=16,
        tiny_layers=3,
        tiny_vocab_size=300,
        precision="fp32",
        batch_size=1,
        encoder_max_len=8,
        decoder_max_len=8,
    )
    launches = Roofline(
        half_flops_s=math.inf, single_flops_s=math.inf, bytes_s=math.inf, launch_s=1.0, host_s=0.0, source="counts"
    )
    measured_s, count = min(step_s(config) for _ in range(2 * TIMES)), predicted_s(config, launches)
    return measured_s / count


def _best_s(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(5):
        begin_s = time.process_time()
        work()
        found.append(time.process_time() - begin_s)
    return min(found)


def step_s(config: RunConfig) -> float:
    """Measures the CPU seconds of a training step."""
    phases = measure_run(config, request_of(config, card_here(None)), clock=time.process_time).phases
    return sum(phase.seconds for phase in phases if phase.name in TRAINING)


def predicted_s(config: RunConfig, roofline: Roofline) -> float:
    """Predicts the seconds of a training step by a roofline alone."""
    request = request_of(config, card_here(None))
    predicted = predict_seconds(FIND(request), request, roofline)
    assert predicted is not None
    return predicted.step.total_s


def compared(configs: Sequence[RunConfig], roofline: Roofline) -> list[Compared]:
    """Measures and predicts every shape."""
    measured: list[tuple[RunConfig, float, float]] = []
    begin_s = time.perf_counter()
    for done, config in enumerate(configs, start=1):
        measured.append((config, min(step_s(config) for _ in range(TIMES)), predicted_s(config, roofline)))
        left_s = (time.perf_counter() - begin_s) / done * (len(configs) - done)
        note(f"{done} of {len(configs)}: {config.model}; about {format_duration(left_s)} left")
    ratios: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for config, seconds, raw_s in measured:
        if _gives_factor(config):
            ratios[config.model, str(config.precision)].append(seconds / raw_s)
    return [
        Compared(
            config=config,
            measured_s=seconds,
            raw_s=raw_s,
            factor=statistics.median(ratios[config.model, str(config.precision)]),
            gave_factor=_gives_factor(config),
        )
        for config, seconds, raw_s in measured
    ]


def _gives_factor(config: RunConfig) -> bool:
    return (config.tiny_hidden_size, config.batch_size) in KNOWN and not config.gradient_checkpointing


def report(found: Sequence[Compared], roofline: Roofline, loads: Sequence[float]) -> list[str]:
    """Writes the tables.

    Args:
        found: The shapes.
        roofline: Of the core.
        loads: Load averages of the machine before and after.
    """
    head = ["family", "precision", "shapes", "factor", "median error", "largest error", "rank correlation"]
    groups = [
        (family, precision, [one for one in found if (one.config.model, one.config.precision) == (family, precision)])
        for family in FAMILIES
        for precision in PRECISIONS
    ]
    rows = [[family, precision, *_summary(group)] for family, precision, group in groups]
    rows.append(["all", "", *_summary(found)])
    detail = [
        [
            one.config.model,
            f"{one.config.tiny_hidden_size} x {one.config.tiny_layers}",
            str(one.config.precision),
            "yes" if one.config.gradient_checkpointing else "",
            f"{one.config.batch_size} x {one.config.encoder_max_len} + {one.config.decoder_max_len}",
            f"{one.measured_s * 1000:.0f}",
            f"{one.raw_s * one.factor * 1000:.0f}",
            "gave the factor" if one.gave_factor else f"{one.error:+.0%}",
        ]
        for one in found
    ]
    return [
        "# Predicted and measured seconds of a step",
        "",
        f"Made by `python -m benchmarks.step_seconds` on {platform.machine()}, Python {platform.python_version()},",
        "on one core of a machine that other work shared (load averages "
        f"{' and '.join(f'{load:.1f}' for load in loads)}). **Seconds on GPUs are *not measured*.**",
        "",
        f"The core: {roofline.single_flops_s / 1e9:.0f} GFLOP/s in fp32, {roofline.half_flops_s / 1e9:.0f} in bf16,"
        f" {roofline.bytes_s / 1e9:.1f} GB/s, {roofline.launch_s * 1e6:.1f} us an operation.",
        "The traces are those of the GPU templates, so attention counts as CUDA's kernels compute it.",
        "",
        table(head, rows),
        "",
        "## Every shape",
        "",
        table(
            ["family", "width x layers", "precision", "checkpointing", "batch x lengths", "ms", "predicted", ""],
            detail,
        ),
        "",
    ]


def _summary(some: Sequence[Compared]) -> list[str]:
    from scipy.stats import spearmanr

    predicted = [one for one in some if not one.gave_factor]
    errors = [abs(one.error) for one in predicted]
    rank = spearmanr([one.raw_s * one.factor for one in predicted], [one.measured_s for one in predicted])[0]
    factors = {f"{one.factor:.2f}" for one in some}
    return [
        str(len(predicted)),
        ", ".join(sorted(factors)),
        f"{statistics.median(errors):.1%}",
        f"{max(errors):.0%}",
        f"{rank:.3f}",
    ]


if __name__ == "__main__":
    main()
