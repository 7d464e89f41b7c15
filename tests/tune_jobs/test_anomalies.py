"""What a sweep file says about trials that go wrong, and which losses have exploded."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.config.anomalies import Anomalies, LossWatch
from tune_jobs.config.sweep_file import load_sweep, read_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tuning_common.errors import RequestError
from tuning_common.strict import parse_yaml

SWEEP = "name: a\nmethod: grid\nparameters: {batch_size: {values: [4, 8]}}\n"


def test_the_policy_is_read_strictly_and_written_back() -> None:
    text = SWEEP + "anomalies: {exploding_loss: null, stall_after: 2h, stalled: stop, lost_worker: stop}\n"
    sweep = read_sweep(parse_yaml(text, "a.yaml"), load_sweep)
    policy = Anomalies(exploding_loss=None, stall_after="2h", stalled="stop", lost_worker="stop")
    assert sweep.anomalies == policy
    assert read_sweep(parse_yaml(sweep_text(sweep), "a.yaml"), load_sweep).anomalies == policy


def test_every_problem_of_the_policy_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SWEEP + "anomalies:\n  exploding_loss: 0.5\n  stall_after: soon\n")
    with pytest.raises(RequestError) as raised:
        load_sweep(path)
    assert list(raised.value.problems) == [
        f"{path}:5: anomalies.exploding_loss must be above 1, but is 0.5",
        f"{path}:6: anomalies.stall_after 'soon' is no duration; write for example 90s, 20m, 1h30m or 2d",
    ]
    path.write_text(SWEEP + "anomalies: {diverged: restart, stalls: stop}\n")
    with pytest.raises(RequestError, match="diverged must be one of 'retry', 'stop', but is 'restart'"):
        load_sweep(path)


@given(st.lists(st.floats(0.5, 9.0), max_size=30))
def test_a_loss_that_stays_below_where_it_began_never_explodes(losses: list[float]) -> None:
    watch = LossWatch(4.0)
    assert [watch.see(loss) for loss in (9.0, *losses)] == [None] * (len(losses) + 1)


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=20), st.floats(17.0, 1e30))
def test_two_readings_far_above_everything_before_are_an_explosion(losses: list[float], high: float) -> None:
    watch = LossWatch(4.0)
    for loss in losses:
        assert watch.see(loss) is None or loss > 4 * min(losses)
    assert watch.see(high) is None or losses[-1] > 4 * min(losses)
    assert watch.see(high) is not None
