"""Which requests are of one kind, which of them goes first, and how much work waits."""

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.queue import Queue, type_of
from cluster.scheduling.request import Request

TWICE = parse_simulated("1xSlow:24GiB@0.5,1xQuick:24GiB")


def request(name: str, expected_s: float | None, busy: float | None = 0.5) -> Request:
    need = Need(upper_bytes=5 * 2**30, expected_s=expected_s, busy=busy)
    return Request(name=name, sweep="s", alternatives=find_alternatives((need,), TWICE))


def test_a_kind_counts_the_work_that_waits_and_its_longest_goes_first() -> None:
    queue = Queue()
    for name, seconds in (("s/1", 100.0), ("s/2", 300.0), ("s/3", 200.0)):
        queue.add(request(name, seconds))
    (kind,) = queue.kinds()
    assert (kind.is_known, kind.work_s) == (True, 600.0)
    assert [queue.pop(kind).name for _ in range(2)] == ["s/2", "s/3"]
    assert kind.work_s == 100.0
    queue.remove("s/1")
    assert (queue.kinds(), len(queue)) == ((), 0)


def test_a_type_has_the_busy_part_and_the_speed_of_each_model_beside_the_quickest() -> None:
    by_model = dict(
        zip((one.model for one in request("s/1", 100.0).alternatives), type_of(request("s/1", 100.0))[1], strict=True)
    )
    assert by_model == {"Quick": (0.5, 1.0), "Slow": (0.5, 0.5)}
    assert type_of(request("s/1", 100.0)) == type_of(request("s/2", 700.0))
    assert type_of(request("s/1", None))[1] == type_of(request("s/1", 100.0, busy=None))[1] == ()
