"""What the product makes of NVML's answers, with the real pynvml over a made-up library."""

import sys

import pytest

from cluster.machines import nvml
from cluster.machines.nvml import Unavailable
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import NOT_TOLD, FakeCard

GIB = 2**30


def test_cards_with_model_memory_uuid_and_versions(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(uuid="GPU-a", used=GIB, processes=[(7, GIB)]), FakeCard(name="NVIDIA H100 80GB HBM3")])
    reading = nvml.read()
    assert (reading.driver, reading.cuda, reading.unavailable, reading.problems) == ("570.86.15", "12.8", None, ())
    first, second = reading.cards
    assert (first.card.model, first.card.uuid, first.card.index) == ("NVIDIA-GeForce-RTX-3090", "GPU-a", 0)
    assert (first.card.total_bytes, first.card.used_by_others_bytes) == (24 * GIB, GIB)
    assert (second.card.model, second.name, second.card.index) == ("NVIDIA-H100-80GB-HBM3", "NVIDIA H100 80GB HBM3", 1)


def test_what_our_own_processes_hold_is_not_used_by_others(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(used=5 * GIB, processes=[(7, 3 * GIB), (8, GIB)])])
    (reading,) = nvml.read(own_pids=frozenset({7})).cards
    assert (reading.used_bytes, reading.card.used_by_others_bytes) == (5 * GIB, 2 * GIB)


def test_a_partitioned_card_is_its_slices(fake_nvml: Install) -> None:
    name = "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    slices = {number: FakeCard(name=name, uuid=f"MIG-{number}", total=40 * GIB, processes=None) for number in (0, 3)}
    fake_nvml([FakeCard(name="NVIDIA A100-SXM4-80GB", mig=slices), FakeCard()])
    cards = [reading.card for reading in nvml.read().cards]
    assert [(card.uuid, card.mig, card.index) for card in cards] == [
        ("MIG-0", True, 0),
        ("MIG-3", True, 0),
        ("GPU-0", False, 1),
    ]
    assert cards[0].model == "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"


def test_a_partitioned_card_without_slices_offers_nothing(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(mig={})])
    assert nvml.read().unavailable is Unavailable.NO_CARDS


def test_a_lost_card_does_not_hide_the_others(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(lost=True), FakeCard(uuid="GPU-b", mig_known=False)])
    reading = nvml.read()
    assert [found.card.uuid for found in reading.cards] == ["GPU-b"]
    assert reading.problems == ("card 0: GPU is lost",)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (12, Unavailable.NO_LIBRARY),
        (9, Unavailable.NO_DRIVER),
        (18, Unavailable.VERSION_MISMATCH),
        (4, Unavailable.NO_PERMISSION),
        (17, Unavailable.BLOCKED),
        (999, Unavailable.OTHER),
    ],
)
def test_why_nvml_is_missing(fake_nvml: Install, code: int, reason: Unavailable) -> None:
    fake_nvml([FakeCard()], init_code=code)
    reading = nvml.read()
    assert (reading.unavailable, reading.cards) == (reason, ())
    assert reading.detail != ""


def test_a_machine_without_cards(fake_nvml: Install) -> None:
    fake_nvml([])
    assert nvml.read().unavailable is Unavailable.NO_CARDS


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.read().unavailable is Unavailable.NO_PACKAGE


def test_bytes_of_a_process_on_all_its_cards(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(processes=[(7, GIB), (8, 4 * GIB)]), FakeCard(processes=[(7, 2 * GIB)])])
    assert nvml.process_bytes(7) == 3 * GIB
    assert nvml.process_bytes(9) is None


def test_bytes_that_the_driver_does_not_tell_are_unknown_and_not_zero(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(processes=[(7, NOT_TOLD)]), FakeCard(processes=None)])
    assert nvml.process_bytes(7) is None
    assert nvml.read().cards[0].processes == (nvml.Process(pid=7, held_bytes=None),)


def test_free_bytes_of_a_card_as_cuda_names_it(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(uuid="GPU-aa", used=GIB), FakeCard(uuid="GPU-bb", used=4 * GIB)])
    found = [nvml.free_bytes(device) for device in ("0", "1", "GPU-b", "2", "GPU-c", "")]
    assert found == [23 * GIB, 20 * GIB, 20 * GIB, None, None, None]


def test_a_driver_before_510_is_asked_in_its_own_way(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(processes=[(7, GIB)])], old_driver=True)
    assert nvml.process_bytes(7) == GIB


def test_the_fake_refuses_what_it_does_not_know(fake_nvml: Install) -> None:
    library = fake_nvml([FakeCard()])
    with pytest.raises(AssertionError, match="nvmlDeviceReset"):
        library.nvmlDeviceReset(1)
