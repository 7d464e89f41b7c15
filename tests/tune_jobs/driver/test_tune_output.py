"""Tune prints nothing of its own into a sweep's output."""

import pytest
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from tune_jobs.driver.tuner import SilentProgress


@pytest.mark.parametrize(("callback", "lines"), [(TrialProgressCallback(), 1), (SilentProgress(), 0)])
def test_a_launch_that_was_taken_back_is_not_printed(
    callback: TrialProgressCallback, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tune's own prints `Trial NAME completed. Last result:`, whatever `verbose` is."""
    callback.on_trial_complete(1, [], Trial("attempt", stub=True))
    assert len(capsys.readouterr().out.splitlines()) == lines
