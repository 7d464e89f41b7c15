"""A sweep conducted without Ray: trials pause for others, are asked to stop, and go on from there."""

from pathlib import Path

from tests.tune_jobs.conducted import Driver
from tune_jobs.records.trial_spec import LATER
from tune_jobs.team.admission import OpenAdmission
from tune_jobs.team.quotas import Decision


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


def test_when_the_window_closes_trials_end_at_their_next_report_and_none_starts(tmp_path: Path) -> None:
    driver = Driver(tmp_path, ends_at_s=1015.0)
    order = driver.start()
    assert not driver.report(order, 1, 20.0)
    assert driver.report(order, 2, 20.0)
    driver.conductor.ended("key", order, None)
    assert driver.conductor.next_order("key") is None
    (record,) = driver.folder.load().trials
    assert record.status == "stopped"
