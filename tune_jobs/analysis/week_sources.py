"""The sources of a week's runs: the ledgers of an output folder, and W&B where it is available."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tune_jobs.analysis.weekly import WeekRun, runs_of
from tune_jobs.records.ledger import SweepFolder
from tuning_common.errors import RequestError
from tuning_common.units import counted


@dataclass(frozen=True, kw_only=True)
class Source:
    """Runs of one source, with remarks.

    Attributes:
        runs: Runs of any time.
        remarks: What could not be read or is left out.
    """

    runs: tuple[WeekRun, ...]
    remarks: tuple[str, ...] = ()


def read_output(output: Path) -> Source:
    """Reads the ledgers of all sweeps of an output folder, also of renamed earlier runs.

    Args:
        output: The folder that contains sweep_results/.

    Raises:
        RequestError: When there is no ledger.
    """
    folders = sorted(path.parent for path in (output / "sweep_results").glob("*/all_results.jsonl"))
    if not folders:
        raise RequestError(
            f"{output} holds no sweep_results/*/all_results.jsonl; give the output folder, for example outputs"
        )
    runs: dict[tuple[str, str, float], WeekRun] = {}  # a staged sweep's ledger repeats those of its phases
    remarks: list[str] = []
    for folder in folders:
        try:
            ledger = SweepFolder(folder).load()
        except OSError as error:
            remarks.append(f"{folder} could not be read and is left out: {error}")
            continue
        found, undated = runs_of(ledger)
        runs |= {(run.name, run.sweep, run.at): run for run in found}
        if undated:
            remarks.append(f"{counted(undated, 'trial')} of {folder.name} without a time: in no week")
        if ledger.torn:
            remarks.append(f"{len(ledger.torn)} torn lines of {folder.name} could not be read: {ledger.torn[0]}")
    return Source(runs=tuple(runs.values()), remarks=tuple(remarks))


def merged(sources: Sequence[Source]) -> Source:
    """Merges sources; of two runs of one name the first source's wins: the ledger has more than its mirror.

    >>> run = WeekRun(name="a", sweep="s", member="m", model="t5", outcome="finished", at=0.0)
    >>> len(merged([Source(runs=(run,)), Source(runs=(run,))]).runs)
    1
    """
    runs: list[WeekRun] = []
    known: set[str] = set()
    for source in sources:
        runs += [run for run in source.runs if run.name not in known]
        known |= {run.name for run in source.runs}
    return Source(runs=tuple(runs), remarks=tuple(text for source in sources for text in source.remarks))


def end_of_week(until: str | None, now: datetime) -> datetime:
    """Parses --until: the week ends with that day; without it, now.

    Args:
        until: YYYY-MM-DD.
        now: The current time, with a time zone.

    Raises:
        RequestError: When it is not a date.

    >>> from datetime import UTC
    >>> end_of_week("2026-11-24", datetime(2026, 11, 25, 9, 0, tzinfo=UTC)).isoformat()
    '2026-11-25T00:00:00+00:00'
    """
    if until is None:
        return now
    try:
        day = datetime.strptime(until, "%Y-%m-%d")
    except ValueError:
        raise RequestError(f"--until {until} is no date; write for example --until {now:%Y-%m-%d}") from None
    return (day + timedelta(days=1)).replace(tzinfo=now.tzinfo)
