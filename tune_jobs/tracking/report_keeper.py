"""Saves the W&B report of a sweep, in the mirror's process: with the first online run and at the end."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tune_jobs.config.language import use_language
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.tracking.mirror import MirrorSettings
from tune_jobs.tracking.sweep_report import SweepReport, final_report, live_report

logger = logging.getLogger(__name__)


class Saved(Protocol):
    """A saved report; see wandb_report.Published."""

    @property
    def report_id(self) -> str:
        """The report's id, for saving it again."""
        ...

    @property
    def url(self) -> str:
        """The report's address."""
        ...


@dataclass(kw_only=True)
class ReportStatus:
    """The part of mirror.json on the report.

    Attributes:
        report_id: The report's id, for saving it again, also after a resume; empty while there is none.
        url: The report's address; empty while there is none.
        problem: Why it was not saved; empty if it was.
    """

    report_id: str = ""
    url: str = ""
    problem: str = ""


class ReportKeeper:
    """Saves the report when the first run is online, so that its address is known early, and again at the end.

    Saving runs in threads with a bounded wait, because wandb repeats a failing request for minutes.

    Args:
        settings: Settings of the mirror.
        status: The report's status; updated in place.
        publish: Saves a report under its id (empty for a new one); see wandb_report.publish.
        changed: Called when the status has changed.
    """

    def __init__(
        self,
        settings: MirrorSettings,
        status: ReportStatus,
        publish: Callable[[SweepReport, str], Saved],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._status, self._publish, self._changed = settings, status, publish, changed
        self._lock = threading.Lock()
        self._live: SweepReport | None = None
        self._saving: threading.Thread | None = None
        status.problem = ""

    def begin(self, sweep: SweepRecord | None, entity: str | None) -> None:
        """Saves the report if the run that was just opened online is the first one."""
        with self._lock:
            if self._live is not None or sweep is None or not entity:
                return
            self._live = live_report(self._settings, sweep, entity)
        self._save(self._live)

    def end(self, folder: SweepFolder, urls: Mapping[str, str], patience_s: float) -> None:
        """Saves the final report, if a first one was saved, and waits for it."""
        if self._live is None or self._saving is None:
            return
        self._saving.join(patience_s)
        if not self._saving.is_alive():
            self._finish(self._live, folder, urls)
            self._saving.join(patience_s)
        if self._saving.is_alive():
            self._status.problem = f"the server did not answer within {patience_s:g} s"
            self._changed()

    def _finish(self, live: SweepReport, folder: SweepFolder, urls: Mapping[str, str]) -> None:
        from tune_jobs.analysis.sweep_analysis import analyse

        try:
            analysis = analyse(folder.load())
            with use_language(analysis.sweep.language):
                report = final_report(live, analysis, self._settings, urls)
        except Exception as error:  # the first report remains
            self._failed(error)
            return
        self._save(report)

    def _save(self, report: SweepReport) -> None:
        self._saving = threading.Thread(target=self._work, args=(report,), name="report", daemon=True)
        self._saving.start()

    def _work(self, report: SweepReport) -> None:
        try:
            saved = self._publish(report, self._status.report_id)
        except Exception as error:  # the sweep has reports of its own
            self._failed(error)
            return
        self._status.report_id, self._status.url, self._status.problem = saved.report_id, saved.url, ""
        self._changed()

    def _failed(self, error: Exception) -> None:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        self._status.problem = f"{type(error).__name__}: {first}"
        logger.warning("the W&B report could not be saved: %s", self._status.problem)
        self._changed()
