"""Numbers between evaluations, one JSON line a step in the experiment's folder: the learning rate's curve without W&B.

The trial only appends to this file; whoever mirrors it (mirror_process) reads it in another process. So nothing that
happens to a mirror can slow or end a trial, and a trial that is killed loses no line: what was given to write(2) is the
kernel's and outlives the process.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from common.errors import RequestError
from common.files import open_to_append

logger = logging.getLogger(__name__)
FILE_NAME = "steps.jsonl"
Numbers = Mapping[str, float]


class StepLog:
    """Appends to the file.

    Args:
        path: The file; an earlier attempt's lines stay.
        more: Gives further numbers for each line, for example of the machine.
    """

    def __init__(self, path: Path, more: Callable[[], Numbers] = dict) -> None:
        self._path, self._more = path, more
        self._broken = False

    def __call__(self, metrics: Numbers) -> None:
        """Writes one line. A full disk costs the line and a warning: evaluations reach the ledger by another way."""
        values = {name: encoded(value) for name, value in {**metrics, **self._more()}.items()}
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        try:
            descriptor = open_to_append(self._path)
            try:
                os.write(descriptor, line)  # no fsync: on a slow disk it would hold up the training
            finally:
                os.close(descriptor)
        except (OSError, RequestError) as error:
            if not self._broken:
                logger.warning("%s cannot be written (%s); steps go on without it", self._path, error)
            self._broken = True


class Tail:
    """Reads the whole lines that a growing JSON-lines file has gained; a torn line waits for its end.

    Args:
        path: The file; it need not be there yet.
        offset: Bytes that were read before.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[dict[str, object]]:
        """Returns the records that came since the last call; lines that are no JSON object are passed over."""
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
    """JSON has no NaN and no infinity; their names stand for them.

    >>> encoded(1.5), encoded(math.inf), decoded("inf")
    (1.5, 'inf', inf)
    """
    return value if math.isfinite(value) else str(value)


def decoded(value: object) -> object:
    """The way back; see encoded."""
    return float(value) if value in ("nan", "inf", "-inf") and isinstance(value, str) else value


def _record(line: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except ValueError:  # a line that a dying writer tore
        return None
    return record if isinstance(record, dict) else None
