"""Compares estimates with the peaks of measure_gpu_peaks; writes gpu_peaks.md in its own folder.

`python -m benchmarks.compare_gpu_peaks`, after `python -m benchmarks.measure_gpu_peaks` on a GPU. `--calibration FILE`
also feeds the peaks to the ledger from which estimates take their margin: outputs/calibration.jsonl is what they read.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu_experiments import EXPERIMENTS
from benchmarks.gpu_peak_grid import Case, grid
from benchmarks.measure_gpu_peaks import TABLE
from benchmarks.pages import table
from cluster.estimator.calibration import Peak, record_peak
from cluster.estimator.estimate import Estimator, MemoryEstimate
from cluster.estimator.gpu_profile import GpuProfile, find_gpu, gpu_of_size
from tune_jobs.placing.memory_templates import template_finder
from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.files import read_jsonl, write_text

MIB = 2**20
LARGEST_ALLOCATED_ERROR = 0.01  # a larger error needs an investigation
QUANTITIES = ("train_allocated_bytes", "generate_allocated_bytes", "train_reserved_bytes", "device_bytes")
PROTOCOL = """\
How to measure, on an otherwise idle GPU (ten minutes):

```bash
python -m cluster profile
python -m benchmarks.measure_gpu_peaks --time-limit 560
python -m benchmarks.compare_gpu_peaks --calibration outputs/calibration.jsonl
python -m benchmarks.measure_gpu_peaks --under-caps --time-limit 560
python -m benchmarks.compare_gpu_peaks
```

The first gives context and workspaces of this card; the second measures; the third compares, and teaches the margin;
the fourth runs everything again under the caps that the estimates set, and the fifth adds who outgrew them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A measured run and its estimate.

    Attributes:
        case: The run.
        gpu: The card.
        torch: Version.
        status: ok, or oom.
        under_caps: Whether it was held to its upper estimate.
        measured: By the names of QUANTITIES; None where it was not measured.
        estimate: Estimate of the same run.
    """

    case: Case
    gpu: str
    torch: str
    status: str
    under_caps: bool
    measured: dict[str, int | None]
    estimate: MemoryEstimate

    def error(self, quantity: str) -> float | None:
        """Estimate over measurement, minus 1; None where it was not measured."""
        seen = self.measured[quantity]
        return None if not seen else float(getattr(self.estimate, quantity)) / seen - 1

    @property
    def outgrew(self) -> bool:
        """Whether the run exceeded its upper bound."""
        seen = self.measured["device_bytes"]
        return self.status == "oom" or (seen is not None and seen > self.estimate.upper_bytes)


def rows_of(records: Sequence[dict[str, object]], estimator: Estimator, *, rehearsed: bool = False) -> list[Row]:
    """Estimates every record that is a measurement on a GPU.

    Args:
        records: Lines of the table; those of a CPU, of failed runs and of another grid are skipped.
        estimator: An estimator without measured peaks.
        rehearsed: Take the lines of a rehearsal instead.
    """
    rows = []
    for record in records:
        case = _case(record)
        status = str(record.get("status"))
        if case is None or status not in ("ok", "oom") or record.get("gpu") in (None, "CPU"):
            continue
        if (record.get("device") == "meta") != rehearsed:
            continue
        rows.append(
            Row(
                case=case,
                gpu=str(record["gpu"]),
                torch=str(record.get("torch")),
                status=status,
                under_caps=record.get("under_caps") is True,
                measured={name: _number(record.get(name)) for name in QUANTITIES},
                estimate=estimator.estimate(case.request(_card(record))),
            )
        )
    return rows


def teach(rows: Sequence[Row], ledger: Path) -> int:
    """Writes the measured peaks of uncapped runs to a calibration ledger; returns how many."""
    peaks = [
        Peak(
            family=row.case.facts.family,
            gpu=row.estimate.gpu.name,
            precision=row.case.config.precision,
            torch_version=row.torch,
            predicted_device_bytes=row.estimate.device_bytes,
            measured_device_bytes=seen,
            run=f"gpu_peaks {row.case.number}",
        )
        for row in rows
        if (seen := row.measured["device_bytes"]) is not None and row.status == "ok" and not row.under_caps
    ]
    for peak in peaks:
        record_peak(ledger, peak)
    return len(peaks)


def report(rows: Sequence[Row]) -> str:
    """Writes the tables, or that nothing was measured."""
    title = "# Estimates beside peaks that were measured on a GPU"
    made = "Made by `python -m benchmarks.compare_gpu_peaks` from `benchmarks/gpu_peaks.jsonl`."
    if not rows:
        unmeasured = "**Not measured: no GPU was at hand.**"
        return "\n\n".join([title, made, unmeasured, PROTOCOL, *_decided(())]) + "\n"
    free = [row for row in rows if not row.under_caps]
    capped = [row for row in rows if row.under_caps]
    cards = ", ".join(sorted({f"{row.gpu} with torch {row.torch}" for row in rows}))
    far = [
        row
        for row in free
        if any(abs(row.error(name) or 0.0) > LARGEST_ALLOCATED_ERROR for name in QUANTITIES if "allocated" in name)
    ]
    parts = [
        title,
        made,
        f"Measured on {cards}: {len(free)} runs, of which {sum(row.outgrew for row in free)} needed more than the upper"
        f" bound; {len(capped)} runs under the caps of their estimates, of which"
        f" {sum(row.outgrew for row in capped)} outgrew them.",
        table(("quantity", "runs", "error, median", "smallest", "largest"), list(map(_spread(free), QUANTITIES))),
        f"Runs with an error above {LARGEST_ALLOCATED_ERROR:.0%} in what tensors hold: {len(far)}"
        + ("".join(f"\n* {_label(row)}" for row in far)),
        "## Every run",
        "MiB measured, and the estimate's error.",
        table(
            ("run", "train", "error", "generate", "error", "reserved", "error", "device", "error", "upper", "held"),
            [_cells(row) for row in rows],
        ),
        PROTOCOL,
        *_decided(free),
    ]
    return "\n\n".join(parts) + "\n"


def _decided(rows: Sequence[Row]) -> list[str]:
    """Lists the experiments: what each decided, or what is assumed until then."""
    lines = []
    for experiment in EXPERIMENTS:
        errors = [
            error
            for row in rows
            if experiment.belongs(row.case) and (error := row.error(experiment.quantity)) is not None
        ]
        found = "*not measured*"
        if errors:
            found = f"{len(errors)} runs, {min(errors):+.2%} to {max(errors):+.2%} in {experiment.quantity}"
        runs = ",".join(str(case.number) for case in grid() if experiment.quantity and experiment.belongs(case))
        by = experiment.otherwise or ("all runs" if runs.count(",") > 50 else f"runs {runs}")
        lines.append((experiment.name, experiment.decides, by, experiment.until_then, found))
    header = ("experiment", "decides", "by", "until then", "decided")
    return ["## Ten experiments that decide what is not measured yet", table(header, lines)]


def _spread(rows: Sequence[Row]) -> Callable[[str], tuple[object, ...]]:
    def row_of(name: str) -> tuple[object, ...]:
        errors = [error for row in rows if (error := row.error(name)) is not None]
        if not errors:
            return name, 0, "not measured", "", ""
        middle = statistics.median(map(abs, errors))
        return name, len(errors), f"{middle:.2%}", f"{min(errors):+.2%}", f"{max(errors):+.2%}"

    return row_of


def _cells(row: Row) -> tuple[object, ...]:
    cells: list[object] = [_label(row)]
    for name in QUANTITIES:
        seen, error = row.measured[name], row.error(name)
        cells += [f"{seen / MIB:,.1f}" if seen else "", f"{error:+.2%}" if error is not None else ""]
    return (*cells, f"{row.estimate.upper_bytes / MIB:,.1f}", "no" if row.outgrew else "yes")


def _label(row: Row) -> str:
    changes = dict(row.case.changes)
    sizes = "{batch_size} x {encoder_max_len} + {decoder_max_len}".format(**changes)
    named = ("batch_size", "encoder_max_len", "decoder_max_len", "precision", "generation_max_len")
    rest = [f"{name}={value}" for name, value in changes.items() if name not in named]
    head = " untied" if row.case.untied else ""
    cap = " capped" if row.under_caps else ""
    return " ".join([f"{row.case.number}: {row.case.model}{head}", str(changes["precision"]), sizes, *rest,
                     row.case.allocator + cap])  # fmt: skip


def _case(record: dict[str, object]) -> Case | None:
    """Returns the record's run in the grid; None where the grid has another run with its number."""
    known = {case.number: case for case in grid(tiny=record.get("tiny") is True)}
    number = record.get("number")
    case = known.get(number) if isinstance(number, int) else None
    if case is None or (case.model, dict(case.changes)) != (record.get("model"), record.get("changes")):
        return None
    return case


def _card(record: dict[str, object]) -> GpuProfile:
    try:
        return find_gpu(str(record["gpu"]))
    except RequestError:
        return gpu_of_size(_number(record.get("gpu_total_bytes")) or 24 * 2**30)


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def main(arguments: Sequence[str]) -> int:
    """Compares the runs and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=TABLE.with_suffix(".md"), help="default: %(default)s")
    parser.add_argument("--rehearsed", action="store_true", help="compare the lines of a rehearsal (--device meta)")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="ledger that also receives the peaks")
    chosen = parser.parse_args(arguments)
    records, torn = read_jsonl(chosen.table)
    rows = rows_of(records, Estimator(template_finder(cli.note)), rehearsed=chosen.rehearsed)
    if passed_over := len(records) - len(rows) + torn:
        cli.note(f"{chosen.table}: {passed_over} lines are not measurements on a GPU and were skipped")
    if chosen.calibration is not None:
        cli.note(f"{chosen.calibration}: {teach(rows, chosen.calibration)} peaks added")
    write_text(chosen.output, report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
