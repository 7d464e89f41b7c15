"""What to try, when to stop, what was learned: sweeps of summarizers on a Ray cluster.

`tune_jobs.run`, `tune_jobs.plan` and `tune_jobs.estimate` do in Python what the commands of these names do; see api.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_jobs.api import SweepPlanned as SweepPlanned
    from tune_jobs.api import SweepResult as SweepResult
    from tune_jobs.api import estimate as estimate
    from tune_jobs.api import plan as plan
    from tune_jobs.api import run as run

_API = ("run", "plan", "estimate", "SweepResult", "SweepPlanned")


def __getattr__(name: str) -> object:
    """Imports the interface when it is used: every process of a sweep imports this package."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tune_jobs import api

    return getattr(api, name)
