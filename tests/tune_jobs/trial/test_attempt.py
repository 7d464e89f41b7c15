"""A trial in its process: reports with a count over restarts, smaller after an out-of-memory, failures told apart."""

import errno
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tests.tune_jobs.linear_devices import LinearDevice, LinearDevices
from tests.tune_jobs.specs_of import METRIC, spec_of
from tune_jobs.records.trial_spec import (
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    STOP_FILE,
    WAITING_KEY,
    Bundle,
    RunShape,
    TrialSpec,
)
from tune_jobs.records.trial_state import evaluations_of, losses_of, write_state
from tune_jobs.trial.hold import hold
from tune_jobs.trial.reporter import POLL_S, TrialReporter
from tune_jobs.trial.run_trial import ATTEMPTS_FILE, MOST_VANISHED, attempt
from tune_jobs.trial.storage import TrialStorage
from tuning_common.errors import RequestError, WorkError
from tuning_common.files import read_jsonl
from tuning_common.storage import LIMIT_S, Backoff


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


def keep_nothing(metrics: Mapping[str, float]) -> None:
    """Where the steps go is another test's matter."""


def spec_in(folder: Path, *, batch_size: int = 8) -> TrialSpec:
    config = RunConfig(batch_size=batch_size)
    return spec_of(folder, "one", config, sampled={"batch_size": batch_size}, folder=str(folder / "one"))


class Sent:
    """What the driver would hear."""

    def __init__(self) -> None:
        self.reports: list[dict[str, object]] = []

    def __call__(self, metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        self.reports.append(dict(metrics))


def trainer(
    folder: Path, script: Callable[[RunConfig, Path | None], list[float]]
) -> tuple[Callable[..., None], list[tuple[int, str | None]]]:
    """A trainer whose values for one attempt come from `script`; writes down (micro-batch, checkpoint) of each."""
    attempts: list[tuple[int, str | None]] = []

    def train(
        config: RunConfig, output_dir: Path, *, reporter: Reporter, resume_from: Path | None, **options: object
    ) -> None:
        attempts.append((config.micro_batch, resume_from.name if resume_from else None))
        for value in script(config, resume_from):
            checkpoint = output_dir / f"checkpoint-{len(attempts)}-{value:g}"
            checkpoint.mkdir(parents=True)
            reporter.log({"memory/device_bytes": 100.0 * value})
            reporter.report({METRIC: value, "train/global_step": 1.0}, checkpoint)
        if config.micro_batch > 2:
            raise OutOfMemoryError("no bytes left")

    return train, attempts


def test_a_specification_survives_the_trip_as_json(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_each_out_of_memory_halves_the_micro_batch_and_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    sent = Sent()
    train, attempts = trainer(tmp_path, lambda config, start: {8: [1.0], 4: [], 2: [2.0, 3.0]}[config.micro_batch])
    attempt(spec_in(tmp_path), train, sent, keep_nothing, None)
    assert attempts == [(8, None), (4, "checkpoint-1-1"), (2, "checkpoint-1-1")]
    assert [report["trial/evaluation"] for report in sent.reports] == [1, 2, 3]
    assert [(report["trial/micro_batch"], report["trial/accumulation"]) for report in sent.reports] == [
        (8, 1),
        (2, 4),
        (2, 4),
    ]
    assert sent.reports[-1]["memory/device_bytes"] == 300.0
    records, _ = read_jsonl(tmp_path / "one" / ATTEMPTS_FILE)
    plain = {
        "gradient_checkpointing": False, "ranks": 1, "sharded": False, "loss_batch": None, "generation_batch": None,
    }  # fmt: skip
    assert [(record["kind"], record["next_shape"]) for record in records] == [
        ("out_of_memory", {"micro_batch": 4, "accumulation": 2, **plain}),
        ("out_of_memory", {"micro_batch": 2, "accumulation": 4, **plain}),
    ]


def test_the_batches_of_an_evaluation_follow_the_shape_and_halve_with_it(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def train(config: RunConfig, output_dir: Path, *, reporter: Reporter, **options: object) -> None:
        seen.append((config.loss_batch, config.generation_batch))
        if len(seen) < 3:
            raise OutOfMemoryError("no bytes left")
        reporter.report({METRIC: 1.0, "train/global_step": 1.0}, None)

    shape = RunShape(micro_batch=8, accumulation=1, loss_batch=16, generation_batch=64)
    sent = Sent()
    attempt(replace(spec_in(tmp_path), shape=shape), train, sent, keep_nothing, None)
    assert seen == [(16, 64), (8, 32), (4, 16)]
    assert (sent.reports[-1]["trial/loss_batch"], sent.reports[-1]["trial/generation_batch"]) == (4, 16)


def test_at_the_smallest_shape_the_driver_gets_the_failure_and_the_process_ends(tmp_path: Path) -> None:
    def train(config: RunConfig, output_dir: Path, **kwargs: object) -> None:
        raise OutOfMemoryError("no bytes left")

    sent = Sent()
    with pytest.raises(OutOfMemoryError):
        attempt(spec_in(tmp_path, batch_size=2), train, sent, keep_nothing, None)
    assert [report[FAILURE_KEY] for report in sent.reports] == ["out_of_memory"]
    records, _ = read_jsonl(tmp_path / "one" / ATTEMPTS_FILE)
    assert [record["next_shape"] is None for record in records] == [False, False, True]


def test_the_count_goes_on_from_the_checkpoint_of_an_earlier_process(tmp_path: Path) -> None:
    start = tmp_path / "checkpoint-9"
    start.mkdir()
    write_state(start, evaluations=3, losses=None)
    sent = Sent()
    train, attempts = trainer(tmp_path, lambda config, start: [5.0])
    attempt(spec_in(tmp_path, batch_size=2), train, sent, keep_nothing, start)
    assert attempts == [(2, "checkpoint-9")]
    assert [report["trial/evaluation"] for report in sent.reports] == [4]


def storage_of(folder: Path, slept: list[float]) -> TrialStorage:
    """The storage of a trial in a folder; its clock runs with its sleeps."""
    backoff = Backoff(elapsed_s=lambda: sum(slept))
    watched = (folder.parent / "journal.jsonl").exists()
    return TrialStorage(folder=folder, sweep_folder=folder.parent, watched=watched, backoff=backoff, sleep=slept.append)


def vanishing(folder: Path, times: int) -> tuple[Callable[..., None], list[str | None]]:
    """A trainer that meets the vanished folder of its own checkpoint so often, in torch's words."""
    starts: list[str | None] = []

    def train(config: RunConfig, output_dir: Path, *, resume_from: Path | None, **options: object) -> None:
        starts.append(resume_from.name if resume_from else None)
        if len(starts) <= times:
            raise RuntimeError(f"Parent directory {output_dir}/checkpoint-20 does not exist.")

    return train, starts


def test_a_checkpoint_that_vanishes_while_it_is_written_is_the_storages_fault(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    (tmp_path / "whole").mkdir()
    write_state(tmp_path / "whole", evaluations=1, losses=None)
    sent = Sent()
    train, starts = vanishing(tmp_path, 1)
    spec, slept = spec_in(tmp_path), list[float]()
    storage = storage_of(Path(spec.folder), slept)
    attempt(spec, train, sent, keep_nothing, None, persisted=lambda: tmp_path / "whole", storage=storage)
    assert starts == [None, "whole"]
    assert slept == [5.0]
    assert [report for report in sent.reports if FAILURE_KEY in report] == []


def full(times: int, path: Path) -> Callable[..., None]:
    """A trainer that finds no room for a file so often, then reports once."""
    left = [times]

    def train(config: RunConfig, output_dir: Path, *, reporter: Reporter, **options: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        reporter.report({METRIC: 1.0}, None)

    return train


def test_a_full_disk_elsewhere_is_waited_for_with_pauses_that_grow(tmp_path: Path) -> None:
    """As of the temporary folder: there is room in the trial's own folder all the time."""
    sent, slept, spec = Sent(), list[float](), spec_in(tmp_path)
    train = full(6, tmp_path / "scratch/model.bin")
    attempt(spec, train, sent, keep_nothing, None, storage=storage_of(Path(spec.folder), slept))
    assert slept == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    reasons = [str(report[WAITING_KEY]) for report in sent.reports if WAITING_KEY in report]
    assert len(reasons) == 6
    assert reasons[0].startswith(f"no space left ({tmp_path}/scratch/model.bin), needs ")
    assert sent.reports[-1][METRIC] == 1.0


def test_a_disk_elsewhere_that_stays_full_fails_the_trial_after_one_limit_over_all_tries(tmp_path: Path) -> None:
    sent, slept, spec = Sent(), list[float](), spec_in(tmp_path)
    train = full(10**6, tmp_path / "scratch/model.bin")
    with pytest.raises(OSError, match="no space left, for too long"):
        attempt(spec, train, sent, keep_nothing, None, storage=storage_of(Path(spec.folder), slept))
    assert LIMIT_S <= sum(slept) <= LIMIT_S + 60
    assert str(sent.reports[-1][FAILURE_MESSAGE_KEY]).endswith(f"for too long: '{tmp_path}/scratch/model.bin'")


def test_what_vanishes_again_and_again_is_no_storage_but_a_fault(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    sent = Sent()
    train, starts = vanishing(tmp_path, 99)
    spec = spec_in(tmp_path)
    with pytest.raises(RuntimeError, match="Parent directory"):
        attempt(spec, train, sent, keep_nothing, None, storage=storage_of(Path(spec.folder), []))
    assert len(starts) == 1 + MOST_VANISHED


def test_a_missing_file_elsewhere_is_a_fault_at_once(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    sent, starts = Sent(), []

    def train(config: RunConfig, output_dir: Path, **options: object) -> None:
        starts.append(output_dir)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/train.csv")

    with pytest.raises(FileNotFoundError):
        attempt(spec_in(tmp_path), train, sent, keep_nothing, None)
    assert len(starts) == 1


def exploding(config: RunConfig, output_dir: Path, *, reporter: Reporter, **options: object) -> None:
    for loss in (3.0, 2.0, 9.0, 9.5):
        reporter.log({"train/loss": loss, "train/learning_rate": 0.1})


@pytest.mark.parametrize(("factor", "said"), [(4.0, 1), (None, 0)])
def test_an_exploding_loss_is_the_outcome_of_a_trial(tmp_path: Path, factor: float | None, said: int) -> None:
    sent = Sent()
    attempt(replace(spec_in(tmp_path), exploding_loss=factor), exploding, sent, keep_nothing, None)
    assert [report["trial/failure"] for report in sent.reports] == ["diverged"] * said
    if said:
        assert sent.reports[0]["trial/failure_message"] == (
            "DivergedError: the training loss exploded: 9.5 after a lowest of 2; "
            "a smaller learning rate (now 0.1) or a longer warm-up would help"
        )


@pytest.mark.parametrize(
    ("error", "kind"), [(RequestError("bad data"), "wrong_request"), (WorkError("no disk"), "work_failed")]
)
def test_a_failure_that_leaves_the_process_well_is_only_sent(tmp_path: Path, error: Exception, kind: str) -> None:
    def train(config: RunConfig, output_dir: Path, **kwargs: object) -> None:
        raise error

    sent = Sent()
    attempt(spec_in(tmp_path), train, sent, keep_nothing, None)
    (report,) = sent.reports
    assert report == {"trial/failure": kind, "trial/failure_message": f"{type(error).__name__}: {error}"}


def test_an_unexplained_error_is_sent_and_ends_the_process(tmp_path: Path) -> None:
    def train(config: RunConfig, output_dir: Path, **kwargs: object) -> None:
        raise ValueError("odd")

    sent = Sent()
    with pytest.raises(ValueError, match="odd"):
        attempt(spec_in(tmp_path), train, sent, keep_nothing, None)
    assert sent.reports == [{FAILURE_KEY: "error", FAILURE_MESSAGE_KEY: "ValueError: odd"}]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [({"eval/loss": 1.0}, f"no {METRIC} among the reported eval/loss"), ({METRIC: math.nan}, "became nan")],
)
def test_a_report_without_a_usable_metric_ends_the_trial_with_a_reason(
    tmp_path: Path, metrics: dict[str, float], message: str
) -> None:
    def train(config: RunConfig, output_dir: Path, *, reporter: Reporter, **kwargs: object) -> None:
        reporter.report(metrics, output_dir)

    sent = Sent()
    attempt(spec_in(tmp_path), train, sent, keep_nothing, None)
    assert message in str(sent.reports[0]["trial/failure_message"])


def test_a_process_that_outgrows_its_share_gets_smaller_and_with_more_of_a_card_it_would_not(tmp_path: Path) -> None:
    device_of = LinearDevices({"one": LinearDevice(fixed_bytes=2 * 2**30, bytes_per_sample=2**30)})

    def train(config: RunConfig, output_dir: Path, *, reporter: Reporter, limit_bytes: int, **options: object) -> None:
        limits.append(limit_bytes)
        reporter.log({"train/loss": 1.0})
        reporter.report({METRIC: 1.0}, None)

    for gpus, micro_batches, share in ((0.25, [4], 6.0), (0.5, [8], 12.0), (1.0, [8], 24.0)):
        limits: list[int] = []
        sent = Sent()
        spec = replace(
            spec_in(tmp_path),
            bundle=Bundle(cpus=1, gpus=gpus),
            usable_bytes=24 * 2**30,
            context_bytes=2**29,
            simulated=True,
        )
        attempt(spec, train, sent, keep_nothing, None, device_of=device_of)
        assert [report["trial/micro_batch"] for report in sent.reports] == micro_batches
        assert sent.reports[0]["trial/held_bytes"] == (2 + micro_batches[0]) * 2.0**30
        assert {limit / 2**30 for limit in limits} == {share - 0.5}


def test_without_a_card_nothing_is_held(tmp_path: Path) -> None:
    assert hold(spec_in(tmp_path), RunShape(micro_batch=1, accumulation=1)) is None
    simulated = replace(spec_in(tmp_path), usable_bytes=2**30, simulated=True)
    assert hold(simulated, RunShape(micro_batch=1, accumulation=1)) is None


def test_a_trial_waits_for_its_share_of_a_real_card_says_why_and_gives_up_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Card:
        def left_bytes(self, context_bytes: int) -> int:
            return context_bytes

    def wait(need_bytes: int, visible: str, tell: Callable[[str], None]) -> float:
        tell(f"{visible} needs {need_bytes / 2**30:g} GiB")
        raise WorkError("after an hour the card is still full")

    monkeypatch.setattr("tune_jobs.trial.hold.CudaDevice", Card)
    monkeypatch.setattr("tune_jobs.trial.hold.wait_for_card", wait)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    spec = replace(spec_in(tmp_path), usable_bytes=24 * 2**30, context_bytes=2**30, bundle=Bundle(cpus=1, gpus=0.25))
    train, _ = trainer(tmp_path, lambda config, start: [1.0])
    sent = Sent()
    attempt(spec, train, sent, keep_nothing, None)
    assert sent.reports == [
        {WAITING_KEY: "3 needs 5 GiB"},
        {FAILURE_KEY: "work_failed", FAILURE_MESSAGE_KEY: "WorkError: after an hour the card is still full"},
    ]


def test_a_stop_by_the_driver_passes_through(tmp_path: Path) -> None:
    def stop(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        raise SystemExit(0)

    train, _ = trainer(tmp_path, lambda config, start: [1.0])
    with pytest.raises(SystemExit):
        attempt(spec_in(tmp_path), train, stop, keep_nothing, None)


def test_a_trial_looks_for_the_stop_file_now_and_then_and_sends_a_checkpoint_that_knows_its_count(
    tmp_path: Path,
) -> None:
    now, sent = [0.0], Sent()
    spec = replace(spec_in(tmp_path), exploding_loss=4.0)
    reporter = TrialReporter(spec, sent, keep_nothing, evaluations=4, clock=lambda: now[0])
    assert not reporter.wants_checkpoint()
    (tmp_path / STOP_FILE).write_text("stop")
    assert not reporter.wants_checkpoint(), "it has just looked"
    now[0] += POLL_S
    assert reporter.wants_checkpoint()
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    for loss in (7.0, 2.0, 3.0):
        reporter.log({"train/loss": loss})
    reporter.interrupted(checkpoint)
    assert sent.reports == [{"trial/interrupted": True}]
    assert (evaluations_of(checkpoint), losses_of(checkpoint)) == (4, (7.0, 2.0))


def test_a_resumed_trial_compares_its_loss_with_where_it_began(tmp_path: Path) -> None:
    """Late in a training the loss is low: four times that is still far below its first."""
    start = tmp_path / "checkpoint-9"
    start.mkdir()
    write_state(start, evaluations=3, losses=(7.0, 0.5))

    def rises_a_little(config: RunConfig, output_dir: Path, *, reporter: Reporter, **options: object) -> None:
        for loss in (0.6, 3.0, 3.5, 4.0):
            reporter.log({"train/loss": loss})

    sent = Sent()
    attempt(replace(spec_in(tmp_path), exploding_loss=4.0), rises_a_little, sent, keep_nothing, start)
    assert sent.reports == []
