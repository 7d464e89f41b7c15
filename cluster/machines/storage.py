"""The shared folder, at the same path on every machine of a cluster, for results of submitted sweeps. Pure."""

from collections.abc import Mapping
from pathlib import Path

STORAGE = "TUNE_JOBS_STORAGE"  # set for every process of a raylet by `python -m cluster start --storage`
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray 2.60's job supervisor
_AT_HOME = "dialogue-summarizers"


def is_submitted(environment: Mapping[str, str]) -> bool:
    """Returns whether this process is the driver of a submitted job: its working folder is a copy that Ray removes.

    >>> is_submitted({}), is_submitted({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
    (False, True)
    """
    return _JOB in environment


def results_base(environment: Mapping[str, str], home: Path) -> Path | None:
    """Returns the base of a relative output folder; None for the working folder.

    >>> results_base({"TUNE_JOBS_STORAGE": "/nfs/team"}, Path("/home/a")).as_posix()
    '/nfs/team'
    >>> results_base({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, Path("/home/a")).as_posix()
    '/home/a/dialogue-summarizers'
    >>> results_base({}, Path("/home/a")) is None
    True
    """
    if environment.get(STORAGE):
        return Path(environment[STORAGE])
    return home / _AT_HOME if is_submitted(environment) else None
