"""Where a sweep's files lie for good: a submitted job runs in a copy of the project that Ray removes after it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.machines.storage import results_base
from common.errors import RequestError
from common.files import write_bytes
from tune_jobs.config.sweep import Sweep

_INPUTS, _CACHE = "inputs", "cache"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the trials of a sweep find and leave things that do not belong to one of them.

    Attributes:
        cache_dir: Tokenizers and encodings.
        inputs_dir: Where data files are kept that came with the job; None where they stay where they are.
    """

    cache_dir: Path
    inputs_dir: Path | None = None

    def whole(self, path: Path) -> Path:
        """Returns the path under which every node finds a file, now and when the sweep is resumed."""
        whole = path.resolve()
        if self.inputs_dir is None or path.is_absolute() or not whole.is_file():
            return whole
        return keep(whole, self.inputs_dir)


def with_output_folder(sweep: Sweep, output: Path | None, environment: Mapping[str, str], home: Path) -> Sweep:
    """Returns the sweep with its output folder where it should be, and its phases' too.

    Args:
        sweep: As read.
        output: The person's word; goes before the sweep file's.
        environment: Of this process; see cluster.machines.storage.
        home: Of this user.

    Raises:
        RequestError: When the cluster's shared folder is not there on this machine.
    """
    base = results_base(environment, home)
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
        trained_model=_there(sweep.trained_model, base),
        phases=phases,
    )


def places_of(output_dir: Path, environment: Mapping[str, str], home: Path) -> Places:
    """Returns the places beside an output folder; those of the working folder where it is the person's own."""
    if results_base(environment, home) is None:
        return Places(cache_dir=Path(".cache/dialsum"))
    return Places(cache_dir=output_dir / _CACHE, inputs_dir=output_dir / _INPUTS)


def own_places(output_dir: Path) -> Places:
    """places_of for this process."""
    return places_of(output_dir, os.environ, Path.home())


def keep(path: Path, folder: Path) -> Path:
    """Copies a file into a folder under the hash of its content; one that is there and the same stays.

    Returns:
        The copy, named as before: `<folder>/<hash>/<name>`.
    """
    content = path.read_bytes()
    target = folder / hashlib.sha256(content).hexdigest()[:16] / path.name
    if target.is_symlink() or not target.is_file() or target.read_bytes() != content:
        write_bytes(target, content)
    return target


def _there(path: str | None, base: Path | None) -> str | None:
    """A relative folder of results lies where results of submitted sweeps lie."""
    if path is None or base is None or Path(path).is_absolute() or Path(path).exists():
        return path
    return str(base / path)
