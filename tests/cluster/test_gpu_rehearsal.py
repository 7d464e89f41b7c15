"""The protocol of the first lent card, rehearsed whole: NVML is imitated, the runs are traced on meta tensors."""

import json
from pathlib import Path

import pytest

from benchmarks import compare_gpu_peaks, measure_gpu_peaks
from benchmarks.compare_gpu_peaks import rows_of
from benchmarks.gpu_peak_grid import grid
from cluster.estimator.estimate import Estimator
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard
from tune_jobs.placing.memory_templates import template_finder
from tuning_common import cli


def test_the_whole_protocol_is_rehearsed_on_meta_under_an_imitated_card(fake_nvml: Install, tmp_path: Path) -> None:
    fake_nvml([FakeCard(name="NVIDIA L4", total=23034 * 2**20, used=100 * 2**20)])
    table, page = tmp_path / "peaks.jsonl", tmp_path / "peaks.md"
    command = ["--device", "meta", "--output", str(table), "--worker"]
    assert cli.run(measure_gpu_peaks.main, [*command, "0"]) == 0
    records = [json.loads(text) for text in table.read_text().splitlines()]
    assert [(record["number"], record["status"], record["gpu"], record["device"]) for record in records] == [
        (0, "ok", "NVIDIA L4", "meta"),
    ]
    assert measure_gpu_peaks.chosen_cases(
        measure_gpu_peaks.parser().parse_args(["--device", "meta", "--numbers", "0,1", "--output", str(table)])
    ) == [grid()[1]]  # it goes on where it stopped
    assert cli.run(compare_gpu_peaks.main, ["--table", str(table), "--output", str(page), "--rehearsed"]) == 0
    (row,) = rows_of(records, Estimator(template_finder(pytest.fail, only_at_hand=True)), rehearsed=True)
    found = row.error("train_allocated_bytes")
    assert found is not None
    assert 0 <= found < 0.01
    assert "bf16 autocast with fused AdamW" in page.read_text()
    assert cli.run(compare_gpu_peaks.main, ["--table", str(table), "--output", str(page)]) == 0
    assert "Not measured: no GPU was at hand" in page.read_text()  # a rehearsal is no measurement
