"""Reads tables that are no text: Parquet, Arrow, and folders that `datasets.save_to_disk` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common.errors import RequestError

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather")
_STATE = "state.json"  # of datasets: lists the files of one split
_SPLITS = "dataset_dict.json"


def is_table(path: Path) -> bool:
    """Returns whether a path is a table that is no text.

    >>> is_table(Path("a.parquet")), is_table(Path("a.csv"))
    (True, False)
    """
    return path.is_dir() or path.suffix.lower() in (*PARQUET_SUFFIXES, *ARROW_SUFFIXES)


def read_table(path: Path) -> tuple[list[str], list[Mapping[str, object]]]:
    """Returns the columns and the rows of a table.

    Raises:
        RequestError: When it cannot be read, with the reason.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        if path.is_dir():
            table = pyarrow.concat_tables([_arrow(file) for file in _files_of_dataset(path)])
        elif path.suffix.lower() in PARQUET_SUFFIXES:
            table = parquet.read_table(path, partitioning=None)
        else:
            table = _arrow(path)
        return list(table.column_names), table.to_pylist()
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(f"{path}: cannot be read as a table: {reason}") from None


def _arrow(path: Path) -> "pyarrow.Table":
    """Reads an Arrow file or stream; datasets writes streams."""
    from pyarrow import ArrowInvalid, ipc

    try:
        return ipc.open_file(path).read_all()
    except ArrowInvalid:
        return ipc.open_stream(path).read_all()


def _files_of_dataset(folder: Path) -> list[Path]:
    if (folder / _SPLITS).exists():
        splits = json.loads((folder / _SPLITS).read_text(encoding="utf-8"))["splits"]
        names = ", ".join(str(folder / one) for one in splits)
        raise RequestError(f"{folder}: holds several splits; name one: {names}")
    if not (folder / _STATE).exists():
        raise RequestError(f"{folder}: a folder, but none that `datasets.save_to_disk` wrote (no {_STATE})")
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return [folder / Path(one["filename"]).name for one in state["_data_files"]]
