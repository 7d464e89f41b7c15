"""`run` says what a careful person would do otherwise, and `--strict` refuses before anything is started."""

import json
from pathlib import Path

import pytest

from tune_jobs.__main__ import main
from tuning_common import cli

SWEEP = """
name: hurried
program: train.py
method: random
count: 3
metric: {name: eval/loss}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-4, max: 1e-2}
  model: {value: tiny-bart}
  train_file: {value: rows.jsonl}
  dev_file: {value: rows.jsonl}
"""
REMARK = (
    "trials are compared by eval/loss: a lower loss does not always summarize better. "
    "Better: metric: {name: eval/rouge_combined_f1}, which weighs ROUGE-1, ROUGE-2 and ROUGE-L"
)


def write_data() -> None:
    row = {"dialogue": "#Person1#: 점심 먹었어요? #Person2#: 아직이요.", "summary": "점심을 먹지 않았다."}
    Path("rows.jsonl").write_text("\n".join(json.dumps(row | {"fname": str(number)}) for number in range(20)))


def test_warnings_and_notes_are_printed_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hurried.yaml").write_text(SWEEP)
    write_data()
    assert cli.run(main, ["run", "hurried.yaml", "--cpu-only", "--start-at", "noonish"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "note: hurried.yaml:3: program 'train.py' is not run; python -m dialsum train is"
    assert shown[1] == f"warning: {REMARK}"
    assert shown[-1].startswith("error: ")  # the time
    assert "noonish" in shown[-1]


def test_strict_refuses_with_every_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hurried.yaml").write_text(SWEEP)
    write_data()
    assert cli.run(main, ["run", "hurried.yaml", "--cpu-only", "--strict"]) == 2
    assert capsys.readouterr().err.endswith(f"error: hurried.yaml: refused by --strict\n  - {REMARK}\n")
    assert not Path("outputs").exists()
