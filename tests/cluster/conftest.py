"""A made-up NVML under the real pynvml."""

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.fake_nvml import FakeCard, FakeLibrary

Install = Callable[..., FakeLibrary]


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts cards under pynvml; at the end, every session must have been shut down."""
    pynvml = pytest.importorskip("pynvml")
    installed: list[FakeLibrary] = []

    def install(cards: list[FakeCard], **options: object) -> FakeLibrary:
        library = FakeLibrary(cards, **options)
        monkeypatch.setattr(pynvml, "nvmlLib", library)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        installed.append(library)
        return library

    yield install
    assert [library.sessions for library in installed] == [0] * len(installed)
