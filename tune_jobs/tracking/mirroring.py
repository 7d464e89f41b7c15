"""The driver's side of the mirror process: starts it, signals the end of the sweep, reports the result."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tune_jobs.config.sweep import Sweep
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.tracking.mirror import MirrorProgress, MirrorSettings
from tune_jobs.tracking.report_keeper import ReportStatus
from tune_jobs.tracking.wandb_client import FOLDER, mode_here, sync_command
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import open_to_append
from tuning_common.strict import from_mapping

STATUS_NAME = "mirror.json"
LOG_NAME = "mirror.log"
LINGERS_S = 600.0  # time for a slow server after the sweep; the rest is left to `wandb sync`
_WAITS_S = 1.0  # the driver waits this long for the mirror at the end of a sweep,
_WAITS_FRACTION = 0.02  # plus this fraction of the sweep's time


@dataclass(kw_only=True)
class MirrorStatus:
    """The content of mirror.json, for the driver and for the next mirror of the same sweep.

    Attributes:
        mode: "online" or "offline".
        over: Whether the mirror has ended normally.
        urls: URLs of the runs that were opened online, by folder name.
        unsent: Folder names of the runs that no server has completely.
        not_whole: Names of the runs that could not be opened, or were incomplete when the mirror had to end.
        report: Status of the W&B report.
        progress: Progress of the mirror.
    """

    mode: str = "offline"
    over: bool = False
    urls: dict[str, str] = field(default_factory=dict)
    unsent: list[str] = field(default_factory=list)
    not_whole: list[str] = field(default_factory=list)
    report: ReportStatus = field(default_factory=ReportStatus)
    progress: MirrorProgress = field(default_factory=MirrorProgress)

    @classmethod
    def read(cls, path: Path) -> "MirrorStatus":
        """Reads a status; returns a new one if it is absent or damaged."""
        try:
            return from_mapping(cls, json.loads(path.read_text(encoding="utf-8")), where=str(path))
        except (OSError, ValueError, RequestError):
            return cls()


class MirrorProcess:
    """The driver's handle on the mirror process.

    Args:
        settings: Settings of the mirror.
        shown: The sweep's folder as the user wrote it, for messages.
    """

    def __init__(self, settings: MirrorSettings, shown: Path) -> None:
        self._folder = shown / FOLDER
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with os.fdopen(open_to_append(self._folder / LOG_NAME), "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tune_jobs.tracking.mirror_process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C ends the sweep, which then closes the mirror's input
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `remark` reports that
            self._process.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Signals the end of the sweep; does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, timeout_s: float) -> str:
        """Waits for the mirror until a timeout.

        Returns:
            A message: where the runs are, what is left to do, and the address of the report.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return remark(self._process.poll(), MirrorStatus.read(self._folder / STATUS_NAME), self._folder)


def remark(exit_code: int | None, status: MirrorStatus, folder: Path) -> str:
    """Returns a message on the result of the mirror, with a second line on the report if there is one.

    >>> remark(0, MirrorStatus(over=True, unsent=["offline-run-1-a"]), Path("small/wandb"))
    'W&B: 1 run is kept offline; send it with: wandb sync small/wandb'
    """
    page = f"\nW&B report: {status.report.url}" if status.report.url else ""
    if exit_code is None:
        left = f"runs are still being written or sent, in the background, for at most {LINGERS_S / 60:.0f} min"
        return f"W&B: {left}{page}"
    if status.report.problem:
        page += f"\nW&B report: it could not be {'renewed' if page else 'saved'} ({status.report.problem})"
    if exit_code != 0 or not status.over:
        return f"W&B: the mirror failed, the sweep did not; see {folder / LOG_NAME}"
    lost = ""
    if status.not_whole:
        are = "is" if len(status.not_whole) == 1 else "are"
        names = ", ".join(status.not_whole)
        lost = f"; {len(status.not_whole)} {are} not mirrored whole: {names}; see {folder / LOG_NAME}"
    if status.unsent:
        count = len(status.unsent)
        kept = "1 run is kept offline; send it" if count == 1 else f"{count} runs are kept offline; send them"
        return f"W&B: {kept} with: {sync_command(folder, status.unsent)}{lost}{page}"
    sent = "1 run is sent" if len(status.urls) == 1 else f"{len(status.urls)} runs are sent"
    return f"W&B: {sent}{lost}{page}"


def keep_report_address(folder: SweepFolder) -> None:
    """Writes the address of the W&B report into the ledger, if it is new."""
    url = MirrorStatus.read(folder.path / FOLDER / STATUS_NAME).report.url
    sweep = folder.load().sweep
    if url and sweep is not None and sweep.wandb_report != url:
        folder.append(replace(sweep, wandb_report=url))


@contextlib.contextmanager
def mirroring(folder: SweepFolder, sweep: Sweep, *, group: str = "", phase: str = "") -> Iterator[MirrorProcess | None]:
    """Mirrors a sweep to W&B during the block; yields None if W&B is disabled.

    The block should call `end` when the last trial is over: the mirror closes its runs while the reports are built.

    Args:
        folder: The sweep's result folder.
        sweep: The sweep.
        group: The staged search that it is a phase of; empty for a plain sweep.
        phase: Name of that phase.
    """
    tracking = sweep.tracking
    mode = mode_here(tracking.wandb)
    if mode == "disabled":
        yield None
        return
    settings = MirrorSettings(
        folder=str(folder.path.resolve()),
        sweep=sweep.name,
        group=group or sweep.name,
        phase=phase,
        method=sweep.method,
        project=tracking.project,
        entity=tracking.entity,
        tags=tracking.tags,
        mode=mode,
        upload_models=tracking.upload_checkpoints,
    )
    started_s = time.monotonic()
    try:
        process = MirrorProcess(settings, folder.path)
    except (OSError, RequestError) as error:  # a missing mirror must not stop the sweep
        note(f"W&B: the mirror could not be started ({error}); the sweep goes on, and its own files hold everything")
        yield None
        return
    try:
        yield process
    finally:
        process.end()
        note(process.wait(_WAITS_S + _WAITS_FRACTION * (time.monotonic() - started_s)))
        with contextlib.suppress(OSError, RequestError):  # only the link is lost
            keep_report_address(folder)
