"""A queue that explains itself: who waits for what, held by whom, since when; in the log, the view and the journal."""

from pathlib import Path

from common.files import read_jsonl
from tests.tune_jobs.conducted import HALF, Driver, OutOfMemoryError
from tune_jobs.driver.conductor import WAIT_SAID_S
from tune_jobs.driver.pending import Holder, why_pending
from tune_jobs.records.trial_spec import Bundle


def test_every_kind_of_wait_in_words() -> None:
    whole = Bundle(cpus=2, gpus=1.0, labels={"gpu-model": "B"})
    running = tuple(Holder(number=number, bundle=HALF) for number in range(1, 9))
    texts = [
        why_pending(HALF, 31, running[:1]),
        why_pending(HALF, 31, running),
        why_pending(whole, 3700, running),
        why_pending(Bundle(cpus=2, gpus=2.0, labels={"gpu-model": "A"}), 31, running[:2]),
        why_pending(Bundle(cpus=2), 31, ()),
        why_pending(Bundle(cpus=2), 31, (Holder(number=1, bundle=Bundle(cpus=2)),)),
    ]
    assert texts == [
        "for 31 s for 0.5 of a card (A), where trial 1 holds 0.5",
        "for 31 s for 0.5 of a card (A), where trial 1 holds 0.5, trial 2 holds 0.5, trial 3 holds 0.5, trial 4 holds"
        " 0.5, trial 5 holds 0.5, trial 6 holds 0.5 and 2 more hold the rest",
        "for 1 h 01 min for a whole card (B) and 2 CPUs beside it; no trial of this sweep runs there, so others hold"
        " them: see `ray status`",
        "for 31 s for 2 whole cards (A), where trial 1 holds 0.5 and trial 2 holds 0.5",
        "for 31 s for 2 CPUs of one machine",
        "for 31 s for 2 CPUs of one machine; 1 of this sweep's trials run",
    ]


def test_a_long_wait_is_said_once_and_again_when_it_has_doubled(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.start()
    waiting = driver.conductor.next_order("key")  # has its order, and no place yet
    assert waiting is not None
    for _ in range(7):
        driver.conductor.tick()
        driver.now += WAIT_SAID_S / 2
    said = [line for line in driver.said.getvalue().splitlines() if line.startswith("trial 2 waits")]
    assert said == [
        "trial 2 waits for 30 s for 0.5 of a card (A), where trial 1 holds 0.5",
        "trial 2 waits for 1 min 00 s for 0.5 of a card (A), where trial 1 holds 0.5",
    ]
    events, _ = read_jsonl(tmp_path / "journal.jsonl")
    waits = [(event["number"], event["reason"]) for event in events if event["event"] == "waits"]
    assert waits == [(2, line.removeprefix("trial 2 waits ")) for line in said]
    assert driver.progress.trials[2].reason == said[-1].removeprefix("trial 2 waits ")
    driver.conductor.started(waiting, HALF)  # type: ignore[arg-type]
    driver.now += 10 * WAIT_SAID_S
    driver.conductor.tick()
    assert driver.said.getvalue().count("trial 2 waits") == 2
    assert driver.progress.trials[2].reason == ""


def test_after_an_out_of_memory_a_trial_waits_for_the_larger_share(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    assert driver.conductor.retried(order, OutOfMemoryError("CUDA out of memory"), HALF) is None
    driver.conductor.ended("key", order, None)
    assert driver.conductor.next_order("key") is not None
    driver.now += WAIT_SAID_S
    driver.conductor.tick()
    assert "trial 1 waits for 30 s for 0.75 of a card (A) and 1 CPUs beside it" in driver.said.getvalue()
