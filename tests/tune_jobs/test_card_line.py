"""The line before the cards: who starts where, who may overtake whom, and that no card idles while a trial waits."""

from collections import deque
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.occupancy import Occupancy
from tests.tune_jobs.offered import offers_of
from tests.tune_jobs.ordered import order_of
from tune_jobs.driver.card_line import PATIENCE, CardLine, Start, Waiting

GIB = 2**30
UNEQUAL = parse_simulated("1x24GiB,1x40GiB,1x80GiB")


def waiting(name: str, gib: float, cards: Inventory = UNEQUAL) -> Waiting:
    """A trial that needs so much."""
    order = order_of(Path(), name)
    return Waiting(order=order, offers=offers_of(order, cards, int(gib * GIB)))


def line_of(cards: Inventory, **options: int) -> CardLine:
    return CardLine(Occupancy(cards), **options)


def started(line: CardLine, trials: list[Waiting]) -> list[tuple[str, str, float]]:
    """Starts all that can, in place of Tune, and takes them out of the list: (name, model, share)."""
    found = []
    while (start := line.first(trials)) is not None:
        line.take(start)
        trials.remove(start.waiting)
        found.append((start.order.name, model_of(start), start.order.bundle.gpus))
    return found


def model_of(start: Start) -> str:
    assert start.offer is not None
    return start.offer.choice.model.removeprefix("simulated-")


def test_trials_spread_over_unequal_cards_by_what_each_costs_there() -> None:
    trials = [waiting(f"t{number}", 8) for number in range(20)]
    found = started(line_of(UNEQUAL), trials)
    assert [model for _, model, _ in found[:3]] == ["80GiB", "40GiB", "80GiB"]
    shares = {"24GiB": 0.375, "40GiB": 0.25, "80GiB": 0.125}
    assert all(share == shares[model] for _, model, share in found)
    assert {model: sum(1 for _, other, _ in found if other == model) for model in shares} == {
        "24GiB": 2,
        "40GiB": 4,
        "80GiB": 8,
    }
    assert [one.order.name for one in trials] == [f"t{number}" for number in range(14, 20)], "the others wait"


def test_a_trial_whose_model_is_full_takes_the_next_that_fits_instead_of_waiting() -> None:
    line = line_of(UNEQUAL)
    trials = [waiting("whole", 70), waiting("b", 30), waiting("c", 30), waiting("d", 20)]
    assert started(line, trials) == [("whole", "80GiB", 0.9), ("b", "40GiB", 0.8), ("d", "24GiB", 0.875)]
    line.release("whole")
    assert started(line, trials) == [("c", "80GiB", 0.4)]


def test_trials_side_by_side_reach_all_idle_models_in_turns() -> None:
    cards = parse_simulated("1xA:24GiB,1xB:24GiB,1xC:24GiB")
    line = line_of(cards)
    models = []
    for number in range(6):
        ((_, model, _),) = started(line, [waiting(f"t{number}", 8, cards)])
        models.append(model)
        line.release(f"t{number - 1}")
    assert sorted(models[:3]) == sorted(models[3:]) == ["A", "B", "C"]


def test_equal_loads_are_equal_to_the_last_digit_however_they_came_about() -> None:
    cards = parse_simulated("1xA:24GiB,1xB:24GiB")
    line = line_of(cards)
    for model, gib in (("A", 3), ("A", 16), ("B", 3), ("B", 6), ("B", 9), ("A", 1)):
        one = waiting(f"{model}{gib}", gib, cards)
        only = tuple(offer for offer in one.offers if offer.choice.model == model)
        assert [place for _, place, _ in started(line, [replace(one, offers=only)])] == [model]
    line.release("A1")  # 0.8666 of both is held; as sums of parts that differs in the last digit
    assert started(line, [waiting("next", 1, cards)]) == [("next", "B", 0.125)], "where less was placed so far"


def test_one_that_was_overtaken_too_often_gets_a_model_to_itself_and_others_go_on_elsewhere() -> None:
    cards = parse_simulated("1x24GiB,1x80GiB")
    line = line_of(cards, patience=2)
    trials = [waiting("first", 60, cards), waiting("large", 70, cards)]
    assert started(line, trials) == [("first", "80GiB", 0.8)]
    trials += [waiting(f"s{number}", 9, cards) for number in range(8)]
    assert started(line, trials) == [("s0", "24GiB", 0.4), ("s1", "24GiB", 0.4), ("s2", "80GiB", 0.125)]
    line.release("s2")
    assert started(line, trials) == [("s3", "80GiB", 0.125)], "which is twice now: nobody else may start there"
    line.release("s3")
    assert started(line, trials) == []
    line.release("s0")
    assert started(line, trials) == [("s4", "24GiB", 0.4)]
    line.release("first")
    assert started(line, trials) == [("large", "80GiB", 0.9)]
    line.release("large")
    assert [model for _, model, _ in started(line, trials)] == ["80GiB"] * 3, "for everybody again"


def test_what_others_hold_is_left_to_them_and_one_trial_at_most_waits_for_it() -> None:
    free = {"simulated-24GiB": 1.0, "simulated-40GiB": 0.0, "simulated-80GiB": 0.2}  # as Ray counts
    line = CardLine(Occupancy(UNEQUAL), free=lambda: free)
    trials = [waiting(f"t{number}", 8) for number in range(8)]
    one, two = line.first(trials), waiting("large", 30)
    assert one is not None
    assert model_of(one) == "80GiB"
    free["simulated-80GiB"] = 0.0
    free["simulated-24GiB"] = 0.4
    assert [model for _, model, _ in started(line, trials[:1])] == ["24GiB"]
    free["simulated-24GiB"] = 0.0
    assert started(line, [two]) == [], "t0 was sent and has not started: nobody else is sent to wait"
    line.started("t0")
    assert [model for _, model, _ in started(line, [two])] == ["80GiB"], "one waits in Ray's own line"
    assert started(line, trials[1:]) == []
    free["simulated-40GiB"] = 0.5
    assert started(line, trials[1:2]) == [("t1", "40GiB", 0.25)], "and the others go where room comes first"
    line.started("t1")
    free["simulated-40GiB"], free["simulated-80GiB"] = 0.0, 0.2
    for number in range(2, 2 + PATIENCE):
        assert started(line, [waiting(f"t{number}", 8)]) == [(f"t{number}", "80GiB", 0.125)]
        line.started(f"t{number}")
        line.release(f"t{number}")
    assert started(line, [waiting("t9", 8)]) == [], "the one that waits there was overtaken often enough"
    line.started("large")
    assert started(line, [waiting("t9", 8)]) == [("t9", "80GiB", 0.125)]


def test_where_ray_alone_counts_everybody_is_let_through_in_order() -> None:
    line = CardLine()
    one = waiting("one", 8)
    start = line.first([Waiting(order=one.order)])
    assert start is not None
    assert (start.offer, start.order) == (None, one.order)
    line.take(start)
    line.release("one")
    assert line.first([]) is None
    assert not line.has_room(), "nothing to look ahead for"


def test_a_machine_without_cpus_left_has_no_room() -> None:
    cards = parse_simulated("1x24GiB")
    line = CardLine(Occupancy(cards, cpus_per_trial=4))
    trials = [waiting(f"t{number}", 2, cards) for number in range(3)]
    assert len(started(line, trials)) == 2, "eight CPUs"
    line.release("t0")
    assert [name for name, _, _ in started(line, trials)] == ["t2"]


@given(st.lists(st.tuples(st.integers(1, 75), st.integers(1, 9)), min_size=1, max_size=40), st.integers(1, 5))
def test_every_trial_starts_and_no_card_idles_while_one_that_fits_waits(
    trials: list[tuple[int, int]], patience: int
) -> None:
    books = Occupancy(UNEQUAL)
    line = CardLine(books, patience=patience)
    lined = [waiting(f"t{number}", gib) for number, (gib, _) in enumerate(trials)]
    left_s = {f"t{number}": length for number, (_, length) in enumerate(trials)}
    running: deque[str] = deque()
    while lined or running:
        running.extend(name for name, _, _ in started(line, lined))
        assert running, "somebody can always start on cards that are all free"
        idle = [pool.model for pool in UNEQUAL.pools if books.room(pool.model) == 10_000]
        for model in idle:
            fitting = [one for one in lined if any(offer.choice.model == model for offer in one.offers)]
            assert not fitting, f"{model} idles while {fitting[0].order.name} waits"
        for name in list(running):
            left_s[name] -= 1
            if not left_s[name]:
                running.remove(name)
                line.release(name)
    assert set(left_s.values()) == {0}
