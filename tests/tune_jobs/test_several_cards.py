"""Trials on several whole cards, without Ray: their bundles, their processes, and what they report."""

import dataclasses
import io
from pathlib import Path

import pytest

from cluster.guard import OutOfMemoryError
from common.errors import DivergedError
from dialsum.config import RunConfig
from tests.tune_jobs.test_monitoring import Recorder
from tests.tune_jobs.test_run_trainable import METRIC, Sent, keep_nothing, order_in
from tests.tune_jobs.test_run_trainable import OutOfMemoryError as TorchOutOfMemoryError
from tune_jobs.driver.metered_view import MeteredView
from tune_jobs.driver.tuner import _bundle, _factory
from tune_jobs.driver.view import LogView
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import Bundle
from tune_jobs.trial.rank_process import RankProcess, RankReporter, RankTask, Word
from tune_jobs.trial.ranks import root_cause
from tune_jobs.trial.recovery import RunShape
from tune_jobs.trial.reporter import StopFile
from tune_jobs.trial.run_trial import attempt


@pytest.mark.parametrize(
    ("bundle", "strategy"),
    [
        (Bundle(cpus=3, gpus=2.0, labels={"gpu-model": "A"}), "STRICT_PACK"),
        (Bundle(cpus=1, gpus=4.0, spread=True), "PACK"),
        (Bundle(cpus=1, gpus=0.25, labels={"gpu-model": "A"}), "PACK"),
        (Bundle(cpus=2), "PACK"),
    ],
)
def test_ray_gets_one_bundle_for_each_card_and_they_are_read_back(bundle: Bundle, strategy: str) -> None:
    factory = _factory(bundle)
    assert (factory.strategy, len(factory.bundles)) == (strategy, bundle.ranks)
    assert sum(one.get("GPU", 0) for one in factory.bundles) == bundle.gpus
    assert _bundle(factory) == bundle


def test_an_out_of_memory_on_several_cards_halves_the_micro_batch_of_each(tmp_path: Path) -> None:
    shapes: list[tuple[int, int]] = []

    def train(config: RunConfig, folder: Path, **parts: object) -> None:
        shapes.append(
            (config.batch_size // config.gradient_accumulation_steps // 2, config.gradient_accumulation_steps)
        )
        if len(shapes) < 3:
            raise OutOfMemoryError("rank 1: no bytes left")

    order = dataclasses.replace(
        order_in(tmp_path, batch_size=16), shape=RunShape(micro_batch=8, accumulation=1, ranks=2)
    )
    attempt(order, train, Sent(), keep_nothing, None)
    assert shapes == [(8, 1), (4, 2), (2, 4)]


def test_the_most_telling_failure_counts() -> None:
    closed = RuntimeError("rank 0: RuntimeError: Connection closed by peer")

    class ActorDiedError(Exception):
        """As Ray's."""

    for blamed in (OutOfMemoryError("x"), DivergedError("x"), ActorDiedError("x")):
        assert root_cause([closed, blamed]) is blamed
    assert root_cause([closed]) is closed


def test_the_first_process_speaks_and_each_is_held_to_its_card(tmp_path: Path) -> None:
    class Card:
        peak_bytes = 5
        checked = 0

        def check(self) -> None:
            self.checked += 1

    said: list[Word] = []
    card = Card()
    stop = StopFile(tmp_path, clock=lambda: 0.0)
    for is_first in (True, False):
        RankReporter(said.append, stop, card, is_first=is_first).log({"train/loss": 1.0})  # type: ignore[arg-type]
    assert said == [Word(kind="log", metrics={"train/loss": 1.0, "trial/held_bytes": 5.0})]
    assert card.checked == 2


def test_a_process_says_its_out_of_memory_without_a_type_of_torch(tmp_path: Path, monkeypatch: object) -> None:
    import tune_jobs.trial.rank_process as module

    def fails(task: RankTask, ask: object) -> None:
        raise TorchOutOfMemoryError("Tried to allocate 2 GiB")

    monkeypatch.setattr(module, "_train", fails)  # type: ignore[attr-defined]
    order = order_in(tmp_path, batch_size=8)
    process = RankProcess()
    with pytest.raises(OutOfMemoryError, match="rank 1: OutOfMemoryError: Tried to allocate"):
        process.train(dataclasses.asdict(RankTask(order=order, config=order.config, rank=1, size=2)))
    assert process.words() == [{"kind": "end", "text": "", "metrics": {}, "checkpoint": None}]


def test_a_trial_on_two_cards_is_a_tenant_of_both() -> None:
    progress = SweepProgress(sweep="s", metric=METRIC, goal="maximize", total=1, longest=4, slots=1, started_s=0.0)
    progress.started(1, "wide", now_s=0.0, share=2.0)
    progress.reported(1, iteration=1, value=1.0, rung=None, now_s=1.0, place=("10.0.0.1", "0,1"))
    recorder = Recorder()
    MeteredView(LogView(io.StringIO()), recorder, "", clock=lambda: 10.0).refresh(progress)
    tenants = [value for key, value in recorder.values.items() if key[0] == "tuning_card_tenants"]
    assert tenants == [1, 1]
