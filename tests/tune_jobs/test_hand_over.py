"""A handed-over folder needs no other program: its card's own code writes the summaries that this program wrote."""

import argparse
import csv
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from dialsum.data import Example, write_examples
from tests.dialsum.test_adapters import adapter_run
from tests.tune_jobs.synthetic import sweep_record
from tune_jobs.after.hand_over import hand_over, write_card
from tune_jobs.analysis.experiments import Experiment
from tune_jobs.commands import hand_over_cli
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder, TrialRecord
from tune_jobs.records.snapshot import take_snapshot
from tuning_common.errors import RequestError
from tuning_common.strict import parse_yaml

SETTINGS = {
    "tiny-bart": {"num_beams": 1},
    "tiny-gpt2": {"num_beams": 2, "length_penalty": 0.8},
    "tiny-t5": {"no_repeat_ngram_size": 2},
}


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training on Korean dialogues, with test data without references."""
    from dialsum.trainer import train

    root = tmp_path_factory.mktemp("work")
    examples = [
        Example(
            fname=f"{place}-{turn}",
            dialogue=f"#Person1#: {place}이죠?\n" + "#Person2#: 네, 맞아요.\n" * (turn % 3) + "#Person1#: 갈게요.",
            summaries=(f"#Person1#은 {place}에 간다.",),
        )
        for turn in range(8)
        for place in ("병원", "식당", "은행")
    ]
    write_examples(root / "train.jsonl", examples[4:])
    write_examples(root / "dev.jsonl", examples[:4])
    write_examples(root / "test.jsonl", [replace(one, summaries=()) for one in examples[:3]])
    values: dict[str, object] = {
        "model": request.param, "train_file": str(root / "train.jsonl"), "dev_file": str(root / "dev.jsonl"),
        "test_file": str(root / "test.jsonl"), "batch_size": 4, "learning_rate": 1e-2, "num_epochs": 4,
        "decoder_max_len": 12, "encoder_max_len": 48, "tiny_hidden_size": 32, "tiny_layers": 1, "tiny_vocab_size": 300,
    }  # fmt: skip
    config = RunConfig.from_dict(values | SETTINGS[request.param])
    folder = ExperimentFolder.of(root / "outputs", f"one_{request.param}").path
    take_snapshot(folder / "snapshot", config.to_dict(), sweep="wide")
    train(config, folder, cache_dir=root / "cache")
    return folder


def code_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(code)


def test_the_card_s_code_writes_what_this_program_wrote(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_card(Experiment(folder=experiment))
    monkeypatch.chdir(card.parent)
    code = code_of(card)
    assert "dialsum" not in code
    rows = [json.loads(line) for line in (experiment / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        said = StringIO()
        with redirect_stdout(said):
            exec(code.replace('"#Person1#: ...\\n#Person2#: ..."', repr(row["dialogue"])), {})  # noqa: S102  # our own text
        assert said.getvalue().rstrip("\n") == row["prediction"]
    assert any("#Person1#" in row["prediction"] for row in rows)


def test_the_card_tells_data_scores_settings_and_cost(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "plain-secret-word")
    root = experiment.parents[2]
    trial = TrialRecord(
        trial_id="1", name="one", sweep="wide", status="finished", wall_s=90.0, gpu_seconds=1800.0,
        gpu_model="plain-secret-word", share=0.25, measured={"device_bytes": 2.0 * 2**30}, simulated=True,
    )  # fmt: skip
    folder = SweepFolder.of(root / "outputs", "wide")
    folder.append(sweep_record(sweep="wide"))
    folder.append(trial)
    text = write_card(Experiment(folder=experiment, trial=trial), folder.load()).read_text(encoding="utf-8")
    header = parse_yaml(text.split("---")[1], "card").mapping()
    assert (header["language"], header["pipeline_tag"]) == ("ko", "summarization")
    best = json.loads((experiment / "metrics.json").read_text())["best"]
    assert f"| dev, by which it was chosen | {best['best/rouge1_f1']:.2f} |" in text
    assert "Of all evaluations of the training this one has the highest eval/rouge_combined_f1." in text
    assert "Scorer: kiwi " in text
    assert re.search(r"\| train \| train.jsonl \| 20 \| `[0-9a-f]{16}` \|", text)
    assert "| learning_rate | 0.01 |" in text
    assert "| GPU time | 0.5 hours |" in text
    assert "| The search that found it | 1 trial, 0.5 GPU-hours |" in text
    assert "The card was simulated" in text
    assert str(root) not in text
    assert "plain-secret-word" not in text
    assert "| Card | 0.25 of <hidden> |" in text


def test_everything_lies_in_one_folder(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "given"
    done = hand_over(Experiment(folder=experiment), output, None, tmp_path / "cache")
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "config.yaml", "model", "predictions.jsonl", "submission.csv",
    ]  # fmt: skip
    assert done.summaries == 3
    with (output / "submission.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    written = [json.loads(line) for line in (experiment / "test_predictions.jsonl").read_text().splitlines()]
    assert rows[0] == ["", "fname", "summary"]
    assert rows[1:] == [[str(n), row["fname"], row["prediction"]] for n, row in enumerate(written)]
    assert (experiment / "submission.csv").read_bytes() == (output / "submission.csv").read_bytes()
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {
        path.name for path in (output / "model").iterdir()
    }
    with pytest.raises(RequestError, match="is not empty"):
        hand_over(Experiment(folder=experiment), output, None, tmp_path / "cache")
    parser = argparse.ArgumentParser()
    hand_over_cli.add_arguments(parser)
    data = experiment.parents[2] / "test.jsonl"
    words = [str(experiment), "--data", str(data), "--output", str(tmp_path / "other"), "--format", "json"]
    assert hand_over_cli.run(parser.parse_args(words)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["summaries"] == 3
    assert Path(answer["submission"]).read_bytes() == (output / "submission.csv").read_bytes()


def test_an_experiment_without_weights_is_refused(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "one")
    folder.path.mkdir()
    folder.config.write_text("model: tiny-bart\n")
    with pytest.raises(RequestError, match="only the best ones keep their weights") as refused:
        hand_over(Experiment(folder=folder.path), tmp_path / "out", None, tmp_path / "cache")
    assert refused.value.problems[0].startswith("train it again: python -m dialsum train --config ")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft by itself, in the card's code
@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_is_handed_over_alone_or_merged_into_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    from dialsum.trainer import train

    config = adapter_run(tmp_path, chat=True, prompt="chat", max_steps=4, num_beams=2)
    folder = ExperimentFolder.of(tmp_path / "outputs", "lora").path
    train(config, folder, cache_dir=tmp_path / "cache")
    done = hand_over(Experiment(folder=folder), tmp_path / "given", None, tmp_path / "cache", merge=merge)
    weights = sorted(path.name for path in done.model.glob("*.safetensors"))
    assert weights == ["model.safetensors" if merge else "adapter_model.safetensors"]
    assert (done.model / "config.json").exists() == merge
    monkeypatch.chdir(done.model)
    code = code_of(done.model / "README.md")
    assert ("peft" in code) != merge
    row = json.loads((folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    said = StringIO()
    with redirect_stdout(said):
        exec(code.replace('"#Person1#: ...\\n#Person2#: ..."', repr(row["dialogue"])), {})  # noqa: S102  # our own text
    assert said.getvalue().rstrip("\n") == row["prediction"]


def test_a_model_without_an_adapter_has_nothing_to_merge(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no adapter"):
        hand_over(Experiment(folder=experiment), tmp_path / "given", None, tmp_path / "cache", merge=True)
