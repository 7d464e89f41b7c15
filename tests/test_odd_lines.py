"""One odd line in a journal or ledger is counted and named; it stops neither a resume nor a report nor the week."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tune_jobs.driver.driven_sweep import DrivenSweep
from tests.tune_jobs.synthetic import wide_ledger, write
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.analysis.top import read_sweeps
from tune_jobs.analysis.week_sources import read_output
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.report.anomalies import find_anomalies
from tune_jobs.report.build import build_report

ODD_LINES = (
    b'{"event": "reported", "number": 1, "evalua',
    b"[1, 2]",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
    b'{"event": "saved", "number": 1, "folder": "x", "more": ' + b"[" * 60 + b"]" * 60 + b"}",
    b'{"event": "waits", "reason": "", "number": ' + b"9" * 5000 + b"}",
    b'{"event": "waits", "reason": "", "number": 1e5000}',
    b'{"event": "reported", "number": 1, "evaluation": 1, "value": NaN, "metrics": {}}',
    b'{"event": "waits", "reason": "none has a number"}',
    b'{"event": "waits", "reason": "", "number": true}',
    b'{"event": "waits", "reason": "", "number": "1"}',
    b'{"number": 1}',
    b'{"event": ["submitted"], "number": 1}',
    b'{"event": "of another version", "number": 1}',
    b'{"event": "trial"}',
    b'{"event": "trial", "trial_id": "1", "name": "a", "sweep": "s", "status": "finished", "wall_s": -1}',
    b'{"event": "trial", "trial_id": "1", "name": "a", "sweep": "s", "status": "finished", "sampled": {"x": {}}}',
    b'{"event": "trial", "trial_id": "1", "name": "a", "sweep": "s", "status": "finished", "plan": {"ranks": "x"}}',
    b'{"event": "started", "number": 1, "bundle": {"gpus": "x"}, "at": 1, "elapsed_s": 1}',
    b'{"event": "started", "number": 1, "bundle": {}}',
    b'{"event": "submitted", "number": 1, "spec": {"config": {}}}',
    b'{"event": "ended", "number": 1, "status": "gone", "reason": ""}',
)


def test_each_odd_line_of_a_journal_is_named_and_the_sweep_is_resumed(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path / "sweep_results" / "small")
    first.start_all()
    first.report(1, 5.0)
    first.save(1)
    path = first.folder.path / "journal.jsonl"
    whole, before = path.read_bytes().splitlines(), Journal(path).trials
    path.write_bytes(b"\n".join([*whole, *ODD_LINES]) + b"\n")
    journal = Journal(path)
    assert sorted(journal.torn) == list(range(len(whole) + 1, len(whole) + len(ODD_LINES) + 1))
    assert all(journal.torn.values())
    assert journal.trials == before
    second = DrivenSweep(first.folder.path).finish(lambda number, evaluation: 5.0)
    assert second.statuses == dict.fromkeys((1, 2, 3, 4), "finished")


def test_each_odd_line_of_a_ledger_is_named_in_the_report_and_costs_nobody_the_week(tmp_path: Path) -> None:
    folder = write(SweepFolder.of(tmp_path, "odd").path, wide_ledger(8))
    write(SweepFolder.of(tmp_path, "well").path, wide_ledger(4, seed=3))
    trials = folder.load().trials
    with folder.ledger.open("ab") as stream:
        stream.write(b"\n".join(ODD_LINES) + b"\n")
    ledger = folder.load()
    assert ledger.trials == trials
    assert len(ledger.torn) == len(ODD_LINES)
    assert all(len(text) <= 200 for text in ledger.torn)
    (found,) = [text for text in find_anomalies(analyse(ledger), ()) if "could not be read" in text]
    assert found.startswith(
        f"{len(ODD_LINES)} lines of the ledger could not be read, so trials may be missing: line 10"
    )
    assert f"{len(ODD_LINES)} torn lines of the ledger" in build_report(folder.path).html.read_text(encoding="utf-8")
    source = read_output(tmp_path)
    assert len(source.runs) == 12
    assert source.remarks[0].startswith(f"{len(ODD_LINES)} torn lines of odd could not be read: line 10: ")


@pytest.mark.parametrize("name", ["journal.jsonl", "all_results.jsonl"])
@settings(max_examples=25)
@given(
    place=st.integers(0, 10**6),
    odd=st.sampled_from(
        [None, -1, 0, 1e308, 10**17, "x", "", [], {}, True, [1, "x"], {"a": {"b": []}}, "../..", ["/etc"]]
    ),
)
def test_any_value_may_be_another_one(
    name: str, place: int, odd: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    sweep = DrivenSweep(folder / "sweep_results" / "small")
    sweep.start_all()
    for _ in range(3):
        sweep.run_evaluation(1, 5.0)
    sweep.report(2, 4.0)
    sweep.save(2)
    path = sweep.folder.path / name
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    inner = [(number, one) for number, record in enumerate(records) for one in _paths(record)]
    number, keys = inner[place % len(inner)]
    target = records[number]
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = odd
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    analyse(sweep.folder.load())
    read_sweeps(folder, 1e9)
    DrivenSweep(sweep.folder.path).finish(lambda number, evaluation: 5.0)


def _paths(value: Mapping[str, object], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys of every value of a mapping."""
    found = []
    for key, item in value.items():
        found.append((*above, key))
        found += _paths(item, (*above, key)) if isinstance(item, dict) else []
    return found
