"""Reads dialogue files with `fname, dialogue, summary[, topic]`: CSV, JSON, JSON lines, Parquet, Arrow, datasets.

A file with faults is refused, with every fault and its line; no row is skipped silently.
"""

import csv
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dialsum.cleaning import clean_text
from dialsum.tables import is_table, read_table
from tuning_common.errors import RequestError
from tuning_common.files import write_text
from tuning_common.strict import nearest

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
SHOWN_PER_KIND = 5  # bounds the message for a file with many faults
MAX_CELL_CHARS = 10_000_000
_SUMMARY_COLUMN = re.compile(r"summary\d*")
_TOPIC_COLUMN = re.compile(r"topic\d*")
_WHAT_WORKS = "columns or keys `fname, dialogue, summary[, topic]`, or `summary1, summary2, ...` for several references"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One dialogue with its reference summaries.

    Attributes:
        fname: Name, unique in its file.
        dialogue: Cleaned turns, one per line.
        summaries: Cleaned references; empty where the file has none and none is needed.
        topic: A few words, or None.
    """

    fname: str
    dialogue: str
    summaries: tuple[str, ...]
    topic: str | None = None


@dataclasses.dataclass(frozen=True)
class _Fault:
    line: int
    kind: str
    detail: str


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    values: Mapping[str, object]


def load_examples(path: Path, *, require_summary: bool = True, columns: Sequence[str] = ()) -> list[Example]:
    """Reads and cleans a dialogue file.

    Args:
        path: `.csv` (UTF-8, comma, a header line; an unnamed index column is ignored), `.jsonl`, `.json` (a list of
            objects), `.parquet`, `.arrow`, or a folder that `datasets.save_to_disk` wrote.
        require_summary: False for dialogues without references.
        columns: Names of columns in the file, for example `dialogue=text`; see RunConfig.columns.

    Returns:
        The examples in the order of the file.

    Raises:
        RequestError: When the file cannot be read, has no row, lacks a column, or has a fault in any row: broken JSON,
            an empty dialogue or summary, a duplicate name. Lists all faults with their lines.
    """
    faults: list[_Fault] = []
    names = {theirs: ours for ours, _, theirs in (one.partition("=") for one in columns)}
    kind = path.suffix.lower()
    if path.exists() and is_table(path):
        header, values = read_table(path)
        _check_header(path, _renamed(header, names), require_summary)
        rows = [_Row(number, _several(_with_names(row, names))) for number, row in enumerate(values, start=1)]
    elif kind == ".csv":
        rows = list(_csv_rows(path, _read_text(path), require_summary, names, faults))
    elif kind in JSON_LINES_SUFFIXES or kind == ".json":
        read = _json_rows(_read_text(path), faults) if kind != ".json" else _json_document(path, faults)
        rows = [_Row(row.line, _several(_with_names(row.values, names))) for row in read]
    elif not path.exists():
        _read_text(path)
        rows = []
    else:
        raise RequestError(
            f"{path}: unknown kind of file {path.suffix!r}; give a .csv, .jsonl, .json, .parquet or .arrow file, or a"
            " folder of datasets.save_to_disk"
        )
    if not rows and not faults:
        raise RequestError(f"{path}: holds no dialogue; needed: {_WHAT_WORKS}")
    examples = [example for row in rows if (example := _example(row, require_summary, faults)) is not None]
    faults += _repeated_names(rows)
    if faults:
        noun = "fault" if len(faults) == 1 else "faults"
        raise RequestError(f"{path}: {len(faults)} {noun}; nothing was read", _describe(path, faults))
    return examples


def fingerprint(examples: Sequence[Example]) -> str:
    """Returns the SHA-256 of examples, as the identity of data in results and caches.

    The same dialogues give the same fingerprint from CSV and JSON lines; any change of text or order changes it.

    >>> fingerprint([Example(fname="a", dialogue="#Person1#: 네.", summaries=("끝.",))])[:16]
    'ac82748f6358036a'
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(dataclasses.asdict(example), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes JSON lines for load_examples: `summary` for one reference, `summary1..n` for several."""
    write_text(path, "".join(json.dumps(_record(example), ensure_ascii=False) + "\n" for example in examples))


def _record(example: Example) -> dict[str, str]:
    single = len(example.summaries) == 1
    summaries = {"summary" if single else f"summary{n}": text for n, text in enumerate(example.summaries, start=1)}
    topic = {} if example.topic is None else {"topic": example.topic}
    return {"fname": example.fname, "dialogue": example.dialogue, **summaries, **topic}


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        remedy = "; `python -m dialsum sample-data --output outputs/sample_data` writes sample dialogues"
        raise RequestError(f"{path}: no such file (working folder: {Path.cwd()}){remedy}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")  # Excel puts a byte order mark before UTF-8
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = _encoding_of(raw)
        advice = f"save it as UTF-8 (Excel: 'CSV UTF-8'), or convert it: iconv -f {found or 'CP949'} -t UTF-8"
        seems = f", it seems to be {found}" if found else ""
        raise RequestError(f"{path}: not UTF-8 text{seems}", [f"{path}:{line}: byte {error.start}; {advice}"]) from None


def _encoding_of(raw: bytes) -> str:
    """Returns the encoding of Korean text that is not UTF-8; empty where it is unknown.

    >>> _encoding_of("요약,대화".encode("cp949")), _encoding_of("a".encode("utf-16"))
    ('CP949', 'UTF-16')
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        text = raw.decode("cp949")
    except UnicodeDecodeError:
        return ""
    return "CP949" if re.search("[가-힣]", text) else ""


def _renamed(header: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Returns our names of columns; one that another column replaces has none.

    >>> _renamed(["text", "dialogue"], {"text": "dialogue"}), _renamed(["dialogue"], {"text": "dialogue"})
    (['dialogue', ''], ['dialogue'])
    """
    there = {theirs: ours for theirs, ours in names.items() if theirs in header}  # other files may have our names
    return [there.get(name, "" if name in there.values() else name) for name in header]


def _with_names(values: Mapping[str, object], names: Mapping[str, str]) -> Mapping[str, object]:
    renamed = zip(_renamed(list(values), names), values.values(), strict=True)
    return {name: value for name, value in renamed if name} if names else values


def _several(values: Mapping[str, object]) -> Mapping[str, object]:
    """Returns a row whose list of references, as `summary` or `summaries`, has become summary1, summary2 and so on."""
    for name in ("summary", "summaries"):
        listed = values.get(name)
        if isinstance(listed, list):
            rest = {key: value for key, value in values.items() if key != name}
            return rest | {f"summary{number}": text for number, text in enumerate(listed, start=1)}
    return values


def _csv_rows(
    path: Path, text: str, require_summary: bool, names: Mapping[str, str], faults: list[_Fault]
) -> Iterator[_Row]:
    previous_limit = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = _renamed([name.strip() for name in next(reader, [])], names)
        _check_header(path, header, require_summary)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                faults.append(_Fault(line, "broken CSV", f"broken CSV: {error}; is a quotation mark not closed?"))
                return  # rows after a broken quotation cannot be separated
            if not cells:
                continue
            if len(cells) != len(header):
                detail = f"has {len(cells)} cells, but the header names {len(header)}"
                faults.append(_Fault(line, "wrong number of cells", detail))
                continue
            yield _Row(line, {name: cell for name, cell in zip(header, cells, strict=True) if name})
    finally:
        csv.field_size_limit(previous_limit)


def _check_header(path: Path, header: list[str], require_summary: bool) -> None:
    problems = []
    named = [name for name in header if name]
    for needed in ("fname", "dialogue"):
        if needed not in named:
            problems.append(f"{path}:1: column {needed!r} is missing{nearest(needed, named)}")
    if require_summary and not any(_SUMMARY_COLUMN.fullmatch(name) or name == "summaries" for name in named):
        problems.append(f"{path}:1: the label column 'summary' is missing{nearest('summary', named)}")
    problems += [f"{path}:1: column {name!r} is repeated" for name in sorted({n for n in named if named.count(n) > 1})]
    if problems:
        found = ", ".join(named) or "nothing"
        hint = "; other names: columns: {dialogue: text, summary: label}"
        raise RequestError(f"{path}: wrong columns (found: {found}); needed: {_WHAT_WORKS}{hint}", problems)


def _json_document(path: Path, faults: list[_Fault]) -> Iterator[_Row]:
    """Reads a JSON file: a list of objects, an object with one such list, or JSON lines."""
    text = _read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _json_rows(text, faults)
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    return _objects(content, faults) if isinstance(content, list) else _json_rows(text, faults)


def _objects(content: Sequence[object], faults: list[_Fault]) -> Iterator[_Row]:
    for number, values in enumerate(content, start=1):
        if isinstance(values, dict):
            yield _Row(number, values)
        else:
            faults.append(_Fault(number, "not a JSON object", f"must be an object, but is {type(values).__name__}"))


def _json_rows(text: str, faults: list[_Fault]) -> Iterator[_Row]:
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError) as error:  # also huge numbers and deep nesting
            at = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            detail = f"broken JSON: {at}; each line must be one whole JSON object"
            faults.append(_Fault(line, "broken JSON", detail))
            continue
        if isinstance(values, dict):
            yield _Row(line, values)
        else:
            detail = f"must be a JSON object, but is {type(values).__name__}"
            faults.append(_Fault(line, "not a JSON object", detail))


def _example(row: _Row, require_summary: bool, faults: list[_Fault]) -> Example | None:
    before = len(faults)
    fname = _text(row, "fname", faults, needed=True)
    dialogue = _text(row, "dialogue", faults, needed=True)
    names = sorted((key for key in row.values if _SUMMARY_COLUMN.fullmatch(key)), key=lambda key: (len(key), key))
    if require_summary and not names:
        hint = nearest("summary", list(row.values))
        faults.append(_Fault(row.line, "missing summary", f"the label 'summary' is missing{hint}"))
    if "summary" in names and len(names) > 1:
        faults.append(_Fault(row.line, "two kinds of summary", f"has {', '.join(names)}: give summary or summary1..n"))
    summaries = [_text(row, name, faults, needed=require_summary) for name in names]
    topics = sorted(key for key in row.values if _TOPIC_COLUMN.fullmatch(key))
    topic = _text(row, topics[0], faults, needed=False) if topics else ""
    if len(faults) > before:
        return None
    return Example(fname=fname, dialogue=dialogue, summaries=tuple(filter(None, summaries)), topic=topic or None)


def _text(row: _Row, name: str, faults: list[_Fault], *, needed: bool) -> str:
    value = row.values.get(name)
    if value is not None and not isinstance(value, str):
        kind = f"{name} is no text"
        faults.append(_Fault(row.line, kind, f"{name} must be text, but is {type(value).__name__}"))
        return ""
    text = clean_text(value or "")
    if needed and not text:
        state = "empty" if name in row.values else "missing"
        faults.append(_Fault(row.line, f"{state} {name}", f"{name} is {state}"))
    return text


def _repeated_names(rows: Sequence[_Row]) -> Iterator[_Fault]:
    first: dict[str, int] = {}
    for row in rows:
        value = row.values.get("fname")
        name = clean_text(value) if isinstance(value, str) else ""
        if name and first.setdefault(name, row.line) != row.line:
            yield _Fault(row.line, "repeated fname", f"fname {name!r} is already in line {first[name]}")


def _describe(path: Path, faults: Sequence[_Fault]) -> list[str]:
    """Lists faults by line; of each kind only the first few, then the number of the others."""
    kinds: dict[str, list[_Fault]] = {}
    for fault in sorted(faults, key=lambda one: one.line):
        kinds.setdefault(fault.kind, []).append(fault)
    texts: list[str] = []
    for kind, found in kinds.items():
        texts += [f"{path}:{fault.line}: {fault.detail}" for fault in found[:SHOWN_PER_KIND]]
        more = found[SHOWN_PER_KIND:]
        if more:
            texts.append(f"{path}: {len(more)} more lines with: {kind} (lines {more[0].line} to {more[-1].line})")
    return texts
