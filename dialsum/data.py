"""Reads dialogue files: CSV and JSON lines with `fname, dialogue, summary[, topic]`.

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


def load_examples(path: Path, *, require_summary: bool = True) -> list[Example]:
    """Reads and cleans a dialogue file.

    Args:
        path: `.csv` (UTF-8, comma, a header line; an unnamed index column is ignored) or `.jsonl`.
        require_summary: False for dialogues without references.

    Returns:
        The examples in the order of the file.

    Raises:
        RequestError: When the file cannot be read, has no row, lacks a column, or has a fault in any row: broken JSON,
            an empty dialogue or summary, a duplicate name. Lists all faults with their lines.
    """
    text = _read_text(path)
    faults: list[_Fault] = []
    if path.suffix.lower() == ".csv":
        rows = list(_csv_rows(path, text, require_summary, faults))
    elif path.suffix.lower() in JSON_LINES_SUFFIXES:
        rows = list(_json_rows(text, faults))
    else:
        raise RequestError(f"{path}: unknown kind of file {path.suffix!r}; give a .csv or a .jsonl file")
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
        advice = "save it as UTF-8 (Excel: 'CSV UTF-8'), or convert it: iconv -f CP949 -t UTF-8"
        raise RequestError(f"{path}: not UTF-8 text", [f"{path}:{line}: byte {error.start}; {advice}"]) from None


def _csv_rows(path: Path, text: str, require_summary: bool, faults: list[_Fault]) -> Iterator[_Row]:
    previous_limit = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
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
    if require_summary and not any(_SUMMARY_COLUMN.fullmatch(name) for name in named):
        problems.append(f"{path}:1: the label column 'summary' is missing{nearest('summary', named)}")
    problems += [f"{path}:1: column {name!r} is repeated" for name in sorted({n for n in named if named.count(n) > 1})]
    if problems:
        found = ", ".join(named) or "nothing"
        raise RequestError(f"{path}: wrong columns (found: {found}); needed: {_WHAT_WORKS}", problems)


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
