"""Dialogue files: what is read, what is refused, and with which words."""

import csv
import json
import os
from pathlib import Path

import pytest

from dialsum.data import Example, fingerprint, load_examples, write_examples
from tuning_common.errors import RequestError

SHARED = Path(os.environ.get("DIALSUM_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
GOOD = [
    {"fname": "a", "dialogue": "#Person1#: 안녕?\n#Person2#: 응.", "summary": "둘이 인사한다.", "topic": "인사"},
    {"fname": "b", "dialogue": "#Person1#: 내일 봐.", "summary": "내일 만난다.", "topic": "약속"},
]


def write_lines(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_table(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def refused(path: Path, *, require_summary: bool = True) -> RequestError:
    with pytest.raises(RequestError) as caught:
        load_examples(path, require_summary=require_summary)
    assert str(path) in caught.value.message
    return caught.value


def test_json_lines_and_csv_hold_the_same_examples(tmp_path: Path) -> None:
    from_json = load_examples(write_lines(tmp_path / "a.jsonl", *GOOD))
    from_csv = load_examples(write_table(tmp_path / "a.csv", GOOD, encoding="utf-8-sig"))
    assert from_json == from_csv
    assert from_json[0] == Example(
        fname="a", dialogue="#Person1#: 안녕?\n#Person2#: 응.", summaries=("둘이 인사한다.",), topic="인사"
    )
    assert fingerprint(from_json) == fingerprint(from_csv)


def test_an_unnamed_index_column_is_passed_over(tmp_path: Path) -> None:
    rows = [{"": str(n), **row} for n, row in enumerate(GOOD)]
    assert load_examples(write_table(tmp_path / "a.csv", rows)) == load_examples(
        write_lines(tmp_path / "a.jsonl", *GOOD)
    )


def test_several_references_keep_their_order(tmp_path: Path) -> None:
    row = {"fname": "a", "dialogue": "가", **{f"summary{n}": f"요약 {n}" for n in (10, 2, 1)}, "topic1": "하나"}
    [example] = load_examples(write_lines(tmp_path / "a.jsonl", row))
    assert example.summaries == ("요약 1", "요약 2", "요약 10")
    assert example.topic == "하나"


def test_text_is_cleaned_when_read(tmp_path: Path) -> None:
    row = {"fname": "a", "dialogue": r"#PErson1#: 가\n#Person2#: 나<br>#Person1#: 다", "summary": " 끝 "}
    [example] = load_examples(write_lines(tmp_path / "a.jsonl", row))
    assert example.dialogue.split("\n") == ["#Person1#: 가", "#Person2#: 나", "#Person1#: 다"]
    assert example.summaries == ("끝",)


def test_dialogues_without_summaries_are_read_where_none_is_needed(tmp_path: Path) -> None:
    path = write_table(tmp_path / "test.csv", [{"fname": "a", "dialogue": "가"}])
    assert load_examples(path, require_summary=False) == [Example(fname="a", dialogue="가", summaries=())]


def test_a_missing_label_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", [{"fname": "a", "dialogue": "가", "sumary": "나"}])
    error = refused(path)
    assert error.problems == (f"{path}:1: the label column 'summary' is missing; did you mean 'sumary'?",)
    assert "found: fname, dialogue, sumary" in error.message
    assert error.exit_code == 2


def test_every_fault_of_a_json_lines_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        GOOD[0],
        '{"fname": "c", "dialogue": "가", "summary": ',
        {"fname": "d", "dialogue": "가", "summary": "  "},
        GOOD[0],
        [1, 2],
        {"fname": "e", "dialogue": 3, "summary": "나"},
        {"fname": "f", "dialogue": "가", "summery": "나"},
        {"dialogue": "가", "summary": "나", "summary1": "다"},
    )
    error = refused(path)
    assert "8 faults" in error.message
    assert [problem.removeprefix(f"{path}:") for problem in error.problems] == [
        "2: broken JSON: Expecting value at column 44; each line must be one whole JSON object",
        "3: summary is empty",
        "4: fname 'a' is already in line 1",
        "5: must be a JSON object, but is list",
        "6: dialogue must be text, but is int",
        "7: the label 'summary' is missing; did you mean 'summery'?",
        "8: fname is missing",
        "8: has summary, summary1: give summary or summary1..n",
    ]


def test_lines_of_a_csv_file_count_line_breaks_inside_cells(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", [*GOOD, {"fname": "c", "dialogue": "", "summary": "다", "topic": ""}])
    assert refused(path).problems == (f"{path}:5: dialogue is empty",)


def test_a_quotation_that_never_ends_is_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", "fname,dialogue,summary", 'a,"가', "b,나,다")
    [problem] = refused(path).problems
    assert problem.startswith(f"{path}:2: broken CSV")


def test_a_row_with_too_few_cells_is_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", "fname,dialogue,summary", "a,가", "b,나,다")
    assert refused(path).problems == (f"{path}:2: has 2 cells, but the header names 3",)


def test_many_faults_of_one_kind_fit_on_one_screen(tmp_path: Path) -> None:
    rows = [{"fname": str(n), "dialogue": "가", "summary": ""} for n in range(500)]
    error = refused(write_lines(tmp_path / "a.jsonl", *rows))
    assert "500 faults" in error.message
    assert len(error.problems) == 6
    assert error.problems[-1].endswith("495 more lines with: empty summary (lines 6 to 500)")


def test_korean_excel_files_get_advice(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", GOOD, encoding="cp949")
    [problem] = refused(path).problems
    assert "iconv -f CP949 -t UTF-8" in problem
    assert problem.startswith(f"{path}:2:")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "sample-data" in refused(tmp_path / "absent.jsonl").message
    assert ".json, .parquet or .arrow file" in refused(write_lines(tmp_path / "a.txt", "가")).message
    assert "holds no dialogue" in refused(write_lines(tmp_path / "a.jsonl", "")).message
    assert "holds no dialogue" in refused(write_lines(tmp_path / "a.csv", "fname,dialogue,summary")).message


@pytest.mark.parametrize("summaries", [("하나",), ("하나", "둘", "셋"), ()])
def test_written_examples_are_read_back(tmp_path: Path, summaries: tuple[str, ...]) -> None:
    examples = [Example(fname="a", dialogue="가\n나", summaries=summaries, topic="시험")]
    write_examples(tmp_path / "a.jsonl", examples)
    assert load_examples(tmp_path / "a.jsonl", require_summary=False) == examples


def test_the_fingerprint_changes_with_text_and_order() -> None:
    one, two = (Example(fname=name, dialogue="가", summaries=("나",)) for name in "ab")
    other = Example(fname="a", dialogue="가", summaries=("나 ",))
    assert len({fingerprint(data) for data in ([one, two], [two, one], [other, two], [one])}) == 4


@pytest.mark.skipif(not (SHARED / "data/dialogsum").is_dir(), reason=f"needs English DialogSum under {SHARED}")
def test_english_dialogsum_is_read_whole() -> None:
    train = load_examples(SHARED / "data/dialogsum/dialogsum.train.jsonl")
    test = load_examples(SHARED / "data/dialogsum/dialogsum.test.jsonl")
    assert (len(train), len(test)) == (12_460, 500)
    assert {len(example.summaries) for example in test} == {3}
    assert not any("#PErson2#" in example.dialogue for example in train)


def tables(folder: Path, rows: list[dict[str, object]]) -> dict[str, Path]:
    """Writes rows in every format that is no text, and as JSON."""
    import pyarrow
    from pyarrow import feather, parquet

    table = pyarrow.Table.from_pylist(rows)
    paths = {kind: folder / f"a.{kind}" for kind in ("parquet", "arrow", "feather", "json")}
    parquet.write_table(table, paths["parquet"])
    feather.write_feather(table, paths["feather"])
    saved = folder / "saved" / "train"
    saved.mkdir(parents=True)
    for path in (paths["arrow"], saved / "data-00000-of-00001.arrow"):
        with pyarrow.ipc.new_stream(path, table.schema) as stream:  # as datasets writes it
            stream.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    paths["json"].write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return paths | {"saved": saved}


def test_tables_hold_the_same_examples_as_text(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [dict(row) for row in GOOD]
    expected = load_examples(write_lines(tmp_path / "a.jsonl", *GOOD))
    for kind, path in tables(tmp_path, rows).items():
        assert load_examples(path) == expected, kind
    with pytest.raises(RequestError, match=r"holds several splits; name one: .*/saved/train"):
        load_examples(tmp_path / "saved")
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    assert load_examples(tmp_path / "a.json") == expected


def test_columns_of_other_names_and_lists_of_references_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": row["fname"], "text": row["dialogue"], "label": [row["summary"], "둘째."], "summary": "alt"}
        for row in GOOD
    ]
    names = ("fname=id", "dialogue=text", "summary=label")
    found = tables(tmp_path, rows)
    for kind, path in found.items():
        examples = load_examples(path, columns=names)
        assert [one.summaries for one in examples] == [(row["summary"], "둘째.") for row in GOOD], kind
    ours = write_lines(tmp_path / "ours.jsonl", *GOOD)
    assert load_examples(ours, columns=names) == load_examples(ours), "another file of the run may have our names"
    flat = [{**row, "label": row["label"][0]} for row in rows]  # type: ignore[index]
    path = write_table(tmp_path / "a.csv", flat)  # type: ignore[arg-type]
    assert [one.summaries for one in load_examples(path, columns=names)] == [(row["summary"],) for row in GOOD]


def test_every_fault_of_a_table_is_named_with_its_row(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{**GOOD[0]}, {**GOOD[0], "summary": ""}, {**GOOD[1], "dialogue": None}]
    found = tables(tmp_path, rows)
    for kind in ("parquet", "json", "saved"):
        error = refused(found[kind])
        assert [text.removeprefix(f"{found[kind]}:") for text in error.problems] == [
            "2: summary is empty",
            "2: fname 'a' is already in line 1",
            "3: dialogue is empty",
        ], kind
    other = tables(tmp_path / "other", [{"id": "a", "text": "b"}]) if (tmp_path / "other").mkdir() is None else {}
    error = refused(other["parquet"])
    assert "columns: {dialogue: text, summary: label}" in error.message
    assert len(error.problems) == 3
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no parquet")
    assert "cannot be read as a table" in refused(broken).message


def test_korean_text_of_windows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("fname,dialogue,summary\na,가나다,라\n".encode("cp949"))
    error = refused(path)
    assert error.message.endswith("not UTF-8 text, it seems to be CP949")
    assert error.problems[0].endswith("iconv -f CP949 -t UTF-8")
