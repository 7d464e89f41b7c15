"""The ground-truth protocol: what it measures, how it compares, and that it runs (without memory) on a CPU."""

import json
from pathlib import Path

import pytest

from benchmarks import compare_gpu_peaks, measure_gpu_peaks
from benchmarks.compare_gpu_peaks import Row, rows_of
from benchmarks.gpu_experiments import EXPERIMENTS
from benchmarks.gpu_peak_grid import Case, grid
from cluster.estimator.calibration import load_calibration
from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from tune_jobs.placing.memory_templates import template_finder
from tuning_common import cli

L4 = find_gpu("L4")
OURS = [case for case in grid() if case.model == "kobart"][:4]  # shipped templates answer these


def test_the_grid_has_a_hundred_different_runs_of_four_families() -> None:
    cases = grid()
    assert len(cases) >= 100
    assert [case.number for case in cases] == list(range(len(cases)))
    assert {case.facts.family for case in cases} == {"bart", "gpt2", "t5", "mt5"}
    different = {json.dumps([case.model, case.untied, dict(case.changes), case.allocator]) for case in cases}
    assert len(different) == len(cases)
    assert all(case.request(L4).batch_size == case.config.batch_size for case in cases)


def line(case: Case, estimator: Estimator, factor: float, **changes: object) -> dict[str, object]:
    """A measurement that is the estimate times a factor."""
    found = estimator.estimate(case.request(L4))
    seen = {name: int(getattr(found, name) * factor) for name in compare_gpu_peaks.QUANTITIES}
    return {
        "number": case.number, "model": case.model, "changes": dict(case.changes), "tiny": False, "under_caps": False,
        "gpu": L4.name, "torch": "2.13.0", "status": "ok", **seen, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(template_finder(pytest.fail, only_at_hand=True))


def test_a_table_is_compared_run_by_run(estimator: Estimator, tmp_path: Path) -> None:
    exact, under, far, capped = OURS
    records = [
        line(exact, estimator, 1.0),
        line(under, estimator, 1.25),  # more than the upper bound
        line(far, estimator, 1 / 1.03),
        line(capped, estimator, 1.0, status="oom", under_caps=True),
        line(exact, estimator, 1.0, gpu="CPU"),
        line(exact, estimator, 1.0, status="error"),
        line(exact, estimator, 1.0, changes={"batch_size": 3}),  # of an older grid
    ]
    table, output, ledger = tmp_path / "peaks.jsonl", tmp_path / "peaks.md", tmp_path / "calibration.jsonl"
    table.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"torn')
    rows = rows_of(records, estimator)
    assert [row.case.number for row in rows] == [exact.number, under.number, far.number, capped.number]
    assert [row.outgrew for row in rows] == [False, True, False, True]
    assert [round(error(row), 4) for row in rows[:3]] == [0.0, -0.2, 0.03]
    command = ["--table", str(table), "--output", str(output), "--calibration", str(ledger)]
    assert cli.run(compare_gpu_peaks.main, command) == 0
    text = output.read_text()
    assert "3 runs, of which 1 needed more than the upper bound; 1 runs under the caps of their estimates" in text
    assert "| train_allocated_bytes | 3 | 3.00% | -20.00% | +3.00% |" in text
    assert "Runs with an error above 1% in what tensors hold: 2" in text
    assert "outgrew" in text
    assert "**Not measured" not in text
    assert "| bf16 autocast with fused AdamW |" in text
    known = load_calibration(ledger)
    assert [round(peak.residual, 3) for peak in known.peaks] == [0.0, 0.25, -0.029]
    assert {(peak.family, peak.gpu) for peak in known.peaks} == {("bart", L4.name)}


def error(row: Row) -> float:
    found = row.error("train_allocated_bytes")
    assert found is not None
    return found


def test_without_a_table_the_page_says_not_measured_and_how(tmp_path: Path) -> None:
    output = tmp_path / "peaks.md"
    command = ["--table", str(tmp_path / "none.jsonl"), "--output", str(output)]
    assert cli.run(compare_gpu_peaks.main, command) == 0
    assert "Not measured: no GPU was at hand" in output.read_text()
    assert "python -m benchmarks.measure_gpu_peaks --time-limit 560" in output.read_text()


def test_the_committed_page_is_that_of_the_committed_table(tmp_path: Path) -> None:
    page = measure_gpu_peaks.TABLE.with_suffix(".md")
    assert cli.run(compare_gpu_peaks.main, ["--output", str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == page.read_text()


def test_the_protocol_runs_on_a_cpu_and_goes_on_where_it_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "peaks.jsonl"
    command = ["--device", "cpu", "--tiny", "--numbers", "0,5", "--output", str(table)]
    assert cli.run(measure_gpu_peaks.main, command) == 0
    records = [json.loads(text) for text in table.read_text().splitlines()]
    assert [(record["number"], record["status"], record["gpu"]) for record in records] == [
        (0, "ok", "CPU"), (5, "ok", "CPU"),
    ]  # fmt: skip
    assert all(record["train_allocated_bytes"] is None and record["seconds"]["backward"] > 0 for record in records)
    assert cli.run(measure_gpu_peaks.main, command) == 0
    assert len(table.read_text().splitlines()) == 2
    capfd.readouterr()
    assert cli.run(measure_gpu_peaks.main, ["--numbers", "9999", "--output", str(table)]) == 2
    assert "no such runs: [9999]" in capfd.readouterr().err


def test_without_a_gpu_it_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = ["--numbers", "0", "--output", str(tmp_path / "peaks.jsonl")]
    assert cli.run(measure_gpu_peaks.main, command) == 2
    assert "no CUDA device here" in capfd.readouterr().err


def test_ten_experiments_are_named_and_each_has_runs_or_another_way() -> None:
    assert len(EXPERIMENTS) == len({experiment.name for experiment in EXPERIMENTS}) == 10
    for experiment in EXPERIMENTS:
        runs = [case for case in grid() if experiment.belongs(case)]
        assert bool(experiment.quantity) == bool(runs)
        assert runs or experiment.otherwise
        assert experiment.quantity in ("", *compare_gpu_peaks.QUANTITIES)
