"""Files that cost time only: a damaged one is as good as absent, and one that cannot be written is not needed."""

import hashlib
import logging
from pathlib import Path

from tuning_common.files import write_bytes

logger = logging.getLogger(__name__)


def read_cached(path: Path) -> bytes | None:
    """Returns the content of a file that write_cached wrote; None where it is absent or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:32], stored[32:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_cached(path: Path, content: bytes) -> None:
    """Writes a file atomically, behind its checksum. Where there is no room or no right, only a warning follows."""
    try:
        write_bytes(path, hashlib.sha256(content).digest() + content)
    except OSError as error:
        logger.warning("%s could not be written, and is computed again next time: %s", path, error.strerror)
