"""A sweep conducted without Ray: stopped, failed, refused and resumed trials, and what is written about each."""

import io
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.hardware import parse_simulated
from cluster.occupancy import Occupancy
from common.errors import RequestError
from dialsum.config import RunConfig
from tests.tune_jobs.offered import offers_of, placed_order
from tune_jobs.config.anomalies import STALL_FACTOR, STALL_FLOOR_S, Anomalies
from tune_jobs.placing.line import CardLine, Offer
from tune_jobs.records.housekeeping import KEPT_MODELS
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.running.conductor import Clocks, SweepConductor
from tune_jobs.running.journal import Journal
from tune_jobs.running.live import LogView
from tune_jobs.running.orders import LATER, WAITS_KEY, Bundle, TrialOrder
from tune_jobs.running.progress import SweepProgress
from tune_jobs.running.recovery import RunShape
from tune_jobs.search.proposers import Lesson, ListProposer, Sampled
from tune_jobs.search.stopping import RungRule
from tune_jobs.team.admission import Admission, OpenAdmission
from tune_jobs.team.quotas import Decision

METRIC = "eval/rouge_combined_f1"
CARDS = parse_simulated("8xA:24GiB")
HALF = Bundle(cpus=1, gpus=0.5, labels={"gpu-model": "A"})
HALF_BYTES = 11 * 2**30


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


class ActorDiedError(RuntimeError):
    """Named as Ray's own."""


class Proposer(ListProposer):
    """Proposes batches 1, 2, 3, ... and writes down its lessons."""

    def __init__(self, count: int) -> None:
        super().__init__([{"batch_size": size} for size in range(1, count + 1)])
        self.lessons: dict[int, Lesson] = {}

    def learn(self, number: int, lesson: Lesson) -> None:
        self.lessons[number] = lesson


class Orders:
    """Makes orders of half a card; batch 3 fits nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        size = sampled["batch_size"]
        assert isinstance(size, int)
        if size == 3:
            raise RequestError("needs 30.0 GiB, found 24.0 GiB")
        order = TrialOrder(
            number=number,
            name=f"bs{size}",
            sweep="sample",
            bundle=HALF,
            sampled=dict(sampled),
            config=RunConfig(batch_size=size).to_dict(),
            shape=RunShape(micro_batch=size, accumulation=1),
            folder=str(self.folder / "experiments" / f"bs{size}"),
            sweep_folder=str(self.folder),
            cache_dir="cache",
            metric=METRIC,
        )
        return placed_order(order, CARDS, HALF_BYTES)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return offers_of(order, CARDS, HALF_BYTES, least_bytes)


class Driver:
    """One driver process: a conductor over the files of `folder`, driven by hand instead of by Tune."""

    def __init__(
        self,
        folder: Path,
        count: int = 4,
        ends_at_s: float | None = None,
        admission: Admission | None = None,
        anomalies: Anomalies | None = None,
    ) -> None:
        self.now = 1000.0
        self.said = io.StringIO()
        self.left: list[float] = []
        self.proposer = Proposer(count)
        self.orders = Orders(folder)
        self.folder = SweepFolder(folder)
        self.progress = SweepProgress(
            sweep="sample", metric=METRIC, goal="maximize", total=count, longest=3, slots=2, started_s=self.now
        )
        self.conductor = SweepConductor(
            proposer=self.proposer,
            orders=self.orders,
            rule=RungRule(rungs=(1,), eta=2, goal="maximize"),
            progress=self.progress,
            view=LogView(self.said),
            folder=self.folder,
            journal=Journal(folder / "journal.jsonl"),
            cards=CardLine(Occupancy(CARDS)),
            shares=(0.5, 0.75, 1.0),
            anomalies=anomalies,
            ends_at_s=ends_at_s,
            admission=admission,
            clocks=Clocks(elapsed_s=lambda: self.now, now=lambda: self.now),
            all_saved=lambda: self.left.append(self.now),
        )

    def start(self) -> Mapping[str, object]:
        order = self.conductor.next_order("key")
        assert isinstance(order, Mapping)
        self.conductor.started(order, HALF)
        return order

    def report(self, order: Mapping[str, object], evaluation: int, value: float) -> bool:
        self.now += 10
        result = {
            METRIC: value,
            "trial/evaluation": evaluation,
            "memory/device_bytes": 9e9,
            "trial/held_bytes": 5e9,
            "time_total_s": 1.0,
        }
        return self.conductor.reported(order, result)


def test_trials_finish_stop_and_are_refused_and_the_ledger_says_so(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    first = driver.start()
    assert not driver.report(first, 1, 20.0)
    second = driver.start()
    assert driver.report(second, 1, 10.0)
    driver.conductor.ended("key", second, None)
    assert not driver.report(first, 2, 30.0)
    assert not driver.report(first, 3, 25.0)
    driver.conductor.ended("key", first, None)
    fourth = driver.start()
    driver.conductor.ended("key", fourth, ValueError("worker trace\n\nValueError: odd"))
    assert driver.conductor.next_order("key") is None

    records = {record.trial_id: record for record in driver.folder.load().trials}
    assert {name: record.status for name, record in records.items()} == {
        "1": "finished",
        "2": "stopped",
        "3": "refused",
        "4": "failed",
    }
    assert (records["1"].metrics[METRIC], records["1"].best_metrics[METRIC]) == (25.0, 30.0)
    assert [(row["rung"], row["iteration"], row[METRIC]) for row in records["1"].history] == [
        (0.0, 1.0, 20.0),
        (None, 2.0, 30.0),
        (None, 3.0, 25.0),
    ]
    assert (records["1"].wall_s, records["1"].gpu_seconds, records["1"].gpu_model) == (40.0, 20.0, "A")
    assert records["1"].measured == {"device_bytes": 5e9}
    assert records["3"].error is not None
    assert records["3"].error.message == "needs 30.0 GiB, found 24.0 GiB"
    assert records["4"].error is not None
    assert records["4"].error.message == "ValueError: ValueError: odd"
    lessons = {number: (lesson.outcome, lesson.value) for number, lesson in driver.proposer.lessons.items()}
    assert lessons == {
        1: ("finished", 30.0),
        2: ("stopped", 10.0),
        3: ("out_of_memory", None),
        4: ("out_of_memory", None),
    }
    assert (
        "trial 2 stopped, best 10.000 after 1 evaluations: 10 against 20 at rung 1 (2 trials)" in driver.said.getvalue()
    )


def test_an_out_of_memory_leads_to_a_larger_share_with_the_same_labels_and_another_failure_does_not(
    tmp_path: Path,
) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    assert driver.conductor.retried(order, ValueError("odd"), HALF) == HALF
    assert driver.conductor.retried(order, None, HALF) == HALF
    assert driver.conductor.retried(order, OutOfMemoryError("no bytes"), HALF) is None, "not with so little again"
    driver.conductor.ended("key", order, None)
    assert driver.folder.load().trials == (), "it only gave its place back"
    again = driver.conductor.next_order("key")
    assert isinstance(again, Mapping)
    assert (again["number"], again["bundle"]) == (1, asdict(replace(HALF, gpus=0.75)))
    driver.conductor.started(again, replace(HALF, gpus=0.75))
    driver.report(again, 1, 5.0)
    driver.conductor.ended("key", again, None)
    (record,) = driver.folder.load().trials
    assert (record.status, record.share, record.retries) == ("finished", 0.75, 1)
    assert "starts again: out of memory; 0.5 -> 0.75 of a card" in driver.said.getvalue()


def test_a_failure_that_the_trial_sends_is_its_outcome(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    sent = {"trial/failure": "work_failed", "trial/failure_message": "WorkError: the loss became nan"}
    assert driver.conductor.reported(order, sent)
    driver.conductor.ended("key", order, None)
    (record,) = driver.folder.load().trials
    assert record.status == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("work_failed", "WorkError: the loss became nan")
    assert driver.proposer.lessons[1].outcome == "failed"


def test_a_second_driver_goes_on_from_checkpoints_and_repeats_nothing_that_is_over(tmp_path: Path) -> None:
    first = Driver(tmp_path)
    done, open_trial = first.start(), first.start()
    first.report(done, 1, 20.0)
    first.report(open_trial, 1, 30.0)
    first.conductor.saved(open_trial, tmp_path / "tune" / "bs2" / "checkpoint_000000")
    first.conductor.ended("key", done, None)

    second = Driver(tmp_path)
    assert second.progress.count("finished") == 1
    assert second.proposer.lessons[1].value == 20.0
    order = second.start()
    assert (order["number"], order["name"]) == (2, "bs2")
    assert str(order["resume_from"]).endswith("bs2/checkpoint_000000")
    fourth = second.start()  # the third is refused
    assert fourth["number"] == 4
    assert second.report(fourth, 1, 15.0), "the rung still knows both values of the first driver"
    second.conductor.ended("key", fourth, None)
    second.report(order, 2, 31.0)
    second.conductor.ended("key", order, None)
    assert second.conductor.next_order("key") is None
    ledger = (tmp_path / "all_results.jsonl").read_text().splitlines()
    assert len(ledger) == 4
    records = {record.trial_id: record for record in second.folder.load().trials}
    assert [row["iteration"] for row in records["2"].history] == [1.0, 2.0]


def test_a_driver_that_died_between_journal_and_ledger_is_made_good(tmp_path: Path) -> None:
    first = Driver(tmp_path)
    order = first.start()
    first.report(order, 1, 20.0)
    first.conductor.ended("key", order, None)
    (tmp_path / "all_results.jsonl").unlink()
    (record,) = Driver(tmp_path).folder.load().trials
    assert (record.trial_id, record.status) == ("1", "finished")


def test_when_the_window_closes_trials_end_at_their_next_report_and_none_starts(tmp_path: Path) -> None:
    driver = Driver(tmp_path, ends_at_s=1015.0)
    order = driver.start()
    assert not driver.report(order, 1, 20.0)
    assert driver.report(order, 2, 20.0)
    driver.conductor.ended("key", order, None)
    assert driver.conductor.next_order("key") is None
    (record,) = driver.folder.load().trials
    assert record.status == "stopped"


def test_checkpoints_go_when_a_trial_is_over_and_its_best_model_stays(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    folder = Path(str(order["folder"]))
    for path in (folder / "checkpoint-8", folder / "models" / "best_model", tmp_path / "tune" / "bs1" / "checkpoint_0"):
        path.mkdir(parents=True)
    driver.conductor.saved(order, tmp_path / "tune" / "bs1" / "checkpoint_0")
    driver.report(order, 1, 20.0)
    driver.conductor.ended("key", order, None)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "models"]
    assert not (tmp_path / "tune" / "bs1").exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_json_does_not_have_do_not_stop_the_sweep(tmp_path: Path, value: float) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    driver.conductor.reported(order, {METRIC: 1.0, "trial/evaluation": 1, "train/grad_norm": value})
    assert "train/grad_norm" not in Journal(tmp_path / "journal.jsonl").trials[1].evaluations[1].metrics


def test_a_trial_that_does_not_report_for_long_is_ended_once(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    silent, speaking = driver.start(), driver.start()
    driver.now += STALL_FLOOR_S - 100
    assert driver.conductor.tick() == []
    driver.report(speaking, 1, 5.0)
    driver.now += 200
    assert (
        driver.conductor.tick() == []
    )  # the longest silence so far was nearly half an hour: ten times that is allowed
    driver.now += STALL_FACTOR * STALL_FLOOR_S - 250
    driver.report(speaking, 2, 5.0)
    assert driver.conductor.tick() == []
    driver.now += 10 * STALL_FACTOR * STALL_FLOOR_S
    assert driver.conductor.tick() == [1, 2]
    assert driver.conductor.tick() == []
    assert "trial 1 hangs: no report for" in driver.said.getvalue()
    driver.conductor.retried(silent, None, Bundle(cpus=1, gpus=0.5))
    driver.conductor.started(silent, Bundle(cpus=1, gpus=0.5))
    assert driver.conductor.tick() == []


def test_a_trial_that_hung_and_is_started_again_says_so(tmp_path: Path) -> None:
    driver = Driver(tmp_path, anomalies=Anomalies(stall_after="20m"))
    order = driver.start()
    driver.now += 1201
    assert driver.conductor.tick() == [1]
    half = Bundle(cpus=1, gpus=0.5)
    assert driver.conductor.retried(order, ActorDiedError("killed"), half) == half
    assert "trial 1 failed and starts again: stalled (no report for 20 min" in driver.said.getvalue()
    assert Journal(tmp_path / "journal.jsonl").trials[1].retries == ["stalled"]
    driver.conductor.started(order, half)
    assert driver.conductor.retried(order, ActorDiedError("killed"), half) == half
    assert Journal(tmp_path / "journal.jsonl").trials[1].retries == ["stalled", "worker_lost"]


@pytest.mark.parametrize(
    ("policy", "hangs", "kind", "message"),
    [
        (Anomalies(stalled="stop", stall_after="20m"), True, "stalled", "no report for 20 min 00 s: its process hung"),
        (Anomalies(lost_worker="stop"), False, "worker_lost", "ActorDiedError: node gone"),
    ],
)
def test_by_policy_a_trial_that_went_wrong_is_not_started_again(
    tmp_path: Path, policy: Anomalies, hangs: bool, kind: str, message: str
) -> None:
    driver = Driver(tmp_path, anomalies=policy)
    order = driver.start()
    if hangs:
        driver.now += 1201
        assert driver.conductor.tick() == [1]
    assert driver.conductor.retried(order, ActorDiedError("node gone"), Bundle(cpus=1, gpus=0.5)) is None
    driver.conductor.ended("key", order, None)
    (record,) = driver.folder.load().trials
    assert (record.status, record.retries) == ("failed", 0)
    assert record.error is not None
    assert record.error.type == kind
    assert record.error.message.startswith(message)
    assert driver.proposer.lessons[1].outcome == "out_of_memory", "it says nothing about the configuration"


def test_a_training_that_diverged_teaches_that_its_configuration_is_bad(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    sent = {"trial/failure": "diverged", "trial/failure_message": "DivergedError: the training loss exploded"}
    assert driver.conductor.reported(order, sent)
    driver.conductor.ended("key", order, None)
    assert driver.proposer.lessons[1].outcome == "failed"


def test_the_weights_of_the_best_trials_stay_and_all_numbers(tmp_path: Path) -> None:
    driver = Driver(tmp_path, count=12)
    for place in range(9):
        order = driver.start()
        (Path(str(order["folder"])) / "models" / "best_model").mkdir(parents=True)
        driver.report(order, 1, 100.0 - 7 * (place % 4) - place)
        driver.conductor.ended("key", order, None)
    records = sorted(driver.folder.load().trials, key=lambda record: -record.best_metrics.get(METRIC, 0.0))
    kept = [(Path(record.experiment_dir) / "models").exists() for record in records if record.status != "refused"]
    assert kept == [True] * KEPT_MODELS + [False] * (9 - KEPT_MODELS)
    assert all((Path(record.experiment_dir) / "metrics.json").exists() for record in records if record.experiment_dir)


class OneAtATime(OpenAdmission):
    """Lets one trial in; a test says when it must give its place back."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.asked: list[tuple[str, float, int]] = []
        self.wanted_back = False

    def ask(self, trial: str, gpus: float, further: int = 0) -> Decision:
        self.asked.append((trial, gpus, further))
        if self.held:
            return Decision(verdict="waits", reason=f"{self.held[0]} holds the card")
        self.held.append(trial)
        return Decision(verdict="own", reason="")

    def over(self, trial: str) -> None:
        self.held.remove(trial)

    def must_pause(self, trial: str) -> str | None:
        return "jun asked" if self.wanted_back else None


def test_a_trial_pauses_at_its_report_and_goes_on_from_there_behind_those_that_wait(tmp_path: Path) -> None:
    door = OneAtATime()
    driver = Driver(tmp_path, count=2, admission=door)
    first = driver.start()
    assert driver.conductor.next_order("key") == LATER
    assert driver.conductor.next_order("key") == LATER
    assert door.asked == [("bs1", 0.5, 1), ("bs2", 0.5, 0), ("bs2", 0.5, 0)]
    assert "trial 2 waits: bs1 holds the card" in driver.said.getvalue()
    assert driver.said.getvalue().count("waits") == 1
    assert driver.progress.trials[2].reason == "bs1 holds the card"
    driver.conductor.saved(first, tmp_path / "tune" / "bs1_a" / "checkpoint_000000")
    door.wanted_back = True
    assert driver.report(first, 1, 20.0)
    driver.conductor.ended("key", first, None)
    door.wanted_back = False
    assert driver.folder.load().trials == ()
    assert (driver.progress.trials[1].status, driver.progress.trials[1].reason) == ("paused", "jun asked")
    assert not driver.conductor.is_over

    driver.now += 1000
    second = driver.start()
    assert second["number"] == 2
    assert driver.report(second, 1, 30.0) is False
    driver.conductor.ended("key", second, None)
    again = driver.start()
    assert (again["number"], str(again["resume_from"])[-23:]) == (1, "bs1_a/checkpoint_000000")
    assert not driver.report(again, 2, 21.0)
    assert driver.conductor.next_order("key") == LATER, "a running trial may come back"
    driver.conductor.ended("key", again, None)
    assert driver.conductor.next_order("key") is None
    assert driver.conductor.is_over
    records = {record.trial_id: record for record in driver.folder.load().trials}
    assert (records["1"].status, records["1"].gpu_seconds, records["1"].retries) == ("finished", 10.0, 0)
    assert [(row["iteration"], row["wall_s"]) for row in records["1"].history] == [(1.0, 10.0), (2.0, 20.0)]
    assert "trial 1 goes on after a pause" in driver.said.getvalue()


def test_a_trial_that_is_about_to_end_is_not_paused(tmp_path: Path) -> None:
    door = OneAtATime()
    driver = Driver(tmp_path, count=1, admission=door)
    order = driver.start()
    assert [driver.report(order, number, 20.0) for number in (1, 2)] == [False, False]
    door.wanted_back = True
    assert driver.report(order, 3, 20.0) is False
    driver.conductor.ended("key", order, None)
    assert driver.folder.load().trials[0].status == "finished"


def test_a_trial_that_has_made_all_its_evaluations_is_finished_whatever_the_rule_says(tmp_path: Path) -> None:
    driver = Driver(tmp_path, count=2)
    good, bad = driver.start(), driver.start()
    assert [driver.report(good, 1, 20.0), driver.report(bad, 3, 1.0)] == [False, False]
    driver.conductor.ended("key", bad, None)
    assert [record.status for record in driver.folder.load().trials] == ["finished"]


def test_a_driver_killed_in_a_pause_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    door = OneAtATime()
    driver = Driver(tmp_path, count=1, admission=door)
    order = driver.start()
    driver.conductor.saved(order, tmp_path / "tune" / "bs1_a" / "checkpoint_000000")
    door.wanted_back = True
    driver.report(order, 1, 20.0)
    driver.conductor.ended("key", order, None)
    second = Driver(tmp_path, count=1)
    again = second.start()
    assert str(again["resume_from"]).endswith("bs1_a/checkpoint_000000")
    second.report(again, 2, 22.0)
    second.conductor.ended("key", again, None)
    (record,) = second.folder.load().trials
    assert (record.status, record.retries, record.gpu_seconds) == ("finished", 0, 10.0)


def test_the_checkpoints_of_an_earlier_start_go_when_the_next_start_has_one(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    folders = [tmp_path / "tune" / name for name in ("bs1_a/checkpoint_0", "bs1_a/checkpoint_1", "bs1_b/checkpoint_0")]
    for folder in folders:
        folder.mkdir(parents=True)
        driver.conductor.saved(order, folder)
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_asked_to_stop_trials_save_where_they_are_and_none_starts(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    within, at_evaluation = driver.start(), driver.start()
    driver.conductor.tick()
    assert not (tmp_path / "stop").exists()
    driver.conductor.stop()
    driver.conductor.tick()
    assert (tmp_path / "stop").exists()
    assert driver.left == [], "two trials run"
    assert driver.conductor.next_order("key") is None
    assert driver.conductor.reported(within, {"trial/interrupted": True})
    driver.conductor.saved(within, tmp_path / "tune" / "bs1" / "checkpoint_0")
    driver.conductor.ended("key", within, None)
    assert driver.report(at_evaluation, 1, 5.0), "its evaluation has a checkpoint of its own"
    driver.conductor.ended("key", at_evaluation, None)
    driver.conductor.tick()
    driver.conductor.tick()
    assert driver.left == [driver.now]
    assert not driver.conductor.is_over
    assert driver.folder.load().trials == (), "nothing is over"

    second = Driver(tmp_path)
    again = second.start()
    assert (again["number"], str(again["resume_from"])) == (1, str(tmp_path / "tune" / "bs1" / "checkpoint_0"))
    assert "goes on after a pause" in second.said.getvalue()
    assert second.start()["number"] == 2


def test_asked_to_stop_a_trial_that_has_just_made_its_last_evaluation_ends_as_usual(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    driver.conductor.stop()
    driver.conductor.tick()
    assert not driver.report(order, 3, 5.0)
    driver.conductor.ended("key", order, None)
    assert [record.status for record in driver.folder.load().trials] == ["finished"]


def test_a_trial_that_waits_for_its_storage_is_not_taken_for_hanging(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    for _ in range(70):  # minutes
        driver.now += 60.0
        assert not driver.conductor.reported(order, {WAITS_KEY: "no space left"})
        assert driver.conductor.tick() == []
    assert driver.said.getvalue().count("trial 1 waits with what it holds: no space left") == 1
    assert driver.progress.trials[1].reason == "no space left"
    driver.report(order, 1, 20.0)
    assert driver.progress.trials[1].reason == ""
