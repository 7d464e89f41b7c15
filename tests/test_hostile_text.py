"""Text from data stays text: in Markdown, on a terminal and in a spreadsheet; and a model's folder asks for nothing."""

import builtins
import csv
import doctest
import io
import json
import logging
import shutil
from pathlib import Path

import pytest

import dialsum.finished
import tune_jobs.report.markdown
import tuning_common.cli
from dialsum.config import RunConfig
from dialsum.finished import submission
from dialsum.models import build_model
from dialsum.tokenizers import build_tokenizer
from dialsum.trainer import train
from tests.dialsum.test_trainer import write_data
from tests.tune_jobs.synthetic import wide_ledger, write
from tune_jobs.driver.view import LogView
from tune_jobs.report.build import build_report
from tune_jobs.report.findings import find_findings
from tune_jobs.report.markdown import code, markdown_table
from tune_jobs.report.review import build_review
from tuning_common.errors import RequestError, WorkError

ATTACKS = (
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![pixel](//evil.example/p.png)",
    "\\[click](//evil.example)",
    "`x` <b> `[y](//evil.example)",
    "https://evil.example and www.evil.example",
    "\x1b]0;title\x07\x1b[2J\x9b31m",
)


def test_worked_examples_are_right() -> None:
    modules = (tuning_common.cli, dialsum.finished, tune_jobs.report.markdown)
    assert [doctest.testmod(module).failed for module in modules] == [0, 0, 0]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_cell_is_text(attack: str) -> None:
    (_, _, row) = markdown_table(("a",), [(attack,)]).split("\n")
    bare = row.replace("\\\\", "").replace("\\[", "").replace("\\]", "")
    assert not set("<[]\x1b\x9b\x07") & set(bare)
    assert "://" not in bare
    assert "www." not in bare


@pytest.mark.parametrize("attack", ATTACKS)
def test_report_and_review_carry_no_markup_of_a_name(tmp_path: Path, attack: str) -> None:
    folder = write(tmp_path / "sweep", wide_ledger(8))
    hostile = json.dumps(attack)[1:-1]
    folder.ledger.write_text(folder.ledger.read_text(encoding="utf-8").replace("kobart", hostile), encoding="utf-8")
    text = build_report(folder.path).markdown.read_text(encoding="utf-8") + build_review(find_findings(folder.path))
    assert "evil" in text or "x" in text
    for active in ("<img", "<b>", "](javascript", "](//evil", "https://evil", " www.evil", "\x1b", "\x9b"):
        assert active not in text.replace("\\]", "")


def test_a_command_cannot_leave_its_code_span() -> None:
    assert code("run `<script>`.yaml") == "`` run `<script>`.yaml ``"
    assert code("a ``` b") == "```` a ``` b ````"


def test_a_terminal_gets_no_control_characters_of_data(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\x9b\r\x07\x7f"
    tuning_common.cli.emit(tuning_common.cli.table(["name"], [[hostile]]))
    tuning_common.cli.note(hostile)
    tuning_common.cli.pass_on(f"{hostile}\n")
    for error in (RequestError(hostile, [hostile]), WorkError(hostile)):

        def fail(arguments: object, error: Exception = error) -> int:
            raise error

        assert tuning_common.cli.run(fail, []) in (1, 2)
    stream = io.StringIO()
    LogView(stream).event(hostile)
    record = logging.LogRecord("dialsum", logging.WARNING, "", 0, "%s", (hostile,), None)
    out, err = capsys.readouterr()
    for text in (out, err, stream.getvalue(), tuning_common.cli.VisibleFormatter().format(record)):
        assert "a\\x1b[2J\\x9b" in text
        assert not set("\x1b\x9b\r\x07\x7f") & set(text)
    tuning_common.cli.emit("요약 — ok\tx")
    assert capsys.readouterr().out == "요약 — ok\tx\n"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t"])
def test_a_spreadsheet_computes_nothing(begin: str) -> None:
    hostile = f"{begin}cmd|' /C calc'!A0"
    (_, row) = csv.reader(io.StringIO(submission([hostile], [hostile]), newline=""))
    assert row == ["0", f"'{hostile}", f"'{hostile}"]


def test_a_carriage_return_begins_no_row_of_a_spreadsheet() -> None:
    text = submission(["a"], ["b\r=1+1"])
    assert "\r" not in text
    assert [*csv.reader(io.StringIO(text, newline=""))][1] == ["0", "a", "b\n=1+1"]


@pytest.mark.parametrize("known", [True, False], ids=["known family", "unknown family"])
def test_nobody_is_asked_to_run_a_model_s_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    values = write_data(tmp_path) | {"num_epochs": 1}
    best = train(RunConfig.from_dict(values), tmp_path / "run", cache_dir=tmp_path / "cache").best_model_dir
    folder, mark = tmp_path / "model", tmp_path / "the_payload_ran"
    shutil.copytree(best, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Config"}
    config["model_type"] = config["model_type"] if known else "evil"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens["auto_map"] = {"AutoTokenizer": ["evil.Config", "evil.Config"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    asked: list[object] = []

    def answer(*question: object) -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    run = RunConfig.from_dict(values | {"model": str(folder)})
    if known:
        build_model(run, build_tokenizer(run, [], tmp_path / "cache"))
    else:
        with pytest.raises(RequestError, match="cannot be loaded"):
            build_model(run, build_tokenizer(run, [], tmp_path / "cache"))
    assert asked == []
    assert not mark.exists()
