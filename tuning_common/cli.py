"""Command lines: exit codes, one-screen errors, text for people and JSON for programs."""

import argparse
import codecs
import errno
import io
import json
import logging
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from tuning_common.errors import ProductError
from tuning_common.storage import storage_trouble

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OURS = ("tuning_common", "dialsum", "cluster", "tune_jobs")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}

_GAP = 3  # between two columns of a table

UNUSABLE_PATH = (NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)  # the user named it


def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns errors into exit codes: 0 done, 1 the work failed, 2 the request was wrong.

    Args:
        main: Takes the arguments and returns an exit code.
        arguments: Without the program's name; those of this process when None.

    Returns:
        The exit code; 130, as of a shell, after Ctrl-C. ProductErrors and storage errors are printed on standard error
        without a traceback, as is a missing package of others; any other exception is a bug of ours and is raised.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # Hangul on a terminal without it ends no command
    try:
        return main(sys.argv[1:] if arguments is None else arguments)
    except ProductError as error:
        note(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        note(f"error: {sys.executable} has no package {error.name}, which this program needs")
        note("  - after `make sweep`: . .venv/bin/activate, or .venv/bin/python in place of python")
        note("  - in an environment of your own: pip install . (see README.md)")
        return 2
    except BrokenPipeError:  # `... | head` closed the pipe: nobody reads the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if isinstance(error, UNUSABLE_PATH) and error.filename is not None:
            note(f"error: {error.filename}: {error.strerror}; give another folder or file, or change its owner or mode")
            return 2
        trouble = storage_trouble(error)
        if trouble is None:
            raise
        note(f"error: {error.filename or 'a file'}: {trouble}; mend it and try again")
        return 1


class _OutlastingFile(io.FileIO):
    """An output whose errors are ignored: what cannot be written is lost."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            written = super().write(content)
        except OSError as error:
            if error.errno != errno.ENOSPC:  # a full disk may have room later; a closed pipe or terminal never returns
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        else:
            if written is not None:
                return written
        return memoryview(content).nbytes


def outlast_readers() -> None:
    """Makes this process go on when its terminal or the reader of its output goes away, or the disk below it is full.

    Replaces sys.stdout and sys.stderr, where these are still those of the process.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # the process was started without it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the life of the process
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            buffer = io.BufferedWriter(_OutlastingFile(number, "wb", closefd=False))
            lasting = io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, lasting)


def emit(text: str) -> None:
    """Prints text for a user."""
    print(visible(text), flush=True)


def redraw(text: str) -> None:
    """Clears the terminal and prints text for a user."""
    print(f"\x1b[H\x1b[J{visible(text)}", flush=True)


def pass_on(text: str) -> None:
    """Prints a piece of another program's output, without a final newline."""
    sys.stdout.write(visible(text.replace("\r", "\n")))
    sys.stdout.flush()


def emit_json(content: object) -> None:
    """Prints one JSON document for a program to read."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(json.dumps(content, ensure_ascii=not is_utf8, indent=2, allow_nan=False), flush=True)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Adds the option --format; see answer."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for a person or for a program")


def answer(form: str, values: object, text: str) -> None:
    """Prints what a command found, as its --format says: JSON for a program, or text for a person."""
    if form == "json":
        emit_json(values)
    else:
        emit(text)


def note(text: str) -> None:
    """Prints a remark on standard error, apart from the output that a program reads."""
    print(visible(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Escapes control characters: in a file's name or a summary they could control the terminal.

    >>> visible("a\\tb\\n\\x1b[2Jc\\x9b")
    'a\\tb\\n\\\\x1b[2Jc\\\\x9b'
    """
    return text.translate(_CONTROLS)


class VisibleFormatter(logging.Formatter):
    """Formats log records for a terminal; see visible."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record without control characters."""
        return visible(super().format(record))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Formats a table for a terminal: numbers align right, text left; Hangul counts two columns.

    >>> print(table(["model", "GiB"], [["kobart", 3.5], ["t5", 12]]))
    model    GiB
    kobart   3.5
    t5        12
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(text_columns(row[i]) for row in [list(header), *texts]) for i in range(len(header))]
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]

    def join(cells: Sequence[str]) -> str:
        padded = [
            " " * (width - text_columns(cell)) + cell if to_right else cell + " " * (width - text_columns(cell))
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        return (" " * _GAP).join(padded).rstrip()

    return "\n".join([join(list(header)), *(join(row) for row in texts)])


def narrow_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    columns: int,
    expendable: Sequence[int] = (),
    least: int = 30,
) -> str:
    """Formats a table that is no wider than a terminal.

    Args:
        header: Names of the columns.
        rows: Their cells.
        columns: Of the terminal.
        expendable: Columns by index that may be left out, the least important first: those without a value, marked
            "-", go before the others.
        least: So many columns of the terminal the last one gets by leaving out others; then it is shortened.

    >>> print(narrow_table(["model", "card", "why"], [["t5", "a:0", "waits for a card"]], 20, [1], least=12))
    model   why
    t5      waits for a…
    """
    texts = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(text_columns, cells)) for cells in zip(*texts, strict=True)]
    empty = {index for index in expendable if all(row[index] == "-" for row in texts[1:])}
    kept = list(range(len(header)))
    for index in sorted(expendable, key=lambda one: (one not in empty, expendable.index(one))):
        if sum(widths[one] + _GAP for one in kept[:-1]) + min(least, widths[-1]) > columns:
            kept.remove(index)
    room = columns - sum(widths[one] + _GAP for one in kept[:-1])
    cells = [[*(row[one] for one in kept[:-1]), shortened(str(row[-1]), room)] for row in [header, *rows]]
    return table([str(cell) for cell in cells[0]], cells[1:])


def shortened(text: str, columns: int) -> str:
    """Cuts a text to a width on the terminal.

    >>> shortened("waits for a card", 9), shortened("카드를 기다림", 9), shortened("card", 9)
    ('waits fo…', '카드를 …', 'card')
    """
    if text_columns(text) <= columns:
        return text
    kept = ""
    for character in text:
        if text_columns(kept + character) >= columns:
            break
        kept += character
    return kept + "…"


def joined(parts: Sequence[str], separator: str, columns: int) -> list[str]:
    """Joins parts to lines that are no wider than a terminal.

    >>> joined(["best 31.5", "0.01 GPU-hours", "failed attempts 1"], " | ", 30)
    ['best 31.5 | 0.01 GPU-hours', 'failed attempts 1']
    """
    lines: list[str] = []
    for part in parts:
        if lines and text_columns(lines[-1] + separator + part) <= columns:
            lines[-1] += separator + part
        else:
            lines.append(shortened(part, columns))
    return lines


def terminal_columns() -> int:
    """Returns the width of this process's terminal; 120 in a pipe or a file."""
    return shutil.get_terminal_size((120, 24)).columns


def text_columns(text: str) -> int:
    """Returns how many columns a terminal needs for a text: Hangul two a syllable.

    >>> text_columns("ab"), text_columns("가나")
    (2, 4)
    """
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
