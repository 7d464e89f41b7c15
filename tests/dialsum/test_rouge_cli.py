"""`python -m dialsum rouge` reads texts and JSON lines, pairs them up, and refuses what does not fit."""

import json
from pathlib import Path

import pytest

from common.errors import RequestError
from dialsum.__main__ import main
from dialsum.rouge_cli import read_texts


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
    path = write(tmp_path / "p.jsonl", '{"prediction": "a"}', '{"prediction": ', '{"other": 1}')
    with pytest.raises(RequestError) as caught:
        read_texts(path)
    assert caught.value.problems == (
        f"{path}:2: not a JSON object: Expecting value",
        f"{path}:3: holds no text under prediction, summary, reference, text",
    )


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_texts(tmp_path / "none.txt")
