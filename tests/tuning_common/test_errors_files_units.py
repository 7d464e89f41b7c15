"""Errors list everything and survive a process border; files are whole; units read as people write them."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.files import append_jsonl, read_jsonl, write_json, write_text
from tuning_common.units import format_duration, parse_bytes, parse_duration


def test_a_folder_below_a_file_is_a_wrong_request_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def work(arguments: Sequence[str]) -> int:
        write_text(tmp_path / "file" / "out" / "a.txt", "")
        return 0

    assert cli.run(work, []) == 2
    assert "file" in (said := capsys.readouterr().err)
    assert "Not a directory; give another folder" in said


def test_request_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RequestError("two problems", ["a", "b"])))  # noqa: S301  # our own bytes
    assert (error.message, error.problems, error.exit_code) == ("two problems", ("a", "b"), 2)


def test_problems_are_raised_together() -> None:
    problems = Problems().extend(["first", "second"])
    with pytest.raises(RequestError, match="2 problems") as caught:
        problems.raise_if_any("a.yaml")
    assert caught.value.problems == ("first", "second")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_json(target, {"score": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"score": float("nan")})
    assert json.loads(target.read_text()) == {"score": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    ledger = tmp_path / "all.jsonl"
    append_jsonl(ledger, {"trial": 1})
    with ledger.open("a") as stream:
        stream.write('{"trial": 2, "sco')
    append_jsonl(ledger, {"trial": 3, "name": "요약"})
    assert read_jsonl(ledger) == ([{"trial": 1}, {"trial": 3, "name": "요약"}], 1)


def test_a_missing_ledger_is_empty(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "none.jsonl") == ([], 0)


def test_write_text_makes_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "대화")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "대화"


@given(st.integers(min_value=0, max_value=2**50))
def test_bytes_written_as_b_come_back(size: int) -> None:
    assert parse_bytes(f"{size} B") == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "24 bananas", "-1GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "5", "1x", "h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


def test_durations_read_well() -> None:
    assert format_duration(parse_duration("1h30m")) == "1 h 30 min"
