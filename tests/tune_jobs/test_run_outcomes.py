"""Measured peaks that teach the estimator, and those that must not."""

import pytest

from tune_jobs.records.journal import Evaluation, TrialHistory
from tune_jobs.records.outcomes import peak_of, record_of

GIB = 2**30
ESTIMATE = {
    "family": "bart",
    "gpu": "NVIDIA L4",
    "precision": "bf16",
    "device_bytes": 5 * GIB,
    "context_bytes": GIB // 2,
    "cap_bytes": 6 * GIB,
    "layout": "divided",
}
SHAPE = {"micro_batch": 8, "accumulation": 1, "gradient_checkpointing": False}


def trial(
    *, micro_batch: int = 8, retries: tuple[str, ...] = (), simulated: bool = False, **metrics: float
) -> TrialHistory:
    seen = {"trial/torch": "2.13.0", "memory/device_bytes": 20.0 * GIB}
    seen |= {"trial/micro_batch": micro_batch, "trial/accumulation": 8 // micro_batch}
    seen |= {"trial/gradient_checkpointing": False} | {
        name.replace("__", "/"): value for name, value in metrics.items()
    }
    history = TrialHistory(
        number=1, spec={"name": "one", "shape": SHAPE, "estimate": ESTIMATE, "simulated": simulated}, status="finished"
    )
    history.evaluations[1] = Evaluation(number=1, value=1.0, metrics=seen, run_s=10.0)
    history.retries.extend(retries)
    return history


def measured_bytes(history: TrialHistory) -> tuple[int, bool] | None:
    peak = peak_of(history, record_of(history, goal="maximize"))
    return None if peak is None else (peak.measured_device_bytes, peak.outgrew)


def test_what_the_process_held_is_measured_and_not_what_its_neighbours_held_too() -> None:
    history = trial(trial__held_bytes=4.5 * GIB, memory__reserved_bytes=3.0 * GIB)
    assert measured_bytes(history) == (int(4.5 * GIB), False)
    peak = peak_of(history, record_of(history, goal="maximize"))
    assert peak is not None
    assert (peak.family, peak.gpu, peak.precision, peak.torch_version) == ("bart", "NVIDIA L4", "bf16", "2.13.0")
    assert peak.layout == "divided"
    assert peak.residual == pytest.approx(-0.1)


def test_where_nobody_tells_what_a_process_holds_torchs_word_and_the_context_stand_for_it() -> None:
    assert measured_bytes(trial(memory__reserved_bytes=4.0 * GIB)) == (int(4.5 * GIB), False)


@pytest.mark.parametrize("options", [{"micro_batch": 4}, {"retries": ("out_of_memory",)}])
def test_a_trial_that_ran_out_of_memory_tells_that_its_cap_was_too_small(options: dict[str, object]) -> None:
    assert measured_bytes(trial(trial__held_bytes=3.0 * GIB, **options)) == (6 * GIB, True)  # type: ignore[arg-type]


def test_a_simulated_card_and_one_that_nobody_measured_teach_nothing() -> None:
    assert measured_bytes(trial(simulated=True, trial__held_bytes=3.0 * GIB)) is None
    assert measured_bytes(trial()) is None
