"""TensorBoard and MLflow hold what the ledger holds: over retries and drivers, whatever a disk or a server does."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.logged_values import compare_mlflow, compare_tensorboard, read_mlflow
from tests.tune_jobs.sweep_files import SweepFiles
from tests.tune_jobs.tiny import write_tiny_grid
from tune_jobs.config.mlflow_server import MlflowServer
from tune_jobs.config.sections import Tracking
from tune_jobs.config.space import Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tune_jobs.driver.trial_loggers import TrialLoggers
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal import Journal
from tune_jobs.tracking.tune_loggers import TENSORBOARD_FOLDER, OpenLogger, check_installed, openers
from tuning_common.errors import RequestError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow under SQLAlchemy 2.1
PATIENCE_S = 300.0


class Driver:
    """Follows a sweep's journal as a driver does, from its beginning."""

    def __init__(self, files: SweepFiles, tracking: Tracking, *, resume: bool = False) -> None:
        self.shown: list[str] = []
        sweep = Sweep(name="night", source="", method="random", count=3, space=Space(), tracking=tracking)
        self.journal = Journal(files.folder.path / JOURNAL_NAME)
        self.folder = files.folder.path / TENSORBOARD_FOLDER
        opened = openers(sweep, files.folder, resume=resume)
        self.loggers = TrialLoggers(self.journal, opened, self.folder, self.shown.append, PATIENCE_S)

    def run(self, files: SweepFiles) -> "Driver":
        """Sees the journal as it is now, as between two events."""
        self.journal.trials.update(Journal(files.folder.path / JOURNAL_NAME).trials)
        self.loggers.update()
        return self


def both(tmp_path: Path) -> Tracking:
    return Tracking(tensorboard=True, mlflow=MlflowServer(uri=f"sqlite:///{tmp_path}/mlflow.db"))


def test_after_two_drivers_both_hold_what_the_ledger_holds(tmp_path: Path) -> None:
    tracking, files = both(tmp_path), SweepFiles(tmp_path / "outputs")
    first = Driver(files, tracking)
    for number in (1, 2, 3):
        files.submit(number, batch_size=8 * number)
        files.report(number, 1, 20.0 + number, step=4)
    first.run(files)
    files.report(1, 2, 30.0, step=8)
    files.end(1, "finished")
    files.retry(2)
    files.start(2)
    first.run(files)
    files.report(2, 1, 22.5, step=4)  # again, from the checkpoint before it
    files.end(3, "failed", "broken", "a wrong value")
    first.run(files).loggers.close()
    assert first.shown == []
    uri, name = tracking.mlflow.uri, tracking.project
    states = {run: state for run, (state, _, _) in read_mlflow(uri, name).items()}
    assert states == {"night_1": "FINISHED", "night_2": "KILLED", "night_3": "FAILED"}

    second = Driver(files, tracking, resume=True)
    second.run(files)
    files.report(2, 2, 25.0, step=8)
    files.end(2, "stopped")
    files.refuse(4, "can run nowhere")
    second.run(files).loggers.close()
    assert second.shown == []
    records = {record.name: record for record in files.folder.load().trials}
    compare_mlflow(uri, name, records)
    for record in records.values():
        if record.status != "refused":
            compare_tensorboard(second.folder / record.name, record)
            assert len(list((second.folder / record.name).iterdir())) == 1


def test_a_logger_that_hangs_or_fails_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    files, never, shown = SweepFiles(tmp_path / "outputs"), threading.Event(), list[str]()

    def hang() -> OpenLogger:
        never.wait()
        raise AssertionError("not reached")

    def fail() -> OpenLogger:
        raise OSError("no space left on device")

    files.submit(1)
    files.report(1, 1, 20.0, step=4)
    loggers = TrialLoggers(files.journal, {"MLflow": hang, "TensorBoard": fail}, tmp_path, shown.append, waits_s=0.1)
    loggers.update()
    loggers.close()
    assert sorted(shown) == [
        "MLflow is not complete: it was not ready in 0.1 s; --resume completes it",
        "TensorBoard is not complete: OSError: no space left on device; the sweep goes on, and its own files are"
        " complete",
    ]
    never.set()


def test_a_trial_of_which_a_value_was_lost_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    files, tracking = SweepFiles(tmp_path / "outputs"), replace(both(tmp_path), tensorboard=False)
    with monkeypatch.context() as broken:

        def lose(*_: object) -> None:
            raise ConnectionError("the server is gone for a moment")

        broken.setattr(MLflowLoggerCallback, "log_trial_result", lose)
        files.submit(1)
        files.report(1, 1, 20.0, step=4)
        files.end(1, "finished")
        first = Driver(files, tracking)
        first.loggers.close()
        assert "MLflow is not complete: ConnectionError: the server is gone for a moment" in first.shown[0]
    Driver(files, tracking, resume=True).loggers.close()
    compare_mlflow(tracking.mlflow.uri, tracking.project, {one.name: one for one in files.folder.load().trials})


def test_a_missing_package_is_refused_with_what_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(Tracking())
    with pytest.raises(RequestError, match=r"tracking\.tensorboard needs the package tensorboardX"):
        check_installed(Tracking(tensorboard=True))
    with pytest.raises(RequestError, match=r"(?s)tracking\.mlflow needs the package mlflow.*pip install mlflow"):
        check_installed(Tracking(mlflow=MlflowServer(uri="sqlite:///mlflow.db")))


@pytest.mark.parametrize(
    "uri",
    ["https://minji:secret@host/", "postgresql://h/db?user=a&password=secret", "http://[a:se/cret#x@host"],
)
def test_an_address_with_a_password_is_refused_without_showing_it(uri: str) -> None:
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        MlflowServer(uri=uri)
    assert "cret" not in str(refused.value)


def test_a_sweep_file_is_refused_with_the_line_and_without_the_password(tmp_path: Path) -> None:
    path = write_tiny_grid(tmp_path / "small.yaml", tracking="mlflow: {uri: 'https://a:secret@h', experimnt: x}")
    with pytest.raises(RequestError, match=r"small\.yaml:\d+: unknown key 'experimnt'; did you mean") as refused:
        load_sweep(path)
    assert "secret" not in str(refused.value)
    path = write_tiny_grid(tmp_path / "small.yaml", tracking="mlflow: {uri: 'https://a:secret@h'}")
    with pytest.raises(RequestError, match=r"small\.yaml:\d+: .*uri must not hold a name or password") as refused:
        load_sweep(path)
    assert "secret" not in str(refused.value)


def test_a_plain_folder_is_refused_and_the_section_is_written_back(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sqlite:///mlflow\.db"):
        MlflowServer(uri="mlruns")
    tracking = replace(both(Path("/a")), mlflow=MlflowServer(uri="https://mlflow.example.org"))
    text = sweep_text(Sweep(name="a", source="", method="grid", space=Space(), tracking=tracking))
    assert '  tensorboard: true\n  mlflow: {uri: "https://mlflow.example.org"}\n' in text
