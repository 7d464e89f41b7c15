"""Reads what TensorBoard and MLflow would show, and holds it against the ledger, value by value."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tune_jobs.records.ledger import TrialRecord

_PREFIX = "ray/tune/"  # of Tune's callback


@dataclass(kw_only=True)
class TensorBoardRun:
    """What one folder of event files holds."""

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    hyperparameters: dict[str, object] = field(default_factory=dict)


def read_tensorboard(folder: Path) -> TensorBoardRun:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    run = TensorBoardRun()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in _records(path.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                plugin = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if value.HasField("simple_value"):
                    run.scalars.setdefault(value.tag.removeprefix(_PREFIX), {})[event.step] = value.simple_value
                elif plugin.HasField("session_start_info"):
                    pairs = plugin.session_start_info.hparams
                    run.hyperparameters = {name: getattr(one, one.WhichOneof("kind")) for name, one in pairs.items()}
    return run


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, the record, its checksum."""
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + size]
        content = content[16 + size :]


def wanted_scalars(record: TrialRecord) -> dict[str, dict[int, float]]:
    """Metrics by name and evaluation, as in the ledger."""
    wanted: dict[str, dict[int, float]] = {}
    for row in record.history:
        for name, value in row.items():
            if "/" in name and value is not None:
                wanted.setdefault(name, {})[int(row["iteration"] or 0)] = value
    return wanted


def compare_tensorboard(folder: Path, record: TrialRecord) -> None:
    """Every metric of every evaluation, and the searched values."""
    run = read_tensorboard(folder)
    for name, series in wanted_scalars(record).items():
        assert run.scalars[name] == {step: _single(value) for step, value in series.items()}, name
    assert run.hyperparameters == record.sampled


def _single(value: float) -> float:
    """TensorBoard keeps 32 bits."""
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return single


def read_mlflow(uri: str, experiment: str) -> dict[str, tuple[str, Mapping[str, str], dict[str, dict[int, float]]]]:
    """State, parameters and metrics of each run, by name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = {}
    for run in client.search_runs([found.experiment_id]):
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        metrics = {
            name: {one.step: one.value for one in sorted(history, key=lambda one: one.timestamp)}
            for name, history in histories.items()
        }
        assert run.info.run_name not in runs, "one run for each trial"
        runs[run.info.run_name] = (run.info.status, run.data.params, metrics)
    return runs


def compare_mlflow(uri: str, experiment: str, records: Mapping[str, TrialRecord]) -> None:
    """Every metric of every evaluation, the whole configuration, and how each trial ended."""
    runs = read_mlflow(uri, experiment)
    assert set(runs) == set(records)
    for name, (status, parameters, metrics) in runs.items():
        record = records[name]
        assert status == ("FINISHED" if record.status in ("finished", "stopped") else "FAILED")
        assert {key: parameters[key] for key in record.resolved} == {k: str(v) for k, v in record.resolved.items()}
        wanted = wanted_scalars(record)
        assert {key: metrics[key] for key in wanted} == wanted
