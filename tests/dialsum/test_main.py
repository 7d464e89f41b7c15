"""The commands of dialsum: train, evaluate, generate; wrong requests end with 2 and one screen of text."""

import json
import re
from pathlib import Path

import pytest

from dialsum.__main__ import main
from dialsum.config import FIELD_DESCRIPTIONS
from tests.dialsum.test_trainer import write_data
from tuning_common import cli


def config_file(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(write_data(tmp_path) | {"num_epochs": 3} | changes), encoding="utf-8")  # JSON is YAML
    return path


def test_train_then_evaluate_then_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(config_file(tmp_path)), "--output", "run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[:3]] == [["epoch", "1.00"], ["epoch", "2.00"], ["epoch", "3.00"]]
    best = json.loads(Path("run/metrics.json").read_text())["best"]["best/rouge_combined_f1"]

    assert main(["evaluate", "--run", "run", "--data", "dev.jsonl", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rouge_combined_f1"] == pytest.approx(best)

    assert main(["generate", "--run", "run", "--data", "dev.jsonl", "--output", "out/submission.csv"]) == 0
    assert cli.run(main, ["train", "--config", "config.yaml", "--output", "run"]) == 2  # it would replace the run
    assert "--overwrite" in capsys.readouterr().err
    weights = Path("run/models/best_model/model.safetensors").read_bytes()
    wrong = ["--overwrite", "--set", "precision=fp16", "--set", "model=nobody/nothing"]
    assert cli.run(main, ["train", "--config", "config.yaml", "--output", "run", *wrong]) == 2
    assert Path("run/models/best_model/model.safetensors").read_bytes() == weights  # a wrong request replaces nothing

    lines = Path("out/submission.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",fname,summary"
    assert [line.split(",")[0] for line in lines[1:]] == [str(index) for index in range(9)]


def test_help_lists_every_field_with_default_rule_and_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = dict(re.findall(r"^  (\w+): (.*)$", capsys.readouterr().out, re.MULTILINE))
    assert set(FIELD_DESCRIPTIONS) <= set(shown)
    assert re.match(r"16 +Effective batch: .* \(a whole number from 1 to 100000\)", shown["batch_size"])
    assert re.match(r"null +.* \(a number of at least 0 and below 1 or null\)", shown["dropout"])
    assert shown["optimizer"].endswith("'sgd') Also: optim.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "model=kobrat"], "model 'kobrat' is unknown; did you mean 'kobart'?"),
        (["--set", "learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (["--set", "batch_size"], "'batch_size' has no '='"),
        (["--resume"], "there is no checkpoint in run"),
        (["--set", "dev_file=gone.jsonl"], "gone.jsonl: no such file"),
    ],
)
def test_a_wrong_request_ends_with_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = cli.run(main, ["train", "--config", str(config_file(tmp_path)), "--output", "run", *arguments])
    assert code == 2
    assert message in capsys.readouterr().err


def test_every_fault_of_every_file_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text("fname,dialogue\na,hello\n", encoding="utf-8")
    Path("dev.jsonl").write_text(
        '{"fname": "a", "dialogue": "hello", "summary": ""}\n{"fname": "b"\n', encoding="utf-8"
    )
    Path("config.yaml").write_text("{model: kobrat, train_file: train.csv, dev_file: dev.jsonl}", encoding="utf-8")
    assert cli.run(main, ["train", "--config", "config.yaml", "--output", "run"]) == 2
    assert capsys.readouterr().err == (Path(__file__).parent.parent / "golden/data_errors.txt").read_text("utf-8")


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    data = str(tmp_path / "dev.jsonl")
    assert cli.run(main, ["evaluate", "--run", str(tmp_path), "--data", data]) == 2
    assert "holds no finished run" in capsys.readouterr().err
