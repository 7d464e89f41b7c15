"""Whatever stands in a sweep file: it is read, or refused with a place for every problem; nothing else happens."""

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tune_jobs.config.file_schemas import schema_of
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep, read_sweep
from tune_jobs.planning.guard_rails import KnownFacts, warnings
from tune_jobs.search.grid import planned_trials
from tuning_common.errors import RequestError
from tuning_common.strict import Located

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([1e-5, 0.1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400]),
    st.sampled_from(
        ["", "grid", "random", "pbt", "asha", "hyperband", "kobart", "tiny-bart", "uniform", "wide", "8h", "a b"]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=4,
)


def mappings(keys: list[str], values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.dictionaries(st.sampled_from(keys), values, max_size=4), anything)


numbers = st.sampled_from([0, 1, 2, 8, 0.0, 1e-5, 1e-3, 0.5, -11.5, -9])
distributions = st.sampled_from(
    ["uniform", "int_uniform", "q_uniform", "log_uniform", "log_uniform_values", "q_log_uniform_values", "normal",
     "inv_log_uniform_values", "q_log_normal", "constant", "categorical", "beta"]
)  # fmt: skip
specs = st.one_of(
    st.fixed_dictionaries({"min": numbers, "max": numbers}, optional={"distribution": distributions, "q": numbers}),
    st.fixed_dictionaries({"distribution": distributions}, optional={"mu": numbers, "sigma": numbers, "q": numbers}),
    st.fixed_dictionaries({"values": st.lists(scalars, max_size=3)}, optional={"probabilities": anything}),
    st.fixed_dictionaries({"value": anything}),
    mappings(["value", "values", "min", "max", "q", "mu", "sigma", "distribution", "parameters"], anything),
)
fields = [
    "learning_rate",
    "batch_size",
    "num_beams",
    "dropout",
    "model",
    "rouge_weights",
    "gradient_accumulation_steps",
]
phases = st.one_of(
    st.lists(
        mappings(["name", "kind", "count", "method", "set", "file", "seeds", "margin", "early_terminate"], anything),
        max_size=3,
    ),
    st.just([{"name": "wide", "count": 2}, {"name": "narrow", "count": 2}, {"name": "confirm"}]),
)
files = st.fixed_dictionaries(
    {"parameters": mappings(fields, specs)},
    optional={
        "method": st.sampled_from(["grid", "random", "bayes", "bohb", "pbt", "other", 3]),
        "count": st.one_of(st.integers(-1, 9), anything),
        "metric": mappings(["name", "goal", "target"], anything),
        "early_terminate": mappings(["type", "s", "eta", "max_iter", "min_iter"], scalars),
        "search": mappings(["seed", "startup_trials"], anything),
        "rules": mappings(["set", "accumulate_above_tokens"], mappings(fields, scalars)),
        "resources": mappings(["share", "time_budget", "simulate"], anything),
        "tracking": anything,
        "project": anything,
        "command": anything,
        "trained_model": scalars,
        "base_config": mappings(["kobart", "tiny-bart"], st.just("configs/none.yaml")),
        "phases": phases,
        "name": scalars,
    },
)
SCHEMA = Draft202012Validator(dict(schema_of("sweep")))


@settings(max_examples=400)
@given(files)
def test_a_file_is_read_or_refused_with_places(raw: dict[str, object]) -> None:
    sweep, problems = read_or_refused(raw)
    assert (sweep is None) == bool(problems)
    assert all(problems)
    if sweep is None:
        return
    assert list(SCHEMA.iter_errors(raw)) == []  # an editor marks nothing that the reader takes
    for part in [phase.sweep for phase in sweep.phases if phase.kind != "confirm"] or [sweep]:
        assert part.trials >= 1
        rungs = part.early_terminate.rungs(last=5)
        assert list(rungs) == sorted({rung for rung in rungs if 1 <= rung <= 5})
        assert all(remark.better for remark in warnings(part, KnownFacts(trial_s=10, slots=2, evaluations=5)))
        if part.method in ("grid", "random") and part.trials < 100:
            assert runnable(part) in (part.trials, None)


def read_or_refused(raw: dict[str, object]) -> tuple[Sweep | None, tuple[str, ...]]:
    try:
        return read_sweep(Located(data=raw, lines={(): 1}, source="a.yaml"), load_sweep), ()
    except RequestError as error:
        return None, error.problems


def runnable(sweep: Sweep) -> int | None:
    """How many trials there are; None where a rule or a combination of values makes an impossible one."""
    try:
        return len(planned_trials(sweep))
    except RequestError as error:
        return None if error.problems else -1
