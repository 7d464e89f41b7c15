"""What `plan` shows, word for word and value for value, with made-up bytes and speeds: those have tests of their own.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/golden/test_plans.py, then read the diff in git.
"""

import dataclasses
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.alternatives import Need, explain_refusal, find_alternatives
from cluster.scheduling.quotas import Member, Team
from dialsum.config import RunConfig
from tests.tune_jobs.planning.timed_options import timed
from tune_jobs.analysis.importance import Importance
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import Observation
from tune_jobs.planning.guard_rails import KnownFacts, warnings
from tune_jobs.planning.impact import impacts
from tune_jobs.planning.plan import make_plan
from tune_jobs.planning.plan_json import as_json
from tune_jobs.planning.plan_text import as_text
from tune_jobs.planning.plan_values import SweepPlan
from tune_jobs.planning.quota_end import end_in_quota
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tune_jobs.search.inputs import DataSizes
from tuning_common.errors import RequestError

FOLDER = Path(__file__).parent / "plans"
NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
CARDS = parse_simulated("2x24GiB,1xBIG:80GiB")
GIB = 2**30


def options(name: str, config: RunConfig) -> tuple[Option, ...]:
    """Half a GiB for each dialogue of the batch beside the model's own."""
    fixed = {"kobart": 3, "t5": 5, "mt5": 90}[config.model]
    upper_bytes = int((fixed + config.batch_size / 2) * GIB)
    needs = (Need(upper_bytes=upper_bytes, cpus=1),)
    found = find_alternatives(needs, CARDS)
    if not found:
        raise RequestError(explain_refusal(name, needs, CARDS))
    estimate: dict[str, object] = {"device_bytes": upper_bytes - GIB, "upper_bytes": upper_bytes}
    shape = RunShape(micro_batch=config.batch_size, accumulation=1)
    return tuple(
        Option(
            alternative=one,
            placement=Placement(
                bundle=Bundle(cpus=1, gpus=one.gpus), shape=shape, gpu_model=one.model, estimate=estimate
            ),
        )
        for one in found
    )


def measured(model: str, batch: int) -> Observation:
    config = RunConfig(model=model, batch_size=batch)
    return Observation(config=config, card="BIG", train_s=0.02, evaluate_s=0.5, start_s=20, source="earlier")


def planned(name: str) -> SweepPlan:
    known = {"wide.yaml": [measured("kobart", 8), measured("kobart", 8), measured("t5", 16)]}
    sizes = DataSizes(of={"train.jsonl": 1000, "dev.jsonl": 100}, absent=() if name == "wide.yaml" else ("x.csv",))
    find = timed(options, CARDS, sizes, *known.get(name, []))
    return make_plan(load_sweep(Path(name)), CARDS, described=True, options=find, sizes=sizes)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_a_plan_in_words_and_in_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "base.yaml").write_text("model: kobart\nnum_epochs: 4\nlearning_rate: 5e-5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plan = planned(name)
    known = (
        KnownFacts(makespan_s=plan.makespan, makespan_at_most_s=plan.makespan_at_most) if plan.timed else KnownFacts()
    )
    remarks = warnings(plan.sweep, known)
    parts = [Importance(name="learning_rate", part=0.8, low=0.6, high=0.9, chance=0.4)] if plan.timed else []
    rows = impacts(plan.phases[0].sweep, parts)
    experience = "earlier, 20 trials" if parts else ""
    team = Team(members={"minji": Member(quota_gpus=0.5)}, time_zone="UTC")
    quota = end_in_quota(plan, team, "minji", NOW) if plan.timed else None
    text = as_text(plan, remarks, rows, experience=experience, now=NOW, quota=quota) + "\n"
    values = as_json(plan, remarks, rows, experience=experience, now=NOW, quota=quota)
    for trial in values["trials"]:  # type: ignore[attr-defined]
        defaults = RunConfig().to_dict()
        trial["resolved"] = {key: value for key, value in trial["resolved"].items() if value != defaults[key]}
    for shown, suffix in ((text, "txt"), (json.dumps(values, indent=1) + "\n", "json")):
        golden = FOLDER / name.replace("yaml", suffix)
        if os.environ.get("GOLDEN_ACCEPT"):
            golden.write_text(shown, encoding="utf-8")
        assert shown == golden.read_text(encoding="utf-8")


def test_the_same_sweep_makes_the_same_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wide.yaml").write_text((FOLDER / "wide.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert dataclasses.asdict(planned("wide.yaml")) == dataclasses.asdict(planned("wide.yaml"))
