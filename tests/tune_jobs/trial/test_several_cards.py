"""Trials on several whole cards, without Ray: their processes and what they report."""

import dataclasses
from pathlib import Path

import pytest

from cluster.guard import OutOfMemoryError
from dialsum.config import RunConfig
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.records.trial_spec import RunShape, TrialSpec
from tune_jobs.trial.rank_process import RankMessage, RankProcess, RankReporter, RankTask
from tune_jobs.trial.ranks import root_cause
from tune_jobs.trial.reporter import StopFile
from tune_jobs.trial.run_trial import attempt
from tuning_common.errors import DivergedError


class TorchOutOfMemoryError(RuntimeError):
    """Is called as torch's own below."""


TorchOutOfMemoryError.__name__ = "OutOfMemoryError"


def spec_in(folder: Path, *, batch_size: int) -> TrialSpec:
    return spec_of(folder, "one", RunConfig(batch_size=batch_size), folder=str(folder / "one"))


def test_an_out_of_memory_on_several_cards_halves_the_micro_batch_of_each(tmp_path: Path) -> None:
    shapes: list[tuple[int, int]] = []

    def train(config: RunConfig, folder: Path, **parts: object) -> None:
        shapes.append(
            (config.batch_size // config.gradient_accumulation_steps // 2, config.gradient_accumulation_steps)
        )
        if len(shapes) < 3:
            raise OutOfMemoryError("rank 1: no bytes left")

    spec = dataclasses.replace(spec_in(tmp_path, batch_size=16), shape=RunShape(micro_batch=8, accumulation=1, ranks=2))
    attempt(spec, train, lambda metrics, checkpoint: None, lambda metrics: None, None)
    assert shapes == [(8, 1), (4, 2), (2, 4)]


def test_the_failure_that_the_others_followed_from_counts() -> None:
    closed = RuntimeError("rank 0: RuntimeError: Connection closed by peer")

    class ActorDiedError(Exception):
        """As Ray's."""

    for blamed in (OutOfMemoryError("x"), DivergedError("x"), ActorDiedError("x")):
        assert root_cause([closed, blamed]) is blamed
    assert root_cause([closed]) is closed


def test_the_first_process_reports_and_each_is_held_to_its_card(tmp_path: Path) -> None:
    class Card:
        peak_bytes = 5
        checked = 0

        def check(self) -> None:
            self.checked += 1

    sent: list[RankMessage] = []
    card = Card()
    stop = StopFile(tmp_path, clock=lambda: 0.0)
    for is_first in (True, False):
        RankReporter(sent.append, stop, card, is_first=is_first).log({"train/loss": 1.0})  # type: ignore[arg-type]
    assert sent == [RankMessage(kind="log", metrics={"train/loss": 1.0, "trial/held_bytes": 5.0})]
    assert card.checked == 2


def test_a_process_reports_its_out_of_memory_without_a_type_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tune_jobs.trial.rank_process as module

    def fails(task: RankTask, ask: object, device_of: object) -> None:
        raise TorchOutOfMemoryError("Tried to allocate 2 GiB")

    monkeypatch.setattr(module, "_train", fails)
    spec = spec_in(tmp_path, batch_size=8)
    process = RankProcess()
    with pytest.raises(OutOfMemoryError, match="rank 1: OutOfMemoryError: Tried to allocate"):
        process.train(dataclasses.asdict(RankTask(spec=spec, config=spec.config, rank=1, size=2)))
    assert process.messages() == [{"kind": "end", "reason": "", "metrics": {}, "checkpoint": None}]
