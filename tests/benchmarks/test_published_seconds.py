"""Published step times: the facts are whole, and a program is counted as it runs."""

import json

import pytest

from benchmarks.external_runs import Source, read_sources
from benchmarks.published_seconds import FACTS, PEAKS, Published, report, step_seconds
from cluster.estimator.roofline import Roofline, roofline_of

SOURCES = {source.name: source for source in read_sources(PEAKS)}
PAPER = Roofline(half_flops_s=1e12, single_flops_s=1e12, bytes_s=1e15, launch_s=0.0, host_s=0.0, source="on paper")


def source(name: str) -> Source:
    return SOURCES[name]


def test_every_published_time_belongs_to_a_row_on_a_gpu_whose_peaks_are_known() -> None:
    tables = json.loads(FACTS.read_text(encoding="utf-8"))
    assert sum(len(table["published"]) for table in tables) >= 50
    for table in tables:
        assert len(table["published"]) == len(source(table["table"]).runs)
        assert roofline_of(table["gpu"]) is not None
        assert min(table["published"]) > 0


def test_a_forward_and_backward_pass_computes_three_times_the_products_of_its_weights_and_of_attention() -> None:
    run = source("BERT-base, training").runs[0]  # 4 x 256 tokens, 12 layers of 768, a head of 30,522
    tokens, width, layers = 4 * 256, 768, 12
    weights = layers * 12 * width**2 + width**2 + width * 30_522
    attention = layers * 2 * 256 * width
    found = step_seconds(run, PAPER)
    assert found.flops == pytest.approx(3 * 2 * tokens * (weights + attention), rel=0.02)
    rows = [
        Published(source=source("BERT-base, training"), gpu="x", run=run, measured_s=one.total_s, predicted=one)
        for one in (found, found + found)
    ]
    assert "| x | 2 | 0% | 0% | 1.00 | 2 | 0% |" in "\n".join(report(rows))
