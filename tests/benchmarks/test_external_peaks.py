"""Strangers' peaks: the facts are whole, a program replays to what was measured, and the page says what it must."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import external_peaks
from benchmarks.external_peaks import Compared, page, read_sources
from benchmarks.external_replay import PROGRAMS, replayed
from benchmarks.external_runs import Run

SOURCES = {source.name: source for source in read_sources(external_peaks.FACTS)}


def test_every_row_of_the_facts_names_its_source_and_a_program_that_is_written_down() -> None:
    assert sum(len(source.runs) for source in SOURCES.values()) >= 220
    for source in SOURCES.values():
        assert source.url.startswith("https://")
        assert {run.program for run in source.runs} <= set(PROGRAMS)
        assert not source.transformers or source.transformers in external_peaks.COMPANIONS
        assert min(source.measured_bytes) > 10**7


def test_a_run_survives_json() -> None:
    run = SOURCES["BERT-large, old trainer"].runs[3]
    assert Run.from_dict(dataclasses.asdict(run)) == run
    assert run.precision == "fp16"


@pytest.mark.parametrize("index", [0, 2])
def test_the_loss_that_liger_measured_is_replayed_to_a_thousandth(index: int) -> None:
    source = SOURCES["cross-entropy"]
    found = replayed(source.runs[index]).estimate_bytes
    assert found == pytest.approx(source.measured_bytes[index], rel=1e-3)


def test_a_forward_pass_of_biogpt_is_replayed_to_two_thousandths() -> None:
    source = SOURCES["BioGPT, forward pass"]
    found = replayed(source.runs[-1]).estimate_bytes
    assert found == pytest.approx(source.measured_bytes[-1], rel=2e-3)


@pytest.mark.parametrize(
    ("table", "index", "within"),
    [
        ("phi-1.5, LoRA by litgpt", 0, 3e-3),
        ("GPT-2 of a book, bf16, fused AdamW", 2, 1e-3),  # reserved by flash attention's steps
        ("Kullback-Leibler divergence", 5, 1e-4),  # on a Hopper card
        ("MLP of Llama", 3, 1e-4),
    ],
)
def test_adapters_and_bf16_weights_are_replayed_to_what_was_measured(table: str, index: int, within: float) -> None:
    source = SOURCES[table]
    found = replayed(source.runs[index]).estimate_bytes
    assert found == pytest.approx(source.measured_bytes[index], rel=within)


def test_a_stored_answer_is_not_replayed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_peaks, "ANSWERS", tmp_path / "answers.jsonl")
    runs = SOURCES["cross-entropy"].runs[:2]
    first = external_peaks.replay(runs[:1], external_peaks.INSTALLED)
    both = external_peaks.replay(runs, external_peaks.INSTALLED)
    assert both[0] == first[0]
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2


def test_the_page_counts_what_is_above_the_upper_bound_and_shows_outliers() -> None:
    source = SOURCES["BioGPT, forward pass"]
    rows = [
        Compared(run=run, measured_bytes=1_000_000_000, then=then, now=None, parameters=10_000_000)
        for run, then in zip(source.runs, (900_000_000, 995_000_000, 1_000_000_000, 1_030_000_000), strict=False)
    ]
    text = page([(source, rows)])
    assert "| 4 | 1.75% | -10.0% | +3.0% | 1 | not built |" in text
    assert "| BioGPT, forward pass | eager 1 x 64 | 1,000 | 900 | -10.0% |" in text
    assert "| 16 bytes a parameter | 84% | -84% | -84% | 4 of 4 |" in text


def test_the_committed_page_has_every_table() -> None:
    text = external_peaks.FACTS.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"| [{name}]" in text for name in SOURCES)
