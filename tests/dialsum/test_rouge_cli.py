"""`python -m dialsum rouge` reads texts and JSON lines, pairs them up, and refuses what does not fit."""

import json
from pathlib import Path

import pytest

from dialsum.__main__ import main
from dialsum.rouge_cli import Entry, pair, read_entries
from tuning_common.errors import RequestError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_english_scores_have_their_keys_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = str(write(tmp_path / "p.txt", "the cat sat", "a dog"))
    references = str(write(tmp_path / "r.jsonl", '{"summary": "the cat sat"}', '{"summary": "two cats"}'))
    flags = ["--language", "en", "--format", "json"]
    code = main(["rouge", "--predictions", predictions, "--references", references, *flags])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {name: found[name] for name in ("rouge1_f1", "rouge2_f1", "rougeL_f1", "count")} == {
        "rouge1_f1": 50.0, "rouge2_f1": 50.0, "rougeL_f1": 50.0, "count": 2,
    }  # fmt: skip
    assert found["rouge_combined_f1"] == pytest.approx(50.0)


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    predictions, references = write(tmp_path / "p.txt", "a", "b"), write(tmp_path / "r.txt", "a")
    with pytest.raises(RequestError, match=r"r\.txt has 1 texts, .*p\.txt has 2; each needs its pair"):
        main(["rouge", "--predictions", str(predictions), "--references", str(references), "--language", "en"])


def test_a_broken_json_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", '{"reference": "a"}', '{"reference": ', '{"other": 1}', "3", '{"text": 3}')
    with pytest.raises(RequestError) as caught:
        read_entries(path)
    assert caught.value.problems == (
        f"{path}:2: not a JSON object: Expecting value",
        f"{path}:3: holds no text under references, reference, summary, text",
        f"{path}:4: holds no text under references, reference, summary, text",
        f"{path}:5: holds no text under references, reference, summary, text",
    )


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_entries(tmp_path / "none.txt")


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_a_file_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(content)
    with pytest.raises(RequestError, match="is empty"):
        read_entries(path)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("one\u2028still one\r\n\ntwo\n".encode())
    assert [entry.texts for entry in read_entries(path)] == [("one\u2028still one",), ("",), ("two",)]


def test_several_references_stand_in_one_line_or_in_several_files(tmp_path: Path) -> None:
    numbered = write(tmp_path / "a.jsonl", '{"fname": "x", "summary1": "one", "summary10": "three", "summary2": "two"}')
    listed = write(tmp_path / "b.jsonl", '{"fname": "x", "prediction": "no", "references": ["four", "five"]}')
    plain = write(tmp_path / "c.txt", "six")
    files = {path: read_entries(path) for path in (numbered, listed, plain)}
    assert pair(tmp_path / "p", [Entry("x", ("p",))], files) == [["one", "two", "three", "four", "five", "six"]]


def test_named_texts_are_paired_by_name_and_not_by_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = write(tmp_path / "p.csv", ",fname,summary", '0,b,"a dog, barking"', "1,a,the cat sat")
    references = write(
        tmp_path / "r.jsonl",
        '{"fname": "a", "dialogue": "-", "summary": "the cat sat"}',
        '{"fname": "b", "dialogue": "-", "summary": "a dog, barking"}',
    )
    files = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["rouge", *files, "--language", "en", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rougeL_f1"] == 100.0


def test_names_that_do_not_match_are_all_listed(tmp_path: Path) -> None:
    predictions = [Entry(name, ("text",)) for name in ("a", "b", "b", "c", "d", "e", "f")]
    with pytest.raises(RequestError) as caught:
        pair(Path("p"), predictions, {Path("r"): [Entry("a", ("text",)), Entry("z", ("text",))]})
    assert caught.value.problems == (
        "p: fname is repeated: b",
        "r: has no reference for b, c, d and 2 more of p",
        "p: has no prediction for z of r",
    )


def test_a_broken_csv_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "fname,summary", 'a,"open')
    with pytest.raises(RequestError, match="broken CSV"):
        read_entries(path)
