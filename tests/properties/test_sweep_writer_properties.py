"""A sweep that was written reads back as the same sweep."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.rules import Rules
from tune_jobs.config.sections import Metric, Resources, SearchOptions, TeamSection, Tracking
from tune_jobs.config.space import Bell, Categorical, Constant, Parameter, Range, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep, read_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tuning_common.strict import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
READY = sorted(path.name for path in (ROOT / "tune_jobs" / "sweeps").glob("*.yaml") if "staged" not in path.name)

rates = st.tuples(st.floats(1e-7, 1e-4), st.floats(2e-4, 1e-1)).map(
    lambda ends: Range(name="learning_rate", distribution="log_uniform_values", low=ends[0], high=ends[1])
)
batches = st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(
    lambda options: Categorical(name="batch_size", options=tuple(options))
)
decays = st.floats(1e-3, 0.1).map(lambda sigma: Bell(name="weight_decay", distribution="log_normal", sigma=sigma))
steps = st.sampled_from([0.01, 0.05]).map(
    lambda q: Range(name="warmup_ratio", distribution="q_uniform", low=0.0, high=0.2, q=q)
)
words = st.text(min_size=1, max_size=12).map(lambda text: Constant(name="train_file", value=f"a{text}"))
nothing = st.sampled_from([Constant(name="dropout", value=None), Constant(name="rouge_weights", value=(0.5, 0.0, 0.5))])
stops = st.sampled_from(
    [
        EarlyTerminate(),
        EarlyTerminate(type="none"),
        EarlyTerminate(eta=2.0, min_iter=2),
        EarlyTerminate(type="hyperband", max_iter=27, s=2, strict=True),
        EarlyTerminate(type="median", min_trials=5),
    ]
)


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    chosen: list[Parameter] = [
        draw(one) for one in (rates, batches, decays, steps, words, nothing) if draw(st.booleans())
    ]
    return Sweep(
        name="a1",
        source="a.yaml",
        description=draw(st.text(max_size=20)),
        method=draw(st.sampled_from(["random", "bayes"])),  # type: ignore[arg-type]
        count=draw(st.integers(1, 99)),
        metric=draw(st.sampled_from([Metric(), Metric(name="eval/loss", goal="minimize")])),
        space=Space(parameters=tuple(chosen) or (draw(rates),)),
        early_terminate=draw(stops),
        search=SearchOptions(seed=draw(st.integers(0, 9))),
        resources=Resources(share=draw(st.sampled_from(["auto", 0.5, 1.0])), time_budget="8h"),
        tracking=Tracking(tags=("밤", "no")),
        rules=Rules(set={"num_beams": "4 if model == 't5' else 1", "seed": 3}, accumulate_above_tokens=512),
        team=TeamSection(member="minji"),
    )


@given(sweeps())
def test_a_written_sweep_reads_back(sweep: Sweep) -> None:
    assert read_sweep(parse_yaml(sweep_text(sweep), "a.yaml"), load_sweep) == sweep


@pytest.mark.parametrize("name", READY)
def test_the_ready_files_read_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(Path("tune_jobs/sweeps") / name)
    text = sweep_text(sweep, head=["edited by hand?", ""], reasons={"learning_rate": "two\nlines"})
    again = read_sweep(parse_yaml(text, "b.yaml"), load_sweep)
    assert dataclasses.replace(again, source=sweep.source) == sweep
    assert text.startswith("# edited by hand?\n#\nname: ")
