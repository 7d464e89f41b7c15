"""Compares predicted seconds of training steps with measured ones, on this machine's CPU; writes step_seconds.md.

`python -m benchmarks.step_seconds` times 72 shapes of small BART, GPT-2 and T5 models (batch, lengths, fp32 and bf16,
gradient checkpointing) on one core, in CPU seconds, the best of three. The CPU is one more device with a roofline:
matrix products, memory traffic and small operations are timed by themselves. One shape of each family and precision
gives the factor that corrects its predictions, as earlier runs do in a sweep; the other 66 are predicted. About three
minutes.
"""

import argparse
import itertools
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
SHAPES = ((2, 64, 32), (4, 128, 48), (8, 192, 64), (3, 256, 96))  # batch, lengths
CHECKPOINTED = SHAPES[1:3]
KNOWN = {"tiny_hidden_size": 256, "batch_size": 4, "gradient_checkpointing": False}
TRAINING = ("forward", "backward", "optimizer")
TIMES = 3


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"), metavar="FILE")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    roofline = cpu_roofline()
    found = compared(list(shapes()), roofline)
    write_text(chosen.output, report(found, roofline))
    note(f"written to {chosen.output}")


def shapes() -> Iterator[RunConfig]:
    """Lists what is measured."""
    for family, (width, layers, vocabulary), precision, checkpointing in itertools.product(
        FAMILIES, MODELS, PRECISIONS, (False, True)
    ):
        for batch, encoder_len, decoder_len in CHECKPOINTED if checkpointing else SHAPES:
            yield RunConfig.from_dict(
                {
                    "model": family,
                    "tiny_hidden_size": width,
                    "tiny_layers": layers,
                    "tiny_vocab_size": vocabulary,
                    "precision": precision,
                    "gradient_checkpointing": checkpointing,
                    "batch_size": batch,
                    "encoder_max_len": encoder_len,
                    "decoder_max_len": decoder_len,
                    "generation_batch_size": 2,
                    "generation_max_len": 4,
                },
                where="benchmark",
            )


def cpu_roofline() -> Roofline:
    """Times one core at matrix products, at memory traffic and at small operations."""
    import torch

    torch.set_num_threads(1)
    single = torch.randn(512, 512)
    half = single.bfloat16()
    large, small = torch.randn(4 * 2**20), torch.randn(4)

    def many() -> None:
        for _ in range(1000):
            small.add(1.0)

    flops = 2 * 512**3
    return Roofline(
        half_flops_s=flops / _best_s(lambda: half @ half),
        single_flops_s=flops / _best_s(lambda: single @ single),
        bytes_s=2 * large.numel() * 4 / _best_s(lambda: torch.nn.functional.gelu(large)),
        launch_s=_best_s(many) / 1000,
        host_s=0.0,  # the CPU is device and host: nothing runs beside
        source="timed alone, one core",
    )


def _best_s(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(5):
        begin_s = time.process_time()
        work()
        found.append(time.process_time() - begin_s)
    return min(found)


def compared(configs: Sequence[RunConfig], roofline: Roofline) -> list[Compared]:
    """Measures and predicts every shape."""
    card, find = card_here(None), template_finder(lambda text: None)
    measured: list[tuple[RunConfig, float, float]] = []
    begin_s = time.perf_counter()
    for done, config in enumerate(configs, start=1):
        request = request_of(config, card)
        steps = []
        for _ in range(TIMES):
            phases = measure_run(config, request, clock=time.process_time).phases
            steps.append(sum(phase.seconds for phase in phases if phase.name in TRAINING))
        predicted = predict_seconds(find(request), request, roofline)
        assert predicted is not None
        measured.append((config, min(steps), predicted.step.total_s))
        left_s = (time.perf_counter() - begin_s) / done * (len(configs) - done)
        note(f"{done} of {len(configs)}: {config.model}; about {format_duration(left_s)} left")
    factors = {
        (config.model, config.precision): step_s / raw_s for config, step_s, raw_s in measured if _gives_factor(config)
    }
    return [
        Compared(
            config=config,
            measured_s=step_s,
            raw_s=raw_s,
            factor=factors[config.model, config.precision],
            gave_factor=_gives_factor(config),
        )
        for config, step_s, raw_s in measured
    ]


def _gives_factor(config: RunConfig) -> bool:
    return all(getattr(config, name) == value for name, value in KNOWN.items())


def report(found: Sequence[Compared], roofline: Roofline) -> str:
    """Writes the tables."""
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
    return "\n".join(
        [
            "# Predicted and measured seconds of a step",
            "",
            f"Made by `python -m benchmarks.step_seconds` on {platform.machine()}, Python {platform.python_version()},",
            "on one core of a machine that other work shared. **Seconds on GPUs are *not measured*.**",
            "",
            f"The core: {roofline.single_flops_s / 1e9:.0f} GFLOP/s in fp32, {roofline.half_flops_s / 1e9:.0f} in bf16,"
            f" {roofline.bytes_s / 1e9:.1f} GB/s, {roofline.launch_s * 1e6:.1f} us an operation.",
            "The traces are those of the GPU templates, so attention counts as CUDA's kernels compute it.",
            "",
            *_table(head, rows),
            "",
            "## Every shape",
            "",
            *_table(
                ["family", "width x layers", "precision", "checkpointing", "batch x lengths", "ms", "predicted", ""],
                detail,
            ),
            "",
        ]
    )


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    main()
