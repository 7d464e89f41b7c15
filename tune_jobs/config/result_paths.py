"""Permanent paths of a sweep's files; Ray removes the project copy of a submitted job afterwards."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cluster.machines.storage import results_base
from tune_jobs.config.sweep import Sweep
from tuning_common.errors import RequestError
from tuning_common.files import write_bytes

_INPUTS, _CACHE = "inputs", "cache"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedFolders:
    """Folders that all trials of a sweep share.

    Attributes:
        cache_dir: Tokenizers and encodings.
        inputs_dir: Copies of the data files that came with a submitted job; None where the originals are permanent.
    """

    cache_dir: Path
    inputs_dir: Path | None = None

    def permanent_path(self, path: Path) -> Path:
        """Returns an absolute path that is valid on every node and after a resume; copies the file where needed."""
        absolute = path.resolve()
        if self.inputs_dir is None or path.is_absolute() or not absolute.is_file():
            return absolute
        return copy_by_hash(absolute, self.inputs_dir)


def with_output_folder(sweep: Sweep, output: Path | None, environment: Mapping[str, str], home: Path) -> Sweep:
    """Returns the sweep, with its phases, with its final output folder.

    Args:
        sweep: The sweep, as read.
        output: The folder from the command; None: the sweep file's.
        environment: Environment variables of this process; see cluster.machines.storage.
        home: This user's home folder.

    Raises:
        RequestError: When the cluster's shared folder is missing on this machine, or the folder is an object store's.
    """
    base = results_base(environment, home)
    for path in (base, output or Path(sweep.tracking.output_dir)):
        _refuse_object_store(path)
    if base is not None and not base.is_dir():
        if base.is_relative_to(home):
            base.mkdir(parents=True)
        else:
            raise RequestError(f"{base}: the cluster's shared folder is not there on this machine; is it mounted?")
    wanted = output or Path(sweep.tracking.output_dir)
    folder = str(wanted if base is None else base / wanted)
    phases = tuple(
        dataclasses.replace(one, sweep=with_output_folder(one.sweep, output, environment, home)) for one in sweep.phases
    )
    return dataclasses.replace(
        sweep,
        tracking=dataclasses.replace(sweep.tracking, output_dir=folder),
        trained_model=_under_base(sweep.trained_model, base),
        phases=phases,
    )


def shared_folders_of(output_dir: Path, environment: Mapping[str, str], home: Path) -> SharedFolders:
    """Returns the shared folders: beside the output folder on a cluster, else in the working folder."""
    if results_base(environment, home) is None:
        return SharedFolders(cache_dir=Path(".cache/dialsum"))
    return SharedFolders(cache_dir=output_dir / _CACHE, inputs_dir=output_dir / _INPUTS)


def own_shared_folders(output_dir: Path) -> SharedFolders:
    """Returns shared_folders_of for this process."""
    return shared_folders_of(output_dir, os.environ, Path.home())


def copy_by_hash(path: Path, folder: Path) -> Path:
    """Copies a file into a folder under the hash of its content, unless an equal copy exists.

    Returns:
        The path of the copy: `<folder>/<hash>/<name>`.
    """
    content = path.read_bytes()
    target = folder / hashlib.sha256(content).hexdigest()[:16] / path.name
    if target.is_symlink() or not target.is_file() or target.read_bytes() != content:
        write_bytes(target, content)
    return target


def _refuse_object_store(path: Path | None) -> None:
    address = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path))  # Path("s3://bucket") is "s3:/bucket"
    if address:
        raise RequestError(
            f"{address[1]}://{address[2]}: results go to a folder; an object store can neither append to a journal nor"
            " rename a file in one step",
            [
                "use a folder that all machines mount (NFS, EFS, Filestore, CephFS, Lustre)",
                "copy what has ended, for example: aws s3 sync outputs s3://BUCKET/outputs",
            ],
        )


def _under_base(path: str | None, base: Path | None) -> str | None:
    """Returns a relative result folder under the base folder of results, unless it exists here."""
    if path is None or base is None or Path(path).is_absolute() or Path(path).exists():
        return path
    return str(base / path)
