"""Computes the margin of estimates from measured peaks: a conformal upper quantile of their residuals.

Every trial reports its measured peak, and the margin adapts. Each margin has the number of peaks behind it.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, read_jsonl

MISCOVERAGE = 0.05  # one trial in twenty may exceed its upper estimate; it fails alone and is placed again
SMALL_SAMPLE_SLACK = 0.02  # added to the largest residual where there are too few for a quantile
LEAST_PEAKS = 5  # with fewer measured peaks the wider pool or the default applies
OUTGROWN_STEP = 0.05  # a trial that hit its cap needed more than the cap, by an unknown amount: assume 5 %
PLAUSIBLE_RATIO = (0.2, 5.0)  # measured / predicted; outside, a wrong unit or a shared card is likely
DEFAULT_MARGIN = 0.08
DEFAULT_MARGIN_SOURCE = (
    "no measured peak yet: 2.8 % by which torch's own count exceeded ours in allocator replays without a GPU, plus"
    " 3.3 %, the largest under-estimate in published rows of the nearest tracer (xMem, arXiv 2510.21048), plus 2 %"
)
Layout = Literal["one card", "data-parallel", "divided"]
ONE_CARD: Final = "one card"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """One measured peak with its prediction.

    Attributes:
        family: Architecture, for example "bart".
        gpu: The model as NVML prints it.
        precision: fp32, fp16 or bf16.
        torch_version: Version in the trial's process.
        predicted_device_bytes: Estimate without margin.
        measured_device_bytes: Largest use of the device by this process; the cap where outgrew is true.
        outgrew: The process hit its cap: the measurement is only a lower bound.
        run: Identifies the trial; only the largest peak of a run counts. Empty: counts separately.
        layout: Whether it ran on one card, or on several with the whole model or a shard each. Estimates for several
            cards are bounds, so residuals are not shared between layouts.
    """

    family: str
    gpu: str
    precision: str
    torch_version: str
    predicted_device_bytes: int
    measured_device_bytes: int
    outgrew: bool = False
    run: str = ""
    layout: Layout = ONE_CARD

    @property
    def residual(self) -> float:
        """Measured ÷ predicted - 1; positive where the estimate was too small.

        >>> Peak(family="bart", gpu="L4", precision="bf16", torch_version="2.13.0", predicted_device_bytes=4000,
        ...      measured_device_bytes=4100).residual
        0.025
        """
        residual = round(self.measured_device_bytes / self.predicted_device_bytes - 1, 9)
        return residual + OUTGROWN_STEP if self.outgrew else residual


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin:
    """A margin and its basis.

    Attributes:
        fraction: upper = device · (1 + fraction); never negative.
        count: Number of measured peaks behind it.
        basis: Its peaks and rule, for people.
    """

    fraction: float
    count: int
    basis: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The peaks of one ledger.

    Attributes:
        peaks: Peaks in file order.
        unreadable: Number of skipped lines: torn, incomplete or implausible.
        source: The ledger's path, for messages.
    """

    peaks: tuple[Peak, ...] = ()
    unreadable: int = 0
    source: str = ""

    def margin(self, *, family: str, gpu: str, precision: str, layout: Layout = ONE_CARD) -> Margin:
        """Returns the margin for one cell; see margin_for."""
        return margin_for(self.peaks, family=family, gpu=gpu, precision=precision, layout=layout)


def record_peak(path: Path, peak: Peak) -> None:
    """Appends one measured peak; safe with several writers.

    Args:
        path: A JSON-lines ledger, shared by sweeps.
        peak: The measurement.
    """
    append_jsonl(path, dataclasses.asdict(peak))


def load_calibration(path: Path) -> Calibration:
    """Reads a ledger; an absent one is empty.

    Torn, incomplete or implausible lines are skipped and counted; the count is shown with the margin.

    Raises:
        RequestError: When the path cannot be read, for example a folder.
    """
    try:
        records, torn = read_jsonl(path)
    except OSError as error:
        raise RequestError(
            f"{path}: no ledger of measured peaks ({error.strerror})",
            ["give a file of JSON lines, as sweeps and `python -m tune_jobs profile` write it"],
        ) from None
    peaks = [_peak(record) for record in records]
    known = tuple(peak for peak in peaks if peak is not None)
    return Calibration(peaks=known, unreadable=torn + len(peaks) - len(known), source=str(path))


def margin_for(
    peaks: Iterable[Peak],
    *,
    family: str,
    gpu: str,
    precision: str,
    layout: Layout = ONE_CARD,
    miscoverage: float = MISCOVERAGE,
) -> Margin:
    """Returns the margin for a family, GPU model and precision, from peaks of the same layout.

    With 19 or more peaks of the cell: their conformal upper quantile. With 5 to 18: the largest residual plus 2 %, but
    at least the margin of all cells together. With fewer: the pool of all cells; without a pool, the default.

    Args:
        peaks: All measured peaks.
        family: Architecture.
        gpu: Model as NVML prints it.
        precision: fp32, fp16 or bf16.
        layout: See Peak.
        miscoverage: Fraction of future trials that may exceed the bound.
    """
    kept = _largest_of_each_run(peak for peak in peaks if peak.layout == layout)
    wanted = (family, gpu, precision)
    cell = [peak.residual for peak in kept if (peak.family, peak.gpu, peak.precision) == wanted]
    pooled = _pooled_margin([peak.residual for peak in kept], miscoverage)
    cell_name = f"{family} in {precision} on {gpu}" + ("" if layout == ONE_CARD else f", {layout}")
    quantile = conformal_quantile(cell, miscoverage)
    if quantile is not None:
        basis = f"{1 - miscoverage:.0%} conformal quantile of {len(cell)} measured peaks of {cell_name}"
        return Margin(fraction=max(0.0, quantile), count=len(cell), basis=basis)
    if not cell:
        return pooled
    largest = max(0.0, max(cell) + SMALL_SAMPLE_SLACK)
    enough = len(cell) >= LEAST_PEAKS and (pooled.count < least_count(miscoverage) or pooled.fraction <= largest)
    if enough or largest > pooled.fraction:
        basis = f"largest residual of {len(cell)} measured peaks of {cell_name}, plus {SMALL_SAMPLE_SLACK:.0%}"
        return Margin(fraction=largest, count=len(cell), basis=basis)
    return pooled


def conformal_quantile(residuals: Sequence[float], miscoverage: float) -> float | None:
    """Returns the ceil((n + 1)(1 - a))-th smallest residual.

    A new residual that is exchangeable with these exceeds it with probability at most a (Vovk and others 2005; Lei and
    others 2018, split conformal prediction).

    Args:
        residuals: n numbers in any order.
        miscoverage: a, above 0 and below 1.

    Returns:
        The bound, or None where n is too small for any bound (n < 19 for a = 0.05).

    >>> conformal_quantile([i / 100 for i in range(1, 20)], 0.05)
    0.19
    >>> conformal_quantile([0.01] * 18, 0.05) is None
    True
    """
    rank = math.ceil(round((len(residuals) + 1) * (1 - miscoverage), 9))
    return sorted(residuals)[rank - 1] if 0 < rank <= len(residuals) else None


def least_count(miscoverage: float) -> int:
    """Returns the number of peaks that a conformal bound needs.

    >>> least_count(0.05), least_count(0.1)
    (19, 9)
    """
    return math.ceil(round(1 / miscoverage, 9)) - 1


def _pooled_margin(residuals: Sequence[float], miscoverage: float) -> Margin:
    quantile = conformal_quantile(residuals, miscoverage)
    if quantile is not None:
        basis = f"{1 - miscoverage:.0%} conformal quantile of {len(residuals)} measured peaks of other cells too"
        return Margin(fraction=max(0.0, quantile), count=len(residuals), basis=basis)
    if residuals and max(residuals) + SMALL_SAMPLE_SLACK > DEFAULT_MARGIN:
        basis = f"largest residual of {len(residuals)} measured peaks of any cell, plus {SMALL_SAMPLE_SLACK:.0%}"
        return Margin(fraction=max(residuals) + SMALL_SAMPLE_SLACK, count=len(residuals), basis=basis)
    return Margin(fraction=DEFAULT_MARGIN, count=0, basis=f"default, {DEFAULT_MARGIN_SOURCE}")


def _largest_of_each_run(peaks: Iterable[Peak]) -> list[Peak]:
    """Keeps the largest peak of each run: repeated reports of a run are not exchangeable."""
    largest: dict[object, Peak] = {}
    for index, peak in enumerate(peaks):
        key: object = (peak.run, peak.family, peak.gpu, peak.precision, peak.layout) if peak.run else index
        if key not in largest or peak.residual > largest[key].residual:
            largest[key] = peak
    return list(largest.values())


_LAYOUTS: dict[object, Layout] = {layout: layout for layout in get_args(Layout)}


def _peak(record: dict[str, object]) -> Peak | None:
    texts = [record.get(name) for name in ("family", "gpu", "precision", "torch_version")]
    predicted, measured = record.get("predicted_device_bytes"), record.get("measured_device_bytes")
    outgrew, run = record.get("outgrew", False), record.get("run", "")
    if not (type(predicted) is int and type(measured) is int and predicted > 0 and isinstance(outgrew, bool)):
        return None
    if not PLAUSIBLE_RATIO[0] <= measured / predicted <= PLAUSIBLE_RATIO[1] or not isinstance(run, str):
        return None
    family, gpu, precision, torch_version = (text if isinstance(text, str) and text else None for text in texts)
    layout = _LAYOUTS.get(record.get("layout", ONE_CARD))
    if family is None or gpu is None or precision is None or torch_version is None or layout is None:
        return None
    return Peak(
        family=family,
        gpu=gpu,
        precision=precision,
        torch_version=torch_version,
        predicted_device_bytes=predicted,
        measured_device_bytes=measured,
        outgrew=outgrew,
        run=run,
        layout=layout,
    )
