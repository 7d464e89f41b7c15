"""A trial is held to its share: the cap before the model, the look from outside, the wait for room."""

import os
import pickle
import sys
from types import SimpleNamespace

import pytest

from cluster.guard import (
    CudaDevice,
    Guard,
    Limit,
    OutOfMemoryError,
    environment,
    wait_for_card,
    wait_for_room,
)
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard
from tuning_common.errors import RequestError, WorkError

GIB = 2**30
LIMIT = Limit(cap_bytes=4 * GIB, context_bytes=GIB // 2)


class MeteredDevice:
    """Holds the bytes that a test sets."""

    def __init__(self) -> None:
        self.bytes: int | None = 0
        self.asked = 0
        self.allocator_bytes = 0

    def cap(self, allocator_bytes: int) -> None:
        self.allocator_bytes = allocator_bytes

    def held_bytes(self) -> int | None:
        self.asked += 1
        return self.bytes


def test_the_context_is_kept_back_from_the_allocator() -> None:
    assert LIMIT.allocator_bytes == 3.5 * GIB
    with pytest.raises(RequestError, match=r"512 MiB leaves nothing beside the CUDA context of 512 MiB"):
        Limit(cap_bytes=GIB // 2, context_bytes=GIB // 2)


def test_a_process_that_outgrows_its_share_is_stopped_and_its_peak_is_known() -> None:
    device = MeteredDevice()
    guard = Guard(LIMIT, device, interval_s=0, clock=lambda: 0.0)
    assert device.allocator_bytes == LIMIT.allocator_bytes
    device.bytes = 4 * GIB
    guard.check()
    assert guard.peak_bytes == 4 * GIB
    device.bytes = 4 * GIB + 65 * 2**20
    with pytest.raises(OutOfMemoryError, match=r"holds 4.06 GiB, its share is 4.00 GiB"):
        guard.check()
    assert guard.peak_bytes == device.bytes


def test_the_outside_is_not_asked_more_often_than_agreed() -> None:
    device, now_s = MeteredDevice(), [0.0]
    guard = Guard(LIMIT, device, interval_s=5, clock=lambda: now_s[0])
    for second in range(11):
        now_s[0] = second
        guard.check()
    assert device.asked == 3


def test_an_unknown_reading_is_no_peak_and_no_offence() -> None:
    device = MeteredDevice()
    device.bytes = None
    guard = Guard(LIMIT, device, interval_s=0)
    guard.check()
    assert (guard.peak_bytes, device.asked) == (None, 1)


def test_torch_recovery_recognises_it_by_its_name() -> None:
    error = pickle.loads(pickle.dumps(OutOfMemoryError("too much")))  # noqa: S301  (our own bytes)
    assert (type(error).__name__, str(error), error.exit_code) == ("OutOfMemoryError", "too much", 1)


@pytest.mark.parametrize(("initialized", "calls"), [(False, []), (True, ["empty_cache"])])
def test_the_cap_is_a_fraction_of_what_torch_sees(
    monkeypatch: pytest.MonkeyPatch, initialized: bool, calls: list[str]
) -> None:
    done: list[object] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: initialized,
        empty_cache=lambda: done.append("empty_cache"),
        current_device=lambda: 0,
        get_device_properties=lambda _index: SimpleNamespace(total_memory=14 * GIB),
        set_per_process_memory_fraction=done.append,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    Guard(LIMIT, CudaDevice())
    assert done == [*calls, 0.25]


def test_on_cuda_the_outside_is_nvml(fake_nvml: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml([FakeCard(processes=[(41, 5 * GIB), (42, GIB)])])
    monkeypatch.setattr("os.getpid", lambda: 41)
    assert CudaDevice().held_bytes() == 5 * GIB


def test_settings_of_a_person_stay_unless_they_contradict() -> None:
    assert environment({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}) == {}
    assert environment({"PYTORCH_ALLOC_CONF": "a:1"}) == {"PYTORCH_ALLOC_CONF": "a:1,expandable_segments:True"}
    for wrong in ("max_split_size_mb:128", "expandable_segments: False"):
        with pytest.raises(RequestError, match="cannot go with expandable segments"):
            environment({"PYTORCH_CUDA_ALLOC_CONF": wrong})


def test_torch_takes_the_variable_that_we_set() -> None:
    torch = pytest.importorskip("torch")
    settings = environment({})["PYTORCH_ALLOC_CONF"]
    torch._C._accelerator_setAllocatorSettings(settings)  # the parser refuses what it does not know


def test_a_share_waits_for_the_memory_of_the_trial_before() -> None:
    answers = iter([GIB, 2 * GIB, 4 * GIB])
    slept: list[float] = []
    waited_s = wait_for_room(3 * GIB, lambda: next(answers), timeout_s=10, sleep=slept.append)
    assert (waited_s, slept) == (2.0, [1.0, 1.0])
    assert wait_for_room(3 * GIB, lambda: None, timeout_s=10, sleep=slept.append) == 0


def test_a_card_that_a_stranger_fills_is_an_error_with_a_reason() -> None:
    with pytest.raises(WorkError, match=r"after 3.0 s the card has 1.00 GiB free, the share needs 3.00 GiB"):
        wait_for_room(3 * GIB, lambda: GIB, timeout_s=3, sleep=lambda _s: None)


def test_a_trial_that_waits_for_room_says_why_and_then_every_minute() -> None:
    told: list[str] = []
    answers = iter([GIB] * 70 + [4 * GIB])
    assert wait_for_room(3 * GIB, lambda: next(answers), told.append, timeout_s=100, sleep=lambda _s: None) == 70
    why = "the card has 1.00 GiB free, the share needs 3.00 GiB; a process outside of Ray holds the rest"
    assert told == [f"{why} (nvidia-smi shows it)"] * 2


def test_the_card_that_cuda_shows_is_asked(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(uuid="GPU-a", used=0), FakeCard(uuid="GPU-b", used=22 * GIB)])
    assert wait_for_card(2 * GIB, "GPU-b", timeout_s=0) == 0
    assert wait_for_card(24 * GIB, "0", timeout_s=0) == 0
    assert wait_for_card(24 * GIB, "", timeout_s=0) == 0, "no card is shown to it: nobody tells"
    with pytest.raises(WorkError, match=r"the card has 2.00 GiB free, the share needs 3.00 GiB"):
        wait_for_card(3 * GIB, "GPU-b,GPU-a", timeout_s=0)


def test_what_a_used_process_still_holds_comes_from_nvml_or_from_torchs_books(
    fake_nvml: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    card = FakeCard(processes=[(os.getpid(), 3 * GIB)])
    fake_nvml([card])
    assert CudaDevice().left_bytes(GIB) == 0, "CUDA is not started: nothing is held"
    emptied: list[bool] = []
    for name, answer in (("is_initialized", True), ("memory_reserved", 2 * GIB)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    assert CudaDevice().left_bytes(GIB) == 3 * GIB
    card.processes = []  # in a container the driver knows it by another number
    assert CudaDevice().left_bytes(GIB) == 2 * GIB + GIB
    assert emptied == [True, True]
