"""Writes the files of a sweep as a driver and its trials would, line by line, for tests of what reads them."""

import time
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.records.outcomes import record_of
from tune_jobs.records.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.records.step_log import StepLog
from tuning_common.files import append_jsonl, write_text

METRIC = "eval/rouge_combined_f1"
ESTIMATE = {"device_bytes": 4_000_000_000, "upper_bytes": 4_400_000_000, "terms": {"weights": 4_000_000_000}}
BUNDLE = {"cpus": 1.0, "gpus": 0.25, "nodes": [], "spread": False}


class SweepFiles:
    """A sweep of a folder.

    Args:
        folder: outputs; the sweep is called `night`.
        parameters: What is searched, as the ledger has it.
    """

    def __init__(self, folder: Path, parameters: dict[str, dict[str, object]] | None = None) -> None:
        self.folder = SweepFolder.of(folder, "night")
        self.experiments = folder / "experiments"
        self.folder.append(SweepRecord(sweep="night", metric=METRIC, goal="maximize", parameters=parameters or {}))
        self.journal = Journal(self.folder.path / JOURNAL_NAME)

    def experiment(self, number: int) -> Path:
        """The folder of a trial."""
        return self.experiments / f"night_{number}"

    def submit(self, number: int, *, batch_size: int = 8) -> None:
        """A trial is submitted and starts."""
        config = RunConfig(model="tiny-bart", batch_size=batch_size).to_dict()
        spec = {
            "number": number,
            "name": f"night_{number}",
            "sampled": {"batch_size": batch_size},
            "config": config,
            "shape": {"micro_batch": 4, "accumulation": 2, "gradient_checkpointing": False},
            "bundle": BUNDLE,
            "estimate": ESTIMATE,
            "notes": [],
            "simulated": True,
            "folder": str(self.experiment(number)),
            "metric": METRIC,
        }
        self.journal.write("submitted", number, spec=spec)
        self.start(number)

    def start(self, number: int) -> None:
        """A trial starts, for the first time or again."""
        self.journal.write("started", number, bundle=BUNDLE, **self._times())

    def step(self, number: int, step: int, loss: float) -> None:
        """A trial logs one step."""
        numbers = {"train/loss": loss, "train/learning_rate": 1e-3 / step, "train/global_step": float(step)}
        StepLog(self.experiment(number) / STEPS_NAME)(numbers)

    def report(self, number: int, evaluation: int, value: float, step: int) -> None:
        """A trial evaluates."""
        metrics = {
            METRIC: value,
            "eval/loss": 3.0 - value / 10,
            "best/rouge_combined_f1": value,
            "train/global_step": float(step),
            "memory/host_rss_bytes": 1e9,
            "trial/held_bytes": 3.9e9,
            "trial/node": "127.0.0.1",
            "trial/card": "0",
        }
        self.journal.write("reported", number, evaluation=evaluation, value=value, metrics=metrics, **self._times())

    def retry(self, number: int) -> None:
        """A trial's process dies and will start again."""
        self.journal.write("retried", number, kind="worker_lost", message="its process died", **self._times())

    def end(self, number: int, status: str, failure: str | None = None, reason: str = "") -> None:
        """A trial is over."""
        trial = self.journal.write("ended", number, status=status, reason=reason, failure=failure, **self._times())
        self.folder.append(record_of(trial, goal="maximize"))

    def refuse(self, number: int, reason: str) -> None:
        """A trial can run nowhere."""
        self.journal.write("submitted", number, spec={"name": f"trial {number}", "sampled": {"batch_size": 512}})
        self.end(number, "refused", "wrong_request", reason)

    def summaries(self, number: int, predictions: list[str], reference: str) -> None:
        """The summaries of a trial's best model, of dialogues d0, d1 and so on."""
        path = self.experiment(number) / "predictions.jsonl"
        write_text(path, "")
        for place, text in enumerate(predictions):
            row = {"fname": f"d{place}", "dialogue": f"#Person1#: 안녕 {place}", "references": [reference]}
            append_jsonl(path, row | {"prediction": text})

    def model(self, number: int) -> None:
        """The weights of a trial's best model."""
        write_text(self.experiment(number) / "models" / "best_model" / "config.json", "{}")

    @staticmethod
    def _times() -> dict[str, float]:
        return {"at": time.time(), "elapsed_s": time.monotonic()}
