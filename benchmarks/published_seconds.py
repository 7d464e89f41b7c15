"""Predicts the seconds of training steps that strangers measured on GPUs; writes published_seconds.md.

`python -m benchmarks.published_seconds` takes some two minutes of one core, no GPU. published_seconds.json has the
times that stand in the same tables as the peaks of external_peaks.json, row by row. Each program is traced as it ran
(external_programs.py), on meta tensors and with the installed transformers, and the roofline of its GPU turns the trace
into seconds. Nothing is fitted to these rows.
"""

import argparse
import json
import logging
import platform
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.external_programs import STEPS
from benchmarks.external_replay import PROGRAMS
from benchmarks.external_runs import Run, Source, read_sources
from cluster.estimator.cuda_imitation import kernel_family
from cluster.estimator.operation_fit import constant_operations
from cluster.estimator.operations import Seconds
from cluster.estimator.roofline import Roofline, roofline_of
from cluster.estimator.template_tape import ATOMS
from cluster.estimator.trace import program_operations
from tuning_common.cli import note
from tuning_common.files import write_text

FACTS = Path(__file__).with_suffix(".json")
PEAKS = Path(__file__).with_name("external_peaks.json")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row.

    Attributes:
        source: Its table.
        gpu: As in rooflines.json.
        run: What ran.
        measured_s: Published seconds of a step.
        predicted: By the roofline.
    """

    source: Source
    gpu: str
    run: Run
    measured_s: float
    predicted: Seconds

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted.total_s / self.measured_s - 1


def main() -> None:
    """Predicts every row and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FACTS.with_suffix(".md"), metavar="FILE")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    write_text(chosen.output, "\n".join(report(published())))
    note(f"written to {chosen.output}")


def published() -> list[Published]:
    """Predicts every row."""
    sources = {source.name: source for source in read_sources(PEAKS)}
    found = []
    for table in json.loads(FACTS.read_text(encoding="utf-8")):
        source, roofline = sources[table["table"]], roofline_of(table["gpu"])
        assert roofline is not None, table["gpu"]
        note(f"{source.name}: {len(source.runs)} rows")
        for run, number in zip(source.runs, table["published"], strict=True):
            samples = table["samples_of_a_step"]  # where samples in a second are published
            measured_s = samples / number if samples else number
            predicted = step_seconds(run, roofline)
            found.append(
                Published(source=source, gpu=table["gpu"], run=run, measured_s=measured_s, predicted=predicted)
            )
    return found


def step_seconds(run: Run, roofline: Roofline) -> Seconds:
    """Traces a program and returns the seconds of one of its steps."""
    traced = program_operations(PROGRAMS[run.program](run.row), family=kernel_family(run.sm), precision=run.precision)
    all_steps = constant_operations(traced).seconds(np.ones(len(ATOMS) + 1), roofline)
    return Seconds().plus(all_steps, 1 / STEPS)


def report(found: Sequence[Published]) -> list[str]:
    """Returns the page."""
    from scipy.stats import spearmanr

    def summary(name: str, gpu: str, rows: Sequence[Published]) -> str:
        errors = [abs(row.error) for row in rows]
        rank = spearmanr([row.predicted.total_s for row in rows], [row.measured_s for row in rows])[0]
        by_device = [abs(row.error) for row in rows if row.predicted.bound != "launches"]
        cells = (name, gpu, str(len(rows)), f"{statistics.median(errors):.0%}", f"{max(errors):.0%}", f"{rank:.2f}")
        median = f"{statistics.median(by_device):.0%}" if by_device else ""
        return f"| {' | '.join((*cells, str(len(by_device)), median))} |"

    tables = {row.source.name: row.source for row in found}
    by_table = {name: [row for row in found if row.source.name == name] for name in tables}
    return [
        "# Predicted and published seconds of a step on GPUs",
        "",
        f"Made by `python -m benchmarks.published_seconds` on {platform.machine()},"
        f" Python {platform.python_version()},",
        f"torch {version('torch')}, transformers {version('transformers')}; no GPU was used.",
        "",
        "**Predicted**, beside what strangers measured and published: the tables of",
        "[external_peaks.md](external_peaks.md) that give times too and name a GPU whose peaks are known. Each program",
        "is traced as it ran, with the installed transformers. The parts of a peak that are reached and 2 us a launch",
        "are assumptions of `rooflines.json`. The 29 us of the host for an operation are fitted to the shortest",
        "steps of OPT, which take 37 ms at every small batch because the launches bound them; the two tables of BERT",
        "are not fitted, and came from other machines. With 8 us, as assumed before, the median error of all rows was",
        "20 % and steps of small batches took up to four times as long as predicted. A sweep corrects the prediction",
        "by what its trials report; here nothing does. Of the rows that the device bounds (not the launches), the",
        "errors stand in the last two columns.",
        "",
        "| table | GPU | rows | median error | largest | rank correlation | bound by the device | their median error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(summary(f"[{name}]({tables[name].url})", rows[0].gpu, rows) for name, rows in by_table.items()),
        summary("**all**", "", found),
        "",
        "Other tables are left out because the GPU that they name is not exact: an RTX 3080 Ti with 16 GB is that of a",
        "laptop, whose peaks depend on its power limit, and there is no RTX 2060 with 8 GB.",
        "",
        "| table | run | bound by | published ms | predicted | |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row.source.name} | {_name(row.run)} | {row.predicted.bound} | {1000 * row.measured_s:.0f} |"
            f" {1000 * row.predicted.total_s:.0f} | {row.error:+.0%} |"
            for row in found
        ),
        "",
    ]


def _name(run: Run) -> str:
    options = run.row.options
    words = [run.row.attention, f"{run.row.batch} x {run.row.length}"]
    if options:
        words += [str(options["precision"]), str(options["optimizer"])]
        words += [f"{options['accumulation']} micro-steps"] if options["accumulation"] != 1 else []
        words += ["checkpointing"] if options["checkpointing"] else []
    return " ".join(words)


if __name__ == "__main__":
    main()
