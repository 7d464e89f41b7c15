"""What placement relies on in Ray: shares of a card add up in steps of 1e-4; a share never spans two cards."""

from collections.abc import Iterator

import pytest

from tests.rays import start_ray

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray]


@pytest.fixture(scope="module")
def two_logical_cards() -> Iterator[None]:
    start_ray(num_cpus=4, num_gpus=2, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()


def holders(shares: list[float]) -> list[tuple[float, str]]:
    """Starts one actor a share and returns what each was granted and on which card."""

    @ray.remote(num_cpus=0)
    class Holder:
        def card(self) -> str:
            return str(ray.get_gpu_ids()[0])

    actors = [Holder.options(num_gpus=share).remote() for share in shares]
    cards = ray.get([actor.card.remote() for actor in actors], timeout=300)
    for actor in actors:
        ray.kill(actor)
    return list(zip(shares, cards, strict=True))


@pytest.mark.usefixtures("two_logical_cards")
def test_three_thirds_fit_on_one_card_and_two_halves_on_the_other() -> None:
    placed = holders([0.3333, 0.3333, 0.3333, 0.5, 0.5])
    load: dict[str, float] = {}
    for share, card in placed:
        load[card] = load.get(card, 0.0) + share
    assert {card: round(total, 4) for card, total in load.items()} in ({"0": 0.9999, "1": 1.0}, {"0": 1.0, "1": 0.9999})
