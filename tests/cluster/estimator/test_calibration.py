"""The margin covers what was measured, says on what it rests, and survives broken ledgers and many writers."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.calibration import (
    DEFAULT_MARGIN,
    Margin,
    Peak,
    conformal_quantile,
    load_calibration,
    margin_for,
    record_peak,
)
from tuning_common.errors import RequestError

GIB = 2**30
ROOT = Path(__file__).resolve().parents[3]
H100 = "NVIDIA H100 80GB HBM3"


def peak(residual: float = 0.0, **changes: object) -> Peak:
    plain = Peak(
        family="bart",
        gpu=H100,
        precision="bf16",
        torch_version="2.13.0",
        predicted_device_bytes=10 * GIB,
        measured_device_bytes=round(10 * GIB * (1 + residual)),
    )
    return dataclasses.replace(plain, **changes)


def margin(peaks: list[Peak], **changes: str) -> Margin:
    return margin_for(peaks, **({"family": "bart", "gpu": H100, "precision": "bf16"} | changes))


def test_without_any_peak_the_default_says_where_it_is_from() -> None:
    found = margin([])
    assert (found.fraction, found.count) == (DEFAULT_MARGIN, 0)
    assert "no measured peak yet" in found.basis
    assert "xMem" in found.basis


def test_nineteen_peaks_give_their_largest_and_thirty_nine_the_second_largest() -> None:
    residuals = [i / 1000 for i in range(40)]
    assert margin([peak(r) for r in residuals[:19]]).fraction == pytest.approx(0.018, abs=1e-6)
    assert margin([peak(r) for r in residuals[:39]]).fraction == pytest.approx(0.037, abs=1e-6)


def test_five_to_eighteen_peaks_give_the_largest_residual_and_two_percent() -> None:
    found = margin([peak(r) for r in (-0.03, 0.01, 0.015, 0.0, -0.01)])
    assert found.fraction == pytest.approx(0.035, abs=1e-6)
    assert found.count == 5
    assert found.basis.startswith("largest residual of 5 measured peaks of bart in bf16 on NVIDIA H100")


def test_a_few_peaks_do_not_go_below_the_default_but_may_exceed_it() -> None:
    assert margin([peak(-0.02)]).fraction == DEFAULT_MARGIN
    assert margin([peak(0.2)]).fraction == pytest.approx(0.22, abs=1e-6)


def test_an_unseen_cell_takes_the_pool_of_all_cells() -> None:
    peaks = [peak(i / 1000) for i in range(20)]
    found = margin(peaks, family="t5")
    assert found.fraction == pytest.approx(0.019, abs=1e-6)
    assert "20 measured peaks of other cells too" in found.basis


def test_a_small_calm_cell_does_not_go_below_a_large_wild_pool() -> None:
    pool = [peak(0.06 + i / 1000, family="gpt2") for i in range(30)]
    calm = [peak(0.0) for _ in range(6)]
    assert margin(pool + calm).fraction == pytest.approx(margin(pool + calm, family="none").fraction)


def test_estimates_that_were_too_large_never_make_a_negative_margin() -> None:
    assert margin([peak(-0.3) for _ in range(25)]).fraction == 0.0


def test_a_trial_that_hit_its_cap_counts_for_more_than_the_cap() -> None:
    assert peak(0.08, outgrew=True).residual == pytest.approx(0.13, abs=1e-6)


def test_repeated_reports_of_one_run_count_once_with_the_largest() -> None:
    peaks = [peak(0.01 * i, run="trial-7") for i in range(6)]
    found = margin(peaks)
    assert (found.count, found.fraction) == (0, DEFAULT_MARGIN)
    assert margin([*peaks, peak(0.2, run="trial-7")]).fraction == pytest.approx(0.22, abs=1e-6)


@given(st.lists(st.floats(-0.5, 0.5), min_size=19, max_size=80), st.sampled_from([0.05, 0.1, 0.2]))
def test_the_quantile_is_one_of_the_residuals_with_the_right_rank(residuals: list[float], miscoverage: float) -> None:
    found = conformal_quantile(residuals, miscoverage)
    assert found in residuals
    above = sum(r > found for r in residuals)
    assert above <= miscoverage * (len(residuals) + 1)


def test_the_bound_covers_new_draws_as_promised() -> None:
    generator = np.random.default_rng(0)
    for count in (19, 50, 200):
        draws = generator.lognormal(-4, 1, size=(4000, count + 1))
        covered = [conformal_quantile(row[:-1].tolist(), 0.05) >= row[-1] for row in draws]
        assert np.mean(covered) >= 0.95 - 0.012  # 0.95 less three and a half standard errors of 4,000 draws


def test_a_ledger_survives_torn_and_foreign_lines(tmp_path: Path) -> None:
    ledger = tmp_path / "calibration.jsonl"
    record_peak(ledger, peak(0.01, run="a"))
    with ledger.open("ab") as stream:
        stream.write(b'{"family": "bart", "gpu"\n[1, 2]\n\xff\xfe\n')
        stream.write(json.dumps(dataclasses.asdict(peak()) | {"measured_device_bytes": 3}).encode() + b"\n")
        stream.write(json.dumps(dataclasses.asdict(peak()) | {"predicted_device_bytes": "10"}).encode() + b"\n")
        stream.write(json.dumps(dataclasses.asdict(peak()) | {"family": ""}).encode() + b"\n")
        stream.write(json.dumps(dataclasses.asdict(peak()) | {"layout": "heaped"}).encode() + b"\n")
        stream.write(b'{"family": "t5"')  # an earlier writer died here
    record_peak(ledger, peak(0.02, run="b", layout="divided"))
    loaded = load_calibration(ledger)
    assert [(p.run, p.layout) for p in loaded.peaks] == [("a", "one card"), ("b", "divided")]
    assert loaded.unreadable == 8
    assert loaded.source == str(ledger)


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no ledger of measured peaks"):
        load_calibration(tmp_path)


def test_bytes_that_are_no_text_are_counted_as_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "calibration.jsonl"
    path.write_bytes(bytes(range(1, 256)) + b"\n\xff\xfe\n")
    found = load_calibration(path)
    assert found.peaks == ()
    assert found.unreadable >= 2


def test_an_absent_ledger_is_empty(tmp_path: Path) -> None:
    loaded = load_calibration(tmp_path / "none.jsonl")
    assert (loaded.peaks, loaded.unreadable) == ((), 0)
    assert loaded.margin(family="bart", gpu=H100, precision="bf16").fraction == DEFAULT_MARGIN


WRITER = """
import dataclasses, sys
from pathlib import Path
from cluster.estimator.calibration import Peak, record_peak
for index in range(50):
    record_peak(Path(sys.argv[1]), Peak(family="bart", gpu="L4", precision="bf16", torch_version="2.13.0",
        predicted_device_bytes=10, measured_device_bytes=10, run=f"{sys.argv[2]}-{index}"))
"""


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "calibration.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(ledger), str(w)], cwd=ROOT) for w in range(4)]
    assert [process.wait() for process in writers] == [0, 0, 0, 0]
    loaded = load_calibration(ledger)
    assert loaded.unreadable == 0
    assert {p.run for p in loaded.peaks} == {f"{w}-{i}" for w in range(4) for i in range(50)}
