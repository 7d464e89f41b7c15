"""Where a request costs later ones least: CPUs, rests of cards, several cards; and that what is remembered is right."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.hardware import Card, Inventory, Node
from cluster.scheduling.broker import Broker
from cluster.scheduling.events import Ended, Event, Submitted
from cluster.scheduling.fragmentation import Demand, FreeNodes, Shape
from cluster.scheduling.request import Alternative, Request
from cluster.scheduling.shares import UNITS, Share


def request(name: str, gpus: float, cpus: float) -> Request:
    share = Share(units=UNITS, cards=int(gpus)) if gpus >= 1 else Share(units=round(gpus * UNITS))
    return Request(name=name, sweep="s", alternatives=(Alternative(model="A40", share=share, cpus=cpus),))


def node(name: str, cards: int, cpus: float) -> Node:
    return Node(
        name=name, cards=tuple(Card(model="A40", total_bytes=1 << 30, index=n) for n in range(cards)), cpus=cpus
    )


class Driven:
    """A broker to which requests come one by one."""

    def __init__(self, *nodes: Node) -> None:
        self.broker = Broker(Inventory(nodes=nodes))

    def start(self, *events: Event) -> list[tuple[str, str]]:
        """Returns the name and the node of what starts."""
        done = self.broker.handle(*events, elapsed_s=0.0, wall_s=0.0)
        self.broker.validate()
        return [(one.name, one.nodes[0]) for one in done.allocations]

    def submit(self, name: str, gpus: float, cpus: float) -> str:
        """Returns the node on which a request starts; empty where it waits."""
        return dict(self.start(Submitted(request=request(name, gpus, cpus)))).get(name, "")


def test_a_node_with_many_cpus_is_kept_for_requests_that_need_them() -> None:
    driven = Driven(node("a-rich", 2, 16), node("b-poor", 2, 4))
    driven.submit("hungry", 1, 8)
    assert driven.start(Ended(name="hungry")) == []
    assert driven.submit("modest", 1, 1) == "b-poor"


def test_cards_of_one_node_are_kept_together_for_requests_of_several() -> None:
    driven = Driven(node("a", 2, 16), node("b", 1, 16))
    driven.submit("pair", 2, 1)
    driven.start(Ended(name="pair"))
    assert driven.submit("single", 1, 1) == "b"


def test_a_rest_that_suits_others_is_left_rather_than_the_smallest_rest() -> None:
    """A request of 0.3 would leave 0.2 of a card of 0.5, which nobody asks for; of a card of 0.7 it leaves 0.4."""
    demand = Demand()
    for number in range(9):
        demand.add(request(str(number), 0.4, 0))
    rooms = FreeNodes("A40", [1, 1], demand)
    rooms.set_card(0, 0, 5000)
    rooms.set_card(1, 0, 7000)
    found = rooms.best((3000, 1, 0), 0, [])
    assert found is not None
    assert found[1:] == (7000, 1)


SHAPES = st.sampled_from([(2000, 1, 0), (5000, 1, UNITS), (UNITS, 1, 2 * UNITS), (UNITS, 2, UNITS), (0, 0, UNITS)])
CHANGES = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, UNITS), st.integers(0, 4))


@given(st.lists(st.tuples(CHANGES, SHAPES), max_size=12))
def test_what_is_remembered_of_nodes_gives_the_same_choice_as_reading_all_anew(
    steps: list[tuple[tuple[int, int, int, int], Shape]],
) -> None:
    demand = Demand()
    for number in range(4):
        demand.add(request(str(number), (0.2, 0.5, 1, 2)[number], number))
    kept = FreeNodes("A40", [2, 2, 1], demand)
    state: dict[tuple[int, int], int] = {}
    cpus = {0: 0, 1: 0, 2: 0}
    for (row, column, units, count), shape in steps:
        column = 0 if row == 2 else column
        state[row, column], cpus[row] = units, count * UNITS
        kept.set_card(row, column, units)
        kept.set_node(row, cpu_units=cpus[row], host_bytes=0)
        fresh = FreeNodes("A40", [2, 2, 1], demand)
        for (some_row, some_column), some_units in state.items():
            fresh.set_card(some_row, some_column, some_units)
        for some_row, cpu_units in cpus.items():
            fresh.set_node(some_row, cpu_units=cpu_units, host_bytes=0)
        found = kept.best(shape, 0, [])
        assert found == fresh.best(shape, 0, [])
        if found is not None:
            assert cpus[found[2]] >= shape[2]
