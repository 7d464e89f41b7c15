"""The sweep files and run configurations that come with the product."""

from pathlib import Path

import pytest

from dialsum.config import load_run_config
from dialsum.models import SPECS
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.planning.guard_rails import KnownFacts, warnings
from tune_jobs.search.grid import planned_trials

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in (ROOT / "tune_jobs" / "sweeps").glob("*.yaml"))
KNOWN = KnownFacts(train_examples=10_000, evaluations=8)


@pytest.fixture(autouse=True)
def in_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # paths of base configurations are relative to it


def ready(name: str) -> Sweep:
    return load_sweep(Path("tune_jobs/sweeps") / name)


@pytest.mark.parametrize("name", FILES)
def test_a_ready_file_is_sound(name: str) -> None:
    sweep = ready(name)
    assert f"{sweep.name}.yaml" == name
    assert [str(remark) for remark in warnings(sweep, KNOWN) if "noise" not in remark.better] == []
    for part in [phase.sweep for phase in sweep.phases if phase.kind != "confirm"] or [sweep]:
        if part.method in ("grid", "random"):
            assert len(planned_trials(part)) == part.trials


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_base_configuration_loads_and_names_a_known_model_at_a_usual_rate(path: Path) -> None:
    config = load_run_config(path)
    assert config.model in SPECS
    low, high = SPECS[config.model].learning_rates
    assert low <= config.learning_rate <= high


def test_make_sweep_has_at_least_eight_trials_of_asha_over_a_random_search() -> None:
    sweep = ready("sample.yaml")
    assert (sweep.method, sweep.early_terminate.type) == ("random", "asha")
    assert sweep.trials >= 8
    assert {trial.resolved.model for trial in planned_trials(sweep)} == {"tiny-bart"}
    assert sweep.early_terminate.rungs(last=sweep.base.num_epochs) == (2, 4)


def test_a_comparison_of_families_gives_each_its_own_batch_and_lengths() -> None:
    trials = [trial.resolved for trial in planned_trials(ready("model_comparison.yaml"))]
    assert len(trials) == 12
    shapes = {(one.model, one.encoder_max_len, one.micro_batch, one.generation_batch_size) for one in trials}
    assert shapes == {
        ("kobart", 512, 16, None),
        ("kogpt2", 640, 16, None),
        ("t5", 512, 16, None),
        ("mt5", 512, 8, None),
    }


def test_a_wide_search_over_families_scales_the_rate_of_t5_and_of_large_batches() -> None:
    for trial in planned_trials(ready("wide_search.yaml")):
        sampled, config = trial.sampled, trial.resolved
        rate, batch = sampled["learning_rate"], sampled["batch_size"]
        assert isinstance(rate, float)
        assert isinstance(batch, int)
        factor = 10 if config.model in ("t5", "mt5") else 1
        assert config.learning_rate == pytest.approx(rate * factor * (batch / 16) ** 0.5)
        if config.model == "kogpt2":
            assert config.gradient_accumulation_steps == 2


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("staged_")])
def test_a_staged_file_has_all_four_phases(name: str) -> None:
    assert [phase.kind for phase in ready(name).phases] == ["quick_check", "wide", "narrow", "confirm"]


@pytest.mark.parametrize("name", ["generation_params.yaml", "generation_params_sample.yaml"])
def test_generation_is_searched_with_a_trained_model(name: str) -> None:
    sweep = ready(name)
    assert sweep.trained_model is not None
    assert sweep.early_terminate.type == "none"
    assert {one.name for one in sweep.space.searched} == {"num_beams", "length_penalty", "no_repeat_ngram_size"}
