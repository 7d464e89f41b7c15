"""Metrics between evaluations, one JSON line per step in the experiment's folder.

The trial only appends to this file; mirror_process reads it in another process. A failing mirror cannot slow or end a
trial, and a killed trial loses no line: the kernel keeps what write(2) took.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tuning_common.errors import RequestError
from tuning_common.files import json_object, open_to_append

logger = logging.getLogger(__name__)
FILE_NAME = "steps.jsonl"
Numbers = Mapping[str, float]


class StepLog:
    """Appends metrics to the file.

    Args:
        path: The file; lines of earlier attempts are kept.
        more: Returns more numbers for each line, for example of the machine.
    """

    def __init__(self, path: Path, more: Callable[[], Numbers] = dict) -> None:
        self._path, self._more = path, more
        self._broken = False

    def __call__(self, metrics: Numbers) -> None:
        """Writes one line. On a full disk the line is lost with a warning; the ledger does not depend on it."""
        values = {name: encoded(value) for name, value in {**metrics, **self._more()}.items()}
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        try:
            descriptor = open_to_append(self._path)
            try:
                os.write(descriptor, line)  # no fsync: it would delay the training on a slow disk
            finally:
                os.close(descriptor)
        except (OSError, RequestError) as error:
            if not self._broken:
                logger.warning("%s cannot be written (%s); steps go on without it", self._path, error)
            self._broken = True


class Tail:
    """Reads the new complete lines of a growing JSON-lines file.

    Args:
        path: The file; it may not exist yet.
        offset: Number of bytes that were read before.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[dict[str, object]]:
        """Returns the records since the last call; skips lines that are not JSON objects."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read()
        except FileNotFoundError:
            return []
        whole, _, _ = content.rpartition(b"\n")
        if not whole:
            return []
        self.offset += len(whole) + 1
        return [record for line in whole.split(b"\n") if (record := _record(line)) is not None]


def encoded(value: float) -> float | str:
    """Returns a number, or the name of NaN or an infinity, which JSON lacks.

    >>> encoded(1.5), encoded(math.inf), decoded("inf")
    (1.5, 'inf', inf)
    """
    return value if math.isfinite(value) else str(value)


def decoded(value: object) -> object:
    """Inverts encoded."""
    return float(value) if value in ("nan", "inf", "-inf") and isinstance(value, str) else value


def _record(line: bytes) -> dict[str, object] | None:
    try:
        return json_object(line)
    except ValueError:  # a torn line
        return None
