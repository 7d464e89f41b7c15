"""The package of a submitted sweep: the code, and the files that the sweep names."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dialsum.models import SPECS
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.inputs import SAMPLE_FOLDER, configs_by_phase
from tuning_common.errors import Problems, RequestError
from tuning_common.files import packaged
from tuning_common.units import format_bytes

CODE = ("tuning_common", "dialsum", "cluster", "tune_jobs")
LIMIT_BYTES = 5 * 10**6
_LEFT_OUT = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """One file of a package.

    Attributes:
        source: Its path here.
        target: Its path in the package.
        size_bytes: Its size.
    """

    source: Path
    target: Path
    size_bytes: int


def files_of(sweep: Sweep, root: Path, here: Path) -> tuple[PackagedFile, ...]:
    """Lists the files that a sweep needs on the cluster.

    Args:
        sweep: The sweep, with paths relative to `here`.
        root: Folder of the code.
        here: The user's working folder.

    Returns:
        The files sorted by target. Absolute paths are not packaged; they must exist on every machine.

    Raises:
        RequestError: With every file that is outside the working folder, is a folder, or is absent; and when the
            package is too large, with the largest files.
    """
    files = {file.target: file for file in _code(root)}
    problems = Problems()
    for what, name in _named(sweep):
        path = here / (name if (here / name).exists() else packaged(Path(name)))
        if Path(name).is_absolute() and what != "sweep file":
            continue
        if Path(name).parent == SAMPLE_FOLDER and not path.exists():
            continue  # the job writes the sample dialogues itself
        is_ready = path != here / name
        problem = "" if is_ready else _problem(what, path, here)
        if problem:
            problems.add(problem)
            continue
        target = target_of(name, here)
        files[target] = PackagedFile(source=path, target=target, size_bytes=path.stat().st_size)
    problems.raise_if_any(f"{sweep.source} cannot be packaged")
    _refuse_too_large(tuple(files.values()))
    return tuple(files[target] for target in sorted(files))


def target_of(name: str, here: Path) -> Path:
    """Returns the path of a file in the package; a sweep file from outside the working folder is put at the top.

    >>> target_of("sweeps/a.yaml", Path("/home/a")).as_posix(), target_of("/etc/b.yaml", Path("/home/a")).as_posix()
    ('sweeps/a.yaml', 'b.yaml')
    """
    path = (here / name).absolute()
    return path.relative_to(here) if path.is_relative_to(here) and ".." not in Path(name).parts else Path(path.name)


def write_package(files: Sequence[PackagedFile], folder: Path) -> int:
    """Copies the files; returns their bytes."""
    for file in files:
        target = folder / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, target)
    return sum(file.size_bytes for file in files)


def _code(root: Path) -> Iterator[PackagedFile]:
    for package in CODE:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and not set(path.parts) & set(_LEFT_OUT):
                yield PackagedFile(source=path, target=path.relative_to(root), size_bytes=path.stat().st_size)


def _named(sweep: Sweep) -> list[tuple[str, str]]:
    """Returns (kind, path) of every file that the sweep names."""
    named = [("sweep file", sweep.source), *(("base configuration", path) for path in sweep.base_files.values())]
    if sweep.team.member is not None:
        named.append(("team file", sweep.team.file))
    sweeps = [phase.sweep for phase in sweep.phases] or [sweep]
    named += [("sweep file", one.source) for one in sweeps if one.source != sweep.source]
    for config in [config for configs in configs_by_phase(sweep).values() for config in configs]:
        files = (config.train_file, config.dev_file, config.test_file)
        named += [("data file", str(path)) for path in files if path is not None]
        named += [("model folder", config.model)] if config.model not in SPECS and Path(config.model).exists() else []
    return list(dict.fromkeys(named))


def _problem(what: str, path: Path, here: Path) -> str | None:
    where = "put it on the shared storage and name its whole path, the same on every machine"
    if not path.exists():
        return f"{what} {path}: no such file"
    if path.is_dir():
        return f"{what} {path}: folders are not packaged; {where}"
    if what != "sweep file" and not Path(os.path.abspath(path)).is_relative_to(here):
        return f"{what} {path}: lies outside the working folder {here}; {where}"
    return None


def _refuse_too_large(files: Sequence[PackagedFile]) -> None:
    total = sum(file.size_bytes for file in files)
    if total <= LIMIT_BYTES:
        return
    largest = sorted(files, key=lambda file: (-file.size_bytes, file.target))[:_NAMED]
    raise RequestError(
        f"the package has {format_bytes(total)}, at most {format_bytes(LIMIT_BYTES)} travel with a sweep; put large"
        " files on the shared storage and name their whole paths; the largest:",
        [f"{file.target}: {format_bytes(file.size_bytes)}" for file in largest],
    )
