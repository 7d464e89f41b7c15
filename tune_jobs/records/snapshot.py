"""The snapshot of an experiment: everything for running it again, without secrets.

snapshot/ snapshot.json   command, seeds, code, surroundings, data with checksums
          config.yaml     the resolved configuration
          changes.diff    the diff to the commit; absent where there is none
          restarts.jsonl  surroundings of later attempts; absent without any
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from tune_jobs.records.code_state import CodeState, read_code
from tune_jobs.records.redaction import Redactor
from tune_jobs.records.surroundings import Surroundings, read_surroundings
from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, write_json, write_text
from tuning_common.strict import dump_yaml, from_mapping

FILE_NAME = "snapshot.json"
CODE_FILE = "code.json"  # in the sweep's folder: a trial's node may have no repository
DIFF_FILE = "changes.diff"
CONFIG_FILE = "config.yaml"
RESTARTS_FILE = "restarts.jsonl"
_FILE_FIELDS = ("train_file", "dev_file", "test_file")
CODE_FOLDER = Path(__file__).resolve().parent  # the running code, independent of the working folder
_checksums: dict[tuple[str, int, int], str] = {}  # per process: its trials share their data


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A data file, or a folder with a model.

    Attributes:
        path: Path in the configuration.
        size_bytes: Size; for a folder the sum of its files.
        sha256: Hash of the content; for a folder of the names and contents of all its files.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The snapshot of one experiment.

    Attributes:
        taken_at: Unix seconds.
        command: What the user typed, without secrets.
        seeds: `training`, and `search` for a trial of a sweep.
        code: See CodeState; its diff is in a file of its own.
        surroundings: See Surroundings.
        data: Data files by field of the configuration.
        model: A local model; None for a model of the hub.
        model_revision: Commit of a hub model, where the local cache has it.
        sweep: Name of the sweep; empty for a single run.
    """

    taken_at: float
    command: str = ""
    seeds: dict[str, int] = field(default_factory=dict)
    code: CodeState = field(default_factory=CodeState)
    surroundings: Surroundings = field(default_factory=Surroundings)
    data: dict[str, FileState] = field(default_factory=dict)
    model: FileState | None = None
    model_revision: str | None = None
    sweep: str = ""


def keep_code(folder: Path, command: str, seeds: Mapping[str, int]) -> None:
    """Writes the code state and the command at the start of a sweep, in the driver.

    Args:
        folder: snapshot/ in the folder of the sweep.
        command: What the user typed.
        seeds: Seeds of the search.
    """
    redactor = Redactor.of_environment(os.environ)
    code = read_code(CODE_FOLDER, redactor)
    _write_diff(folder, code)
    content = {"command": redactor.hide(command), "seeds": dict(seeds), "code": _without_diff(code)}
    write_json(folder / CODE_FILE, content)


def take_snapshot(
    folder: Path,
    config: Mapping[str, object],
    *,
    sweep_snapshot: Path | None = None,
    sweep: str = "",
    goes_on: bool = False,
) -> None:
    """Writes the snapshot of an experiment; call it in the process that trains.

    Args:
        folder: snapshot/ in the folder of the experiment.
        config: The resolved configuration.
        sweep_snapshot: The folder that keep_code wrote; None calls git here.
        sweep: Name of the sweep.
        goes_on: Whether this is a later attempt: the first snapshot stays, and the new surroundings are appended.
    """
    redactor = Redactor.of_environment(os.environ)
    surroundings = read_surroundings()
    if goes_on and (folder / FILE_NAME).exists():
        append_jsonl(
            folder / RESTARTS_FILE,
            cast("dict[str, object]", redactor.hide_all({"at": time.time(), "surroundings": asdict(surroundings)})),
        )
        return
    command, search_seeds, code = _of_sweep(sweep_snapshot, redactor)
    seeds = {"training": cast("int", config["seed"])} if "seed" in config else {}
    snapshot = Snapshot(
        taken_at=time.time(),
        command=command,
        seeds=seeds | search_seeds,
        code=code,
        surroundings=surroundings,
        data={name: file_state(Path(str(config[name]))) for name in _FILE_FIELDS if config.get(name)},
        model=_local_model(str(config.get("model", ""))),
        model_revision=_revision(str(config.get("model", "")), os.environ),
        sweep=sweep,
    )
    content = asdict(snapshot) | {"code": _without_diff(code)}
    _write_diff(folder, code)
    write_text(folder / CONFIG_FILE, dump_yaml(redactor.hide_all(dict(config))))
    write_json(folder / FILE_NAME, _hide_around_checksums(content, redactor))


def load_snapshot(folder: Path) -> Snapshot | None:
    """Reads the snapshot of an experiment.

    Args:
        folder: snapshot/ in the folder of the experiment.

    Returns:
        The snapshot; None where there is none, for example of a run of `python -m dialsum train`.

    Raises:
        RequestError: When it exists and cannot be read.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    return from_mapping(Snapshot, content, where=str(path))


def current_state(config: Mapping[str, object]) -> Snapshot:
    """Returns a snapshot of the current state; writes nothing."""
    redactor = Redactor.of_environment(os.environ)
    return Snapshot(
        taken_at=time.time(),
        code=read_code(CODE_FOLDER, redactor),
        surroundings=read_surroundings(),
        data={name: file_state(Path(str(config[name]))) for name in _FILE_FIELDS if config.get(name)},
        model=_local_model(str(config.get("model", ""))),
        model_revision=_revision(str(config.get("model", "")), os.environ),
    )


def file_state(path: Path) -> FileState:
    """Returns size and checksum of a file, or of a folder with all its files.

    Raises:
        RequestError: When it does not exist.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such file (working folder: {Path.cwd()})")
    if path.is_file():
        return FileState(path=str(path), size_bytes=path.stat().st_size, sha256=_checksum(path))
    digest, size_bytes = hashlib.sha256(), 0
    for inner in sorted(one for one in path.rglob("*") if one.is_file()):
        size_bytes += inner.stat().st_size
        digest.update(f"{inner.relative_to(path).as_posix()}\0{_checksum(inner)}\n".encode())
    return FileState(path=str(path), size_bytes=size_bytes, sha256=digest.hexdigest())


def _of_sweep(folder: Path | None, redactor: Redactor) -> tuple[str, dict[str, int], CodeState]:
    path = folder / CODE_FILE if folder is not None else None
    if folder is None or path is None or not path.exists():
        return "", {}, read_code(CODE_FOLDER, redactor)
    content = json.loads(path.read_text(encoding="utf-8"))
    diff = folder / DIFF_FILE
    text = diff.read_text(encoding="utf-8") if diff.exists() else ""
    code = from_mapping(CodeState, {**content["code"], "diff": text}, where=str(path))
    return str(content["command"]), dict(content["seeds"]), code


def _without_diff(code: CodeState) -> dict[str, object]:
    return {name: value for name, value in asdict(code).items() if name != "diff"}


def _write_diff(folder: Path, code: CodeState) -> None:
    if code.diff:
        write_text(folder / DIFF_FILE, code.diff)
    else:
        (folder / DIFF_FILE).unlink(missing_ok=True)


def _hide_around_checksums(content: Mapping[str, object], redactor: Redactor) -> object:
    """Hides secrets everywhere except in hashes and versions, which look like keys."""
    hidden = cast("dict[str, dict[str, object]]", redactor.hide_all(content))
    for part, names in (("code", ("commit", "diff_sha256", "untracked")), ("surroundings", ("packages",))):
        original = cast("Mapping[str, object]", content[part])
        hidden[part] |= {name: original[name] for name in names}
    return hidden | {"model_revision": content["model_revision"]}


def _checksum(path: Path) -> str:
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _checksums:
        with path.open("rb") as stream:
            _checksums[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _checksums[key]


def _local_model(model: str) -> FileState | None:
    return file_state(Path(model)) if model and Path(model).is_dir() else None


def _revision(model: str, environment: Mapping[str, str]) -> str | None:
    """Returns the revision that a model names, else the commit of `main` in the hub's cache as of the last download."""
    from dialsum.models import SPECS, repository_of

    hub_id, revision = repository_of(SPECS[model].hub_id or "" if model in SPECS else model)
    if not hub_id or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or Path(model).exists():
        return None
    if revision is not None:
        return revision
    home = Path(environment.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(environment.get("HF_HUB_CACHE", home / "hub"))
    path = cache / f"models--{hub_id.replace('/', '--')}" / "refs" / "main"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
