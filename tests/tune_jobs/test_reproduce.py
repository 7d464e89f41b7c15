"""`reproduce` runs a tiny experiment again, says how it came out, and what is not as it was."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from dialsum.data import Example, write_examples
from dialsum.reporter import NullReporter
from tune_jobs.after.reproduce import plan_reproduction
from tune_jobs.after.reproduction import judge
from tune_jobs.analysis.significance import PairedDifference
from tune_jobs.records.code_state import CodeState
from tune_jobs.records.run_numbers import RunNumbers
from tune_jobs.records.snapshot import FileState, Snapshot, take_snapshot
from tune_jobs.records.snapshot_changes import find_changes
from tune_jobs.records.surroundings import Surroundings
from tuning_common.errors import RequestError
from tuning_common.strict import dump_yaml, load_yaml

ROOT = Path(__file__).resolve().parents[2]
SCORER = {"language": "ko", "tokenizer": "kiwi"}
SCORE = "eval/rouge_combined_f1"


class Stop(NullReporter):
    """Stops a run as a scheduler does."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        if metrics["train/epoch"] >= 2:
            raise SystemExit


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial of three epochs that was stopped after two, with its snapshot."""
    from dialsum.trainer import train

    folder = tmp_path_factory.mktemp("work")
    examples = [
        Example(
            fname=f"{place}-{turn}",
            dialogue=f"#Person1#: {place}이죠?\n" + "#Person2#: 네, 맞아요.\n" * (turn % 3 + 1),
            summaries=(f"#Person1#은 {place}에 전화한다.",),
        )
        for turn in range(8)
        for place in ("병원", "식당", "은행")
    ]
    write_examples(folder / "train.jsonl", examples[4:])
    write_examples(folder / "dev.jsonl", examples[:4])
    config = RunConfig.from_dict(
        {
            "train_file": str(folder / "train.jsonl"), "dev_file": str(folder / "dev.jsonl"), "batch_size": 4,
            "learning_rate": 5e-3, "num_epochs": 3, "decoder_max_len": 12, "tiny_hidden_size": 16, "tiny_layers": 1,
            "tiny_vocab_size": 300,
        }
    )  # fmt: skip
    target = folder / "outputs" / "experiments" / "one"
    take_snapshot(target / "snapshot", config.to_dict(), sweep="s")
    with pytest.raises(SystemExit):
        train(config, target, reporter=Stop(), cache_dir=folder / "cache")
    return target


def copy(experiment: Path, tmp_path: Path, **settings: object) -> Path:
    target = tmp_path / experiment.name
    shutil.copytree(experiment, target)
    values = load_yaml(target / "config.yaml").mapping() | settings
    (target / "config.yaml").write_text(dump_yaml(values), encoding="utf-8")
    return target


def reproduce(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tune_jobs", "reproduce", str(folder), *arguments],
        capture_output=True, text=True, env=environment, cwd=folder.parent, timeout=300,
    )  # fmt: skip


def test_a_tiny_run_comes_out_bit_for_bit(experiment: Path, tmp_path: Path) -> None:
    done = reproduce(experiment, "--output", str(tmp_path / "again"), "--format", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "same"
    assert answer["reason"].endswith("numbers of 2 evaluations are equal bit for bit")
    assert answer["numbers"] >= 2 * 8
    assert (answer["same_weights"], answer["same_summaries"], answer["summaries"]) == (True, 4, 4)
    assert [change["what"] for change in answer["changes"] if change["matters"]] == []
    assert "evaluation 1 of 2: loss " in done.stderr
    left = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert left == [
        "config.yaml", "metrics.json", "models", "predictions.jsonl", "reproduction.json", "training.log",
    ]  # fmt: skip


def test_another_seed_is_told_from_the_same_run(experiment: Path, tmp_path: Path) -> None:
    folder = copy(experiment, tmp_path, seed=1, fsdp=True)  # which one process does without
    done = reproduce(folder)
    assert [line.split() for line in done.stderr.splitlines()[2:4]] == [
        ["setting", "seed", "0", "1"],
        ["setting", "fsdp", "False", "True"],
    ]
    assert done.returncode in (0, 1)
    assert done.stdout.split(":")[0] in ("within noise", "different")
    assert "first difference: eval/" in done.stdout
    assert "weights of the best model: not the same" in done.stdout
    (written,) = (folder.parent / "outputs" / "reproductions").iterdir()
    assert json.loads((written / "reproduction.json").read_text())["same_weights"] is False


def test_what_cannot_be_run_again_is_refused_in_words(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no config\.yaml in it; give the folder of an experiment"):
        plan_reproduction(tmp_path)
    folder = copy(experiment, tmp_path, train_file="gone/train.jsonl", dev_file="gone/dev.jsonl")
    with pytest.raises(RequestError) as refused:
        plan_reproduction(folder)
    assert refused.value.problems == (
        "train_file gone/train.jsonl does not exist; give its new folder with --data-folder DIR",
        "dev_file gone/dev.jsonl does not exist; give its new folder with --data-folder DIR",
    )
    plan = plan_reproduction(folder, experiment.parents[2])
    assert plan.config.dev_file == str(experiment.parents[2] / "dev.jsonl")
    (folder / "metrics.json").unlink()
    with pytest.raises(RequestError, match="evaluated at least once"):
        plan_reproduction(folder)


def test_a_missing_snapshot_is_said_and_stops_nothing(experiment: Path, tmp_path: Path) -> None:
    folder = copy(experiment, tmp_path)
    shutil.rmtree(folder / "snapshot")
    plan = plan_reproduction(folder)
    assert (plan.no_snapshot, plan.changes) == ("the experiment has no snapshot", ())
    assert (plan.evaluations, plan.was_stopped) == (2, True)


def numbers(*scores: float, loss: float = 2.0, scorer: Mapping[str, str] = SCORER) -> RunNumbers:
    rows = tuple({SCORE: score, "eval/loss": loss, "time/total_s": score * 3} for score in scores)
    return RunNumbers(history=rows, test=None, scorer=scorer)


def test_verdicts() -> None:
    same = judge(numbers(20.0, 21.0), numbers(20.0, 21.0), config=RunConfig(model="kobart"))
    assert (same.outcome, same.reason) == ("same", "all 4 numbers of 2 evaluations are equal bit for bit")
    near = judge(numbers(20.0, 21.0), numbers(20.0, 21.3), config=RunConfig(model="kobart"), dialogues=500)
    assert (near.outcome, near.deviation and near.deviation.evaluation) == ("within noise", 2)
    assert near.reason.startswith("0.3 apart, and 0.5 may be chance: ")
    far = judge(numbers(20.0, 21.0), numbers(20.0, 22.0), config=RunConfig(model="kobart"), dialogues=500)
    assert far.outcome == "different"
    few = judge(numbers(20.0, 21.0), numbers(20.0, 22.0), config=RunConfig(model="kobart"), dialogues=50)
    assert few.outcome == "within noise"
    shorter = judge(numbers(20.0, 21.0), numbers(20.0), config=RunConfig(model="kobart"))
    assert shorter.deviation is not None
    assert (shorter.deviation.before, shorter.deviation.again) == (2.0, None)


def test_models_from_scratch_are_judged_by_their_dialogues() -> None:
    one, other = numbers(20.0), numbers(21.0)
    unclear = PairedDifference(mean=1.0, low=-0.5, high=2.5, count=30)
    assert judge(one, other, config=RunConfig(model="tiny-bart"), paired=unclear).outcome == "within noise"
    clear = replace(unclear, low=0.5)
    assert judge(one, other, config=RunConfig(model="tiny-bart"), paired=clear).outcome == "different"
    assert judge(one, other, config=RunConfig(model="tiny-bart")).outcome == "different"


def test_scores_of_another_scorer_are_left_out() -> None:
    found = judge(
        numbers(20.0), numbers(35.0, scorer={**SCORER, "tokenizer": "porter"}), config=RunConfig(model="kobart")
    )
    assert (found.outcome, found.metric, found.before) == ("same", "eval/loss", 2.0)
    assert found.reason.endswith("; scores are left out, as another scorer computed them")


def test_other_summaries_with_equal_numbers_are_not_called_the_same() -> None:
    found = judge(numbers(20.0), numbers(20.0), config=RunConfig(model="kobart"), summaries=(9, 10), dialogues=10)
    assert found.outcome == "within noise"
    assert found.reason.startswith("all numbers are equal, but 1 of 10 summaries differ; ")


def test_what_is_not_as_it_was() -> None:
    before = Snapshot(
        taken_at=0.0,
        code=CodeState(commit="a" * 40, branch="main", dirty=("x.py",), diff_sha256="1"),
        surroundings=Surroundings(python="3.11.7", packages={"torch": "2.13.0", "rich": "1.0"}, cpu="A"),
        data={"train_file": FileState(path="t", size_bytes=2048, sha256="f" * 64)},
    )
    now = replace(
        before,
        code=replace(before.code, dirty=(), diff_sha256="", branch="topic"),
        surroundings=replace(before.surroundings, packages={"torch": "2.14.0"}, cpu="B"),
        data={"train_file": FileState(path="t", size_bytes=1024, sha256="e" * 64)},
    )
    found = [(one.what, one.before, one.now, one.matters) for one in find_changes(before, now)]
    assert found == [
        ("data of train_file", "ffffffffffff, 2.00 KiB", "eeeeeeeeeeee, 1.00 KiB", True),
        ("changes since the commit", "x.py", "none", True),
        ("package torch", "2.13.0", "2.14.0", True),
        ("branch", "main", "topic", False),
        ("processor", "A", "B", False),
        ("package rich", "1.0", "not there", False),
    ]
    assert find_changes(before, before) == ()
