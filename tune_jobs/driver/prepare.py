"""A sweep as this process runs it: the person's words before the file's, results where they stay, the key opened."""

import dataclasses
import os
from pathlib import Path

from cluster.machines.storage import STORAGE, is_submitted
from common.cli import note
from tune_jobs.config.result_paths import settled
from tune_jobs.config.sweep import Sweep
from tune_jobs.jobs.sealed_key import take_own_key


def placed_here(sweep: Sweep, output: Path | None, member: str | None) -> Sweep:
    """Returns the sweep with the member and the output folder that hold here, and says where results go.

    Args:
        sweep: As read.
        output: From the command line.
        member: From the command line.

    Raises:
        RequestError: When the cluster's shared folder is not there.
    """
    sweep = settled(with_member(sweep, member), output, os.environ, Path.home())
    if is_submitted(os.environ):
        if not os.environ.get(STORAGE):
            note(
                "this cluster names no shared folder (python -m cluster start --storage DIR), so results stay on this"
                " machine"
            )
        note(f"results go to {Path(sweep.tracking.output_dir).absolute()}")
    trouble = take_own_key()
    if trouble is not None:
        note(trouble)
    return sweep


def with_member(sweep: Sweep, member: str | None) -> Sweep:
    """Returns the sweep of a member, phases and all; the file's own where none is given."""
    if member is None:
        return sweep
    phases = tuple(dataclasses.replace(one, sweep=with_member(one.sweep, member)) for one in sweep.phases)
    return dataclasses.replace(sweep, team=dataclasses.replace(sweep.team, member=member), phases=phases)
