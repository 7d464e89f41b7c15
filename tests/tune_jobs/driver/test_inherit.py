"""A trial goes on with another one's weights: the copy survives its donor and is written down."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from tune_jobs.config.rules import ResolvedTrial, Rules, resolve
from tune_jobs.config.space import Value
from tune_jobs.driver.inherit import inherit_into
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.records.trial_spec import Bundle, RunShape, TrialSpec
from tune_jobs.records.trial_state import INHERITED_FILE, damage_of, write_state
from tune_jobs.search.early_stopping import Exploit
from tuning_common.errors import RequestError

EXPLOIT = Exploit(
    number=1,
    donor=4,
    donor_evaluation=2,
    sampled={"learning_rate": 8e-5},
    changes=("learning_rate 0.0001 -> 8e-05",),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Trials 1 and 4 with weights, as Tune would leave them."""
    journal = Journal(tmp_path / "journal.jsonl")
    for number in (1, 4):
        spec = TrialSpec(
            number=number,
            name=f"t{number}",
            sweep="sample",
            sampled={"learning_rate": 1e-4},
            config=RunConfig(learning_rate=1e-4, train_file="/data/train.jsonl").to_dict(),
            folder=str(tmp_path / f"t{number}"),
            sweep_folder=str(tmp_path),
            cache_dir=str(tmp_path / "cache"),
            metric="eval/rouge_combined_f1",
            bundle=Bundle(cpus=1),
            shape=RunShape(micro_batch=8, accumulation=1),
        )
        journal.write("submitted", number, spec=spec.to_dict())
        checkpoint = tmp_path / "tune" / f"t{number}" / "checkpoint_2"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(f"of {number}")
        (checkpoint / "history.json").write_text(f'["past of {number}"]')
        write_state(checkpoint, evaluations=2, losses=None)
        value = float(number)
        journal.write("reported", number, evaluation=2, value=value, metrics={}, at=2.0, elapsed_s=2.0)
        journal.write("saved", number, folder=str(checkpoint))
    return journal


def resolved(sampled: Mapping[str, Value]) -> ResolvedTrial:
    return resolve(RunConfig(), sampled, Rules(set={"warmup_ratio": "0.5"}))


def pair(journal: Journal) -> tuple[TrialHistory, TrialHistory, Exploit]:
    return journal.trials[1], journal.trials[4], EXPLOIT


def test_a_copy_survives_the_donor_and_is_written_down(tmp_path: Path, journal: Journal) -> None:
    copied = inherit_into(tmp_path, resolved)(*pair(journal))
    assert copied is not None
    for file in (tmp_path / "tune" / "t4" / "checkpoint_2").iterdir():
        file.unlink()  # Tune keeps the last two only
    journal.write("copied", 1, **copied)

    again = Journal(tmp_path / "journal.jsonl").trials[1]  # as a resumed driver reads it
    assert again.checkpoint == tmp_path / "population" / "1_2" / "checkpoint"
    assert (again.checkpoint / "weights").read_text() == "of 4"
    assert damage_of(again.checkpoint) == ""
    assert json.loads((again.checkpoint / "history.json").read_text()) == ["past of 1"]
    assert json.loads((again.checkpoint / INHERITED_FILE).read_text()) == {"donor": 4, "evaluation": 2}
    (copy,) = again.copies
    assert copy == {
        "donor": 4,
        "evaluation": 2,
        "donor_evaluation": 2,
        "changes": ["learning_rate 0.0001 -> 8e-05"],
        "before": {"learning_rate": 1e-4},
    }
    spec = TrialSpec.from_dict(again.spec)
    assert (spec.sampled, spec.config["learning_rate"]) == ({"learning_rate": 8e-5}, 8e-5)
    assert (spec.config["train_file"], spec.config["warmup_ratio"]) == ("/data/train.jsonl", 0.5)
    assert (spec.name, spec.folder) == ("t1", str(tmp_path / "t1"))


def test_a_donor_whose_checkpoint_is_gone_gives_nothing(tmp_path: Path, journal: Journal) -> None:
    journal.write("saved", 4, folder=str(tmp_path / "tune" / "t4" / "checkpoint_3"))
    assert inherit_into(tmp_path, resolved)(*pair(journal)) is None
    assert not list((tmp_path / "population").glob("*"))


def test_values_that_the_rules_refuse_are_not_taken_over(tmp_path: Path, journal: Journal) -> None:
    def refuse(sampled: Mapping[str, Value]) -> ResolvedTrial:
        raise RequestError(f"{sampled} is too large")

    assert inherit_into(tmp_path, refuse)(*pair(journal)) is None
    assert not (tmp_path / "population").exists()
