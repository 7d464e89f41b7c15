"""What the tests of the driver share."""

import pytest


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not forced to the disk: no machine loses its power in these tests."""
    monkeypatch.setattr("tuning_common.files.os.fsync", lambda descriptor: None)
