"""Shipped templates: all parts of one model in one compressed file, found by the hash of its configuration.

Parts of a model are similar, so packing them together takes a tenth of the space. Imports numpy only.
"""

import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from cluster.estimator.template_file import Part, part_bytes, part_from
from cluster.estimator.template_keys import PartKey
from tuning_common.files import write_bytes

SUFFIX = ".tar.xz"
_HASH_CHARACTERS = 12


def write_archive(folder: Path, name: str, parts: Iterable[Part]) -> Path:
    """Writes the parts of one model as one file; the same parts give the same bytes.

    Args:
        folder: Target folder.
        name: Name of the model, for people.
        parts: Parts with the same model hash.

    Returns:
        The file.
    """
    named = {part.key.file_name: part for part in parts}
    (model,) = {part.key.model for part in named.values()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file_name, part in sorted(named.items()):
            content = part_bytes(part, compressed=False)
            entry = tarfile.TarInfo(file_name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path = folder / f"{name}-{model[:_HASH_CHARACTERS]}{SUFFIX}"
    write_bytes(path, lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return path


def read_shipped(folder: Path, key: PartKey) -> Part | None:
    """Reads one part of the archive that a key's model has.

    Returns:
        The part, or None where there is no archive of the model or no valid such part in it.
    """
    for path in sorted(folder.glob(f"*-{key.model[:_HASH_CHARACTERS]}{SUFFIX}")):
        content = _remembered(path).get(key.file_name)
        if content is not None:
            return part_from(content, key)
    return None


def archived_parts(path: Path) -> list[Part]:
    """Returns all valid parts of an archive, of any versions."""
    parts = [part_from(content) for content in _content(path).values()]
    return [part for part in parts if part is not None]


@lru_cache(maxsize=16)
def _remembered(path: Path) -> Mapping[str, bytes]:
    return _content(path)


def _content(path: Path) -> Mapping[str, bytes]:
    """Returns an archive's files by name; none where it is torn or no archive."""
    try:
        with tarfile.open(path, mode="r:xz") as archive:
            return {entry.name: _read(archive, entry) for entry in archive if entry.isfile()}
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError):
        return {}


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry)
    assert stream is not None
    return stream.read()
