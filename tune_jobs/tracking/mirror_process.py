"""The process beside the driver that mirrors a sweep to W&B.

Reasons for one process per sweep (docs/wandb.md): trials do not use or import wandb, so a server that hangs, fails or
is out of quota cannot slow or end them. The key stays on the driver's machine. A retried trial continues in its open
run, and the run of a killed trial is closed with the right state. wandb-core keeps up to 32 KiB of a run in memory, so
a run inside a killed trial's process would lose its last rows.

    python -m tune_jobs.tracking.mirror_process < settings.json  # one line; end of input means end of the sweep
"""

import contextlib
import fcntl
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal_events import read_event
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder, SweepRecord
from tune_jobs.records.step_log import Tail
from tune_jobs.tracking.mirror import (
    EXAMPLE_COLUMNS,
    ExampleRow,
    Mirror,
    MirrorSettings,
    Row,
    example_rows,
)
from tune_jobs.tracking.mirroring import LINGERS_S, STATUS_NAME, MirrorStatus
from tune_jobs.tracking.report_keeper import ReportKeeper
from tune_jobs.tracking.wandb_client import FOLDER, RunState, Timeouts, TrackedRun, Wandb, WandbRun, is_sent
from tune_jobs.tracking.wandb_report import publish
from tuning_common.errors import RequestError
from tuning_common.files import open_to_append, write_json
from tuning_common.strict import from_mapping

logger = logging.getLogger(__name__)
_POLL_S = 2.0
_SAVE_S = 10.0
_NICENESS = 10


class QueuedRun:
    """A run whose calls return at once: its own thread opens it and executes the calls one after another.

    Args:
        run: The run to open.
        wandb: Opens it.
        closed: Called by the thread when the run is closed, with the run and whether a server has all of it.
        lost: Called by the thread with the name of a run that could not be opened.
        opened: Called by the thread when the run is open.
    """

    def __init__(
        self,
        run: TrackedRun,
        wandb: Wandb,
        closed: Callable[["WandbRun", bool], None],
        lost: Callable[[str], None],
        opened: Callable[["WandbRun"], None] = lambda run: None,
    ) -> None:
        self._description, self._wandb, self._closed, self._lost = run, wandb, closed, lost
        self._opened = opened
        self._calls: queue.SimpleQueue[Callable[[WandbRun], bool | None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=run.name, daemon=True)
        self.thread.start()

    def log(self, row: Row, step: int) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: run.log(row, step))

    def describe(self, values: Row) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: run.describe(values))

    def summarize(self, values: Row) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: run.summarize(values))

    def examples(self, rows: Callable[[], Sequence[ExampleRow]], step: int) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: _log_examples(run, rows(), step))

    def model(self, folder: Path, metadata: Row) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: run.model(folder, metadata))

    def finish(self, state: RunState) -> None:
        """See mirror.Run."""
        self._calls.put(lambda run: self._finish(run, state))

    def _finish(self, run: WandbRun, state: RunState) -> bool:
        try:
            sent = run.finish(state)
        except Exception as error:  # what was logged is on the disk
            logger.warning("%s could not be closed: %s: %s", self._description.name, type(error).__name__, error)
            sent = False
        self._closed(run, sent)
        return True

    def _work(self) -> None:
        try:
            run = self._wandb.open(self._description)
        except Exception as error:  # the sweep's own files have everything
            logger.warning("%s is not mirrored: %s: %s", self._description.name, type(error).__name__, error)
            self._lost(self._description.name)
            return
        self._opened(run)
        while True:
            call = self._calls.get()
            try:
                is_last = call(run)
            except Exception as error:  # only this row or table is lost
                logger.warning("%s: %s: %s", self._description.name, type(error).__name__, error)
                continue
            if is_last:
                return


def _log_examples(run: WandbRun, rows: Sequence[ExampleRow], step: int) -> None:
    if rows:
        run.table("examples", EXAMPLE_COLUMNS, rows, step)


_SCORING = threading.Lock()  # the Korean tokenizer takes a second to load; load it once


def scored_examples(folder: Path, config: Mapping[str, object]) -> list[ExampleRow]:
    """Scores an experiment's summaries and returns the best and the worst, as rows of EXAMPLE_COLUMNS."""
    from dialsum.config import RunConfig
    from tune_jobs.analysis.paired_summaries import shared_summaries

    if not ExperimentFolder(folder).predictions.exists():  # the trial ended before its first summaries
        return []
    run = RunConfig.from_dict(config)
    with _SCORING:
        summaries = shared_summaries([folder], run.language, run.rouge_weights)
    scored = []
    for one in summaries:
        scores = one.scores[0]
        names = EXAMPLE_COLUMNS[-len(scores) :]
        row = (
            one.fname,
            one.dialogue,
            one.predictions[0],
            "\n".join(one.references),
            *(scores[name] for name in names),
        )
        scored.append((scores["rouge_combined_f1"], row))
    return example_rows(scored)


class SweepMirror:
    """Follows a sweep's files until the sweep is over.

    Args:
        settings: Settings of the mirror.
    """

    def __init__(self, settings: MirrorSettings) -> None:
        self._settings = settings
        self._folder = SweepFolder(Path(settings.folder))
        self._status_file = self._folder.path / FOLDER / STATUS_NAME
        self.status = MirrorStatus.read(self._status_file)
        self.status.mode, self.status.over, self.status.not_whole = settings.mode, False, []
        self.status.unsent = [name for name in self.status.unsent if not is_sent(self._status_file.parent / name)]
        self._wandb = Wandb(settings.mode, Timeouts(init_s=settings.init_s, finish_s=settings.finish_s))
        self._runs: list[QueuedRun] = []
        self._lock = threading.Lock()
        self._report = ReportKeeper(settings, self.status.report, publish, self._save)
        self._sweep: SweepRecord | None = None
        self._mirror = Mirror(settings, self._open, self.status.progress, examples=scored_examples)
        self._journal = Tail(self._folder.path / JOURNAL_NAME)
        self._ledger = Tail(self._folder.ledger)
        self._saved_s = -_SAVE_S

    def follow(self, ended: threading.Event) -> None:
        """Mirrors new records until the sweep has ended and all of its records are mirrored."""
        while True:
            is_last = ended.wait(_POLL_S)
            self._poll()
            if is_last:
                break
            if time.monotonic() - self._saved_s > _SAVE_S:
                self._save()
        self._mirror.interrupt()
        self._save()
        until_s = time.monotonic() + LINGERS_S
        for run in self._runs:
            run.thread.join(max(until_s - time.monotonic(), 0.0))
            if run.thread.is_alive():
                self._lost(run.thread.name)
        self._report.end(self._folder, dict(self.status.urls), min(self._settings.finish_s, LINGERS_S))
        self.status.over = True
        self._save()

    def _poll(self) -> None:
        written_records = self._ledger.read()  # before the journal, which then has every event of their trials
        for written in self._journal.read():
            with contextlib.suppress(RequestError):  # an odd line; the report names it
                self._mirror.take_event(read_event(written, self._folder.path))
        self._mirror.take_steps()
        for values in written_records:
            try:
                record = self._folder.read(values)
            except RequestError:
                continue
            if isinstance(record, SweepRecord):
                self._sweep = record
                self._mirror.take_sweep(record)
            else:
                self._mirror.take_record(record)

    def _open(self, run: TrackedRun) -> QueuedRun:
        queued = QueuedRun(run, self._wandb, self._closed, self._lost, self._was_opened)
        self._runs.append(queued)
        return queued

    def _was_opened(self, run: WandbRun) -> None:
        self._report.begin(self._sweep or self._folder.load().sweep, run.entity)

    def _closed(self, run: WandbRun, sent: bool) -> None:
        with self._lock:
            if run.url is not None:
                self.status.urls[run.folder.name] = run.url
            if not sent:
                self.status.unsent.append(run.folder.name)

    def _lost(self, name: str) -> None:
        with self._lock:
            self.status.not_whole.append(name)

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        with self._lock:
            write_json(self._status_file, asdict(self.status))


def main() -> int:
    """Runs the mirror until the input ends."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)  # trials have priority, also on a machine with two cores
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = from_mapping(MirrorSettings, json.loads(sys.stdin.readline()), where="mirror settings")
    home = Path(settings.folder) / FOLDER
    os.environ["WANDB_DATA_DIR"] = str(home)  # staged artifact files go there, not to the user's home
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with _alone(home / ".mirror.lock"):
        mirror = SweepMirror(settings)
        mirror.follow(ended)
    return 0


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock: the mirror of an earlier driver may still be sending, and two mirrors would repeat rows."""
    with os.fdopen(open_to_append(path), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # do not wait for threads of wandb that wait for a server
