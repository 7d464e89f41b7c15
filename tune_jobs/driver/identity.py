"""What makes a sweep the same one: its values and the content of its data, kept beside its results.

A resumed sweep ranks new trials together with earlier ones, so nothing that changes a score may have changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from tune_jobs.config.sweep import Sweep
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.search.inputs import SweepInputs
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import json_object, write_json

FILE_NAME = "identity.json"
_DATA = ("train_file", "dev_file", "test_file")  # compared by content
_SECTIONS = ("metric", "early_terminate", "search", "rules", "anomalies")
_DATA_KEY, _PHASES = "data: ", "phases"
_SHOWN = 200  # characters of a value


def identity_of(sweep: Sweep, inputs: SweepInputs | None = None) -> dict[str, object]:
    """Returns what must not change between two drivers; resources, tracking, team and texts may.

    Args:
        sweep: Plain or staged.
        inputs: Name the data files; None for a phase of a staged sweep.
    """
    values: dict[str, object] = {"method": sweep.method, "count": sweep.count}
    values |= {_PHASES: [phase.name for phase in sweep.phases]}
    for section in _SECTIONS:
        values |= {f"{section}.{name}": value for name, value in asdict(getattr(sweep, section)).items()}
    values |= {f"parameters.{name}": spec for name, spec in sweep.space.spec().items() if name not in _DATA}
    for model, base in {"": sweep.base, **sweep.base_by_model}.items():
        where = f"base_config[{model}]" if model else "base_config"
        values |= {f"{where}.{name}": value for name, value in base.to_dict().items() if name not in _DATA}
    if sweep.trained_model is not None:  # its results may have been moved
        values |= {"trained_model": Path(sweep.trained_model).name, "base_config.model": None}
    for phase in sweep.phases:
        own: dict[str, object] = {"kind": phase.kind, "keep_fraction": phase.keep_fraction, "margin": phase.margin}
        own |= {"winners": phase.winners, "seeds": phase.seeds, **identity_of(phase.sweep)}
        values |= {f"{_PHASES}.{phase.name}.{name}": value for name, value in own.items()}
    if inputs is not None:
        values |= {f"{_DATA_KEY}{path}": _checksum(Path(path)) for path in _data_files(inputs)}
    plain: dict[str, object] = json.loads(json.dumps(values, default=str))
    return plain


def keep_identity(folder: SweepFolder, identity: Mapping[str, object]) -> None:
    """Writes the identity of a sweep that begins."""
    write_json(folder.path / FILE_NAME, identity)


def check_identity(folder: SweepFolder, identity: Mapping[str, object]) -> None:
    """Refuses to continue another sweep.

    Raises:
        RequestError: With every difference and the remedies.
    """
    path = folder.path / FILE_NAME
    try:
        kept = json_object(path.read_bytes())
    except (OSError, ValueError):
        note(f"{path} cannot be read, so this sweep is not compared with the one that made these results")
        return
    differences = list(_differences(kept, identity))
    if differences:
        raise RequestError(
            f"{folder.path}: these results are of another sweep and are not continued; give this sweep another name, or"
            " put them aside and begin anew with --restart instead of --resume",
            differences,
        )


def _differences(kept: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    other_phases = kept.get(_PHASES) != now[_PHASES]
    for key in sorted({*kept, *now}):
        is_left_out = key.startswith(_DATA_KEY) or (other_phases and key.startswith(f"{_PHASES}."))
        if not is_left_out and kept.get(key) != now.get(key):
            yield f"{key} was {_shown(kept.get(key))} and is {_shown(now.get(key))}"
    known = {value for key, value in kept.items() if key.startswith(_DATA_KEY)}
    for key in sorted(key for key in now if key.startswith(_DATA_KEY)):
        if now[key] not in known:
            yield f"{key.removeprefix(_DATA_KEY)} has another content than the data of the earlier trials"


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:_SHOWN]


def _data_files(inputs: SweepInputs) -> list[str]:
    named = {getattr(config, name) for config in inputs.of_phases() for name in _DATA}
    return sorted(path for path in named if path and Path(path).exists())


def _checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        inner = [(str(one.relative_to(path)), _checksum(one)) for one in sorted(path.rglob("*")) if one.is_file()]
        return hashlib.sha256(json.dumps(inner).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
