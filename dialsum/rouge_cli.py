"""python -m dialsum rouge: scores a file of summaries against one or several files of references."""

import argparse
import csv
import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.units import counted

_PREDICTION_KEYS = ("prediction", "summary", "text")  # keys of a record's text, in this order
_REFERENCE_KEYS = ("references", "reference", "summary", "text")
_NUMBERED = re.compile(r"summary\d+")
_SHOWN_NAMES = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of a file: its texts, and its name for pairing files; None in plain text."""

    fname: str | None
    texts: tuple[str, ...]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m dialsum`."""
    parser = commands.add_parser(
        "rouge",
        help="score summaries against references",
        description="ROUGE F1, 0 to 100: Kiwi morphemes for Korean, Porter stems for English; references are averaged."
        " Files are paired by fname where all have one, else line by line.",
        epilog="example: python -m dialsum rouge --predictions p.txt --references r1.txt --language ko",
    )
    kinds = "one text per line, JSON lines, or CSV"
    parser.add_argument("--predictions", type=Path, required=True, help=kinds)
    parser.add_argument("--references", type=Path, required=True, action="append", help=f"{kinds}; repeatable")
    parser.add_argument("--language", choices=("ko", "en"), required=True)
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Scores the files and prints the result.

    Raises:
        RequestError: When a file cannot be read or the files do not match.
    """
    predictions = read_entries(chosen.predictions, _PREDICTION_KEYS)
    references = pair(chosen.predictions, predictions, {path: read_entries(path) for path in chosen.references})
    from dialsum.metrics import RougeScorer

    scores = RougeScorer(chosen.language).score([entry.texts[0] for entry in predictions], references)
    numbers = scores.to_dict()
    rows = [[name, f"{value:.2f}"] for name, value in numbers.items() if isinstance(value, float) and "f1" in name]
    shown = cli.table(["score", "value"], rows) + f"\n{counted(scores.count, 'summary', 'summaries')}"
    cli.answer(chosen.format, numbers, shown)
    return 0


def pair(path: Path, predictions: Sequence[Entry], files: Mapping[Path, Sequence[Entry]]) -> list[list[str]]:
    """Finds the references of each prediction.

    Args:
        path: The predictions' file, for messages.
        predictions: Its entries.
        files: Entries of each file of references.

    Returns:
        For each prediction the texts of all files.

    Raises:
        RequestError: When files differ in length, or a prediction's name is missing or repeated in one of them.
    """
    problems = Problems()
    found: list[list[str]] = [[] for _ in predictions]
    for file, entries in files.items():
        if all(entry.fname for entry in (*predictions, *entries)):
            problems.extend(_unmatched(path, predictions, file, entries))
            texts = {entry.fname: entry.texts for entry in entries}
            for group, prediction in zip(found, predictions, strict=True):
                group.extend(texts.get(prediction.fname, ()))
        elif len(entries) != len(predictions):
            problems.add(f"{file} has {len(entries)} texts, {path} has {len(predictions)}; each needs its pair")
        else:
            for group, entry in zip(found, entries, strict=True):
                group.extend(entry.texts)
    problems.raise_if_any("rouge")
    return found


def _unmatched(path: Path, predictions: Sequence[Entry], file: Path, entries: Sequence[Entry]) -> list[str]:
    problems = []
    for where, names in ((path, [entry.fname for entry in predictions]), (file, [entry.fname for entry in entries])):
        twice = sorted(str(name) for name, count in Counter(names).items() if count > 1)
        if twice:
            problems.append(f"{where}: fname is repeated: {_some(twice)}")
    wanted, known = ({str(entry.fname) for entry in group} for group in (predictions, entries))
    if wanted - known:
        problems.append(f"{file}: has no reference for {_some(sorted(wanted - known))} of {path}")
    if known - wanted:
        problems.append(f"{path}: has no prediction for {_some(sorted(known - wanted))} of {file}")
    return problems


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def read_entries(path: Path, keys: Sequence[str] = _REFERENCE_KEYS) -> list[Entry]:
    """Reads texts to score.

    Args:
        path: UTF-8. A `.csv` file with a header; JSON objects, one per line; or one text per line, where a blank line
            is an empty summary.
        keys: Keys of the text in an object or row; the first that exists counts. For references also
            `summary1, summary2, ...`.

    Raises:
        RequestError: When the file cannot be read or is empty, and with every line that is broken or holds no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file (working folder: {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    problems = Problems()
    lines = text.removesuffix("\n").split("\n")  # splitlines() would also split at characters inside texts
    if path.suffix.lower() == ".csv":
        entries = _csv_entries(path, text, keys, problems)
    elif lines[0].lstrip().startswith("{"):
        entries = [_json_entry(line, f"{path}:{number}", keys, problems) for number, line in enumerate(lines, start=1)]
    else:
        entries = [Entry(None, (line.rstrip("\r"),)) for line in lines]
    problems.raise_if_any(str(path))
    if not text.strip() or not entries:
        raise RequestError(f"{path}: is empty; write one text per line")
    return entries


def _csv_entries(path: Path, text: str, keys: Sequence[str], problems: Problems) -> list[Entry]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [_entry(row, f"{path}:{reader.line_num}", keys, problems) for row in reader]
    except csv.Error as error:
        problems.add(f"{path}:{reader.line_num}: broken CSV: {error}")
        return []


def _json_entry(line: str, where: str, keys: Sequence[str], problems: Problems) -> Entry:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problems.add(f"{where}: not a JSON object: {error.msg}")
        return Entry(None, ())
    return _entry(record if isinstance(record, dict) else {}, where, keys, problems)


def _entry(record: Mapping[str, object], where: str, keys: Sequence[str], problems: Problems) -> Entry:
    found = [record[key] for key in keys if key in record][:1]
    numbered = sorted((key for key in record if _NUMBERED.fullmatch(str(key))), key=lambda key: (len(key), key))
    if not found and keys == _REFERENCE_KEYS:
        found = [[record[key] for key in numbered]]
    texts = found[0] if found and isinstance(found[0], list) else found
    if not texts or not all(isinstance(text, str) for text in texts):
        problems.add(f"{where}: holds no text under {', '.join(keys)}")
        return Entry(None, ())
    fname = record.get("fname")
    return Entry(fname if isinstance(fname, str) and fname else None, tuple(str(text) for text in texts))
