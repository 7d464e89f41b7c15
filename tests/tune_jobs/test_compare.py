"""`compare` holds experiments against each other on the same dialogues, by one scorer, and says how sure it is."""

import argparse
import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dialsum.config import COMPOSITE, RunConfig
from dialsum.data import Example
from dialsum.metrics import RougeScorer
from dialsum.run_folder import write_predictions
from tests.tune_jobs.synthetic import sweep_record, wide_ledger, write
from tune_jobs.analysis.candidates import Noise
from tune_jobs.analysis.comparison import COMBINED, Comparison, compare, judge_difference, largest_differences
from tune_jobs.analysis.experiments import Experiment, find_experiments
from tune_jobs.analysis.significance import PairedDifference
from tune_jobs.commands import compare_cli
from tune_jobs.records.ledger import ExperimentFolder
from tune_jobs.report.charts_compare import draw_curves
from tune_jobs.report.compare_page import build_compare_page, headline
from tune_jobs.report.drawing import Label
from tuning_common.errors import RequestError
from tuning_common.files import write_json
from tuning_common.strict import dump_yaml

WORDS = sorted(
    {"the", "cat", "sat", "red", "mat", "while", "two", "dogs", "ran", "over", "green", "hills", "and", "trees"}
)


def summaries(quality: float, count: int, seed: int) -> tuple[list[Example], list[str]]:
    """References, and predictions of which so large a part of the words is right."""
    rng, luck = random.Random(1), random.Random(seed)
    examples = [
        Example(fname=f"d{n}", dialogue=f"#Person1#: {n}", summaries=(" ".join(rng.sample(WORDS, 8)),))
        for n in range(count)
    ]
    texts = [
        " ".join(word if luck.random() < quality else "wrong" for word in one.summaries[0].split()) for one in examples
    ]
    return examples, texts


def experiment(
    root: Path, name: str, quality: float, *, count: int = 60, seed: int = 0, scorer: str = "", **settings: object
) -> Path:
    """An experiment folder as a training leaves it, without a model."""
    folder = ExperimentFolder.of(root, name)
    config = RunConfig.from_dict({"language": "en", "model": "kobart", **settings})
    examples, texts = summaries(quality, count, seed)
    counted = RougeScorer("en")
    scores = counted.score(texts, [one.summaries for one in examples])
    row = {
        "eval/loss": 2.0, "eval/rouge1_f1": scores.rouge1_f1, "eval/rouge2_f1": scores.rouge2_f1,
        "eval/rougeL_f1": scores.rougeL_f1, "eval/rouge_combined_f1": scores.combined(),
    }  # fmt: skip
    identity = scores.to_dict()["scorer"]
    assert isinstance(identity, dict)
    folder.path.mkdir(parents=True)
    folder.config.write_text(dump_yaml(config.to_dict()), encoding="utf-8")
    rows = [{**row, "eval/rouge_combined_f1": row["eval/rouge_combined_f1"] * part} for part in (0.5, 1.0)]
    write_json(folder.metrics, {"history": rows, "scorer": identity | ({"tokenizer": scorer} if scorer else {})})
    write_predictions(folder.predictions, examples, texts)
    return folder.path


def pair(root: Path, first: float, second: float, **settings: object) -> Comparison:
    return compare(
        [
            Experiment(folder=experiment(root, "one", first)),
            Experiment(folder=experiment(root, "other", second, seed=3, **settings)),
        ]
    )


def test_a_better_model_is_told_with_its_scores_and_settings(tmp_path: Path) -> None:
    found = pair(tmp_path, 0.5, 0.8, learning_rate=2e-3, num_beams=4)
    first, second = found.sides
    assert found.best is second
    gap = second.differences[COMBINED]
    assert gap.mean == pytest.approx(second.scores[COMBINED] - first.scores[COMBINED])
    assert gap.low > 0
    assert second.certainty == "clear"
    assert found.settings == (("learning_rate", (1e-3, 2e-3)), ("num_beams", (1, 4)))
    assert headline(found) == f"B is clearly better than A, by {gap.mean:.2f} points"
    last = first.numbers.history[-1]
    assert {name: last[f"eval/{name}"] for name in first.scores} == pytest.approx(dict(first.scores))


def test_equal_models_are_not_told_apart(tmp_path: Path) -> None:
    found = pair(tmp_path, 0.6, 0.6)
    assert found.sides[1].certainty == "not sure"
    assert "which may be chance" in headline(found)
    assert found.settings == ()


def test_the_seed_has_its_say() -> None:
    gap = PairedDifference(mean=0.4, low=0.1, high=0.7, count=500)
    assert judge_difference(gap, Noise(band=0.5, source="")) == "may be the seed"
    assert judge_difference(replace(gap, mean=0.6), Noise(band=0.5, source="")) == "clear"
    assert judge_difference(gap, Noise(band=None, source="")) == "clear but for the seed"
    assert judge_difference(None, Noise(band=0.5, source="")) == "unknown"


def test_scores_of_different_scorers_are_refused_and_can_be_counted_anew(tmp_path: Path) -> None:
    one = Experiment(folder=experiment(tmp_path, "one", 0.5))
    old = Experiment(folder=experiment(tmp_path, "old", 0.7, scorer="mecab"))
    with pytest.raises(RequestError, match="scores of different scorers are never compared") as refused:
        compare([one, old])
    assert any(text.startswith("old: mecab ") for text in refused.value.problems)
    assert any("--rescore" in text for text in refused.value.problems)
    assert compare([one, old], rescore=True).scorer["tokenizer"] == "porter"
    both = [Experiment(folder=experiment(tmp_path, "x", 0.5, scorer="mecab")), old]
    with pytest.raises(RequestError, match="never compared"):  # the summaries would be counted by yet another one
        compare(both)


def test_languages_and_other_dialogues_are_refused(tmp_path: Path) -> None:
    one = Experiment(folder=experiment(tmp_path, "one", 0.5))
    korean = Experiment(folder=experiment(tmp_path, "korean", 0.5))
    values = RunConfig(model="kobart", language="ko").to_dict()
    ExperimentFolder(korean.folder).config.write_text(dump_yaml(values), encoding="utf-8")
    with pytest.raises(RequestError, match="different languages"):
        compare([one, korean])
    other = Experiment(folder=experiment(tmp_path, "other", 0.5))
    path = ExperimentFolder(other.folder).predictions
    path.write_text(path.read_text().replace("#Person1#: ", "#Person2#: "))
    with pytest.raises(RequestError, match="different dialogues"):
        compare([one, other])


def test_only_common_dialogues_count_and_it_is_said(tmp_path: Path) -> None:
    one = Experiment(folder=experiment(tmp_path, "one", 0.5, count=60))
    few = Experiment(folder=experiment(tmp_path, "few", 0.8, count=20, rouge_weights=[0.5, 0.0, 0.5]))
    found = compare([one, few])
    assert len(found.summaries) == 20
    assert "Only the 20 dialogues that all have are counted; the experiments have 60, 20." in found.remarks
    assert any(text.startswith("The experiments weigh ROUGE differently") for text in found.remarks)


def test_summaries_of_another_evaluation_are_told(tmp_path: Path) -> None:
    one, other = (Experiment(folder=experiment(tmp_path, name, 0.5)) for name in ("one", "other"))
    examples, texts = summaries(0.9, 60, 5)
    write_predictions(ExperimentFolder(other.folder).predictions, examples, texts)
    assert [text for text in compare([one, other]).remarks if "which none of its evaluations had" in text]


def test_without_summaries_scores_stand_alone(tmp_path: Path) -> None:
    one, other = (Experiment(folder=experiment(tmp_path, name, q)) for name, q in (("one", 0.5), ("other", 0.7)))
    ExperimentFolder(other.folder).predictions.unlink()
    found = compare([one, other])
    assert found.sides[1].certainty == "unknown"
    assert found.sides[1].scores[COMBINED] > found.sides[0].scores[COMBINED]
    assert headline(found) == "B has the highest score, and the certainty is not known"
    assert largest_differences(found, 3) == ()


def test_dialogues_to_look_at_are_gains_middles_and_losses(tmp_path: Path) -> None:
    found = pair(tmp_path, 0.5, 0.8)
    gains = [one.scores[1][COMBINED] - one.scores[0][COMBINED] for one in largest_differences(found, 6)]
    every = sorted((one.scores[1][COMBINED] - one.scores[0][COMBINED] for one in found.summaries), reverse=True)
    assert gains[:2] == every[:2]
    assert gains[-2:] == every[-2:]
    assert gains == sorted(gains, reverse=True)
    assert len({one.fname for one in largest_differences(found, 1000)}) == 60


def test_trials_are_found_by_number_name_and_rank(tmp_path: Path) -> None:
    trials = [replace(trial, experiment_dir="") for trial in wide_ledger(12)]
    sweep = write(tmp_path / "outputs" / "sweep_results" / "wide", trials).path
    names = [one.name for one in find_experiments([str(sweep), "3", trials[0].name])]
    assert names == [trials[2].name, trials[0].name]
    best = find_experiments([str(sweep)])
    assert [one.trial.trial_id for one in best if one.trial] == [
        one.best.trial.trial_id for one in _candidates(trials)[:2]
    ]
    assert best[0].folder == tmp_path.resolve() / "outputs" / "experiments" / best[0].name
    with pytest.raises(RequestError) as refused:
        find_experiments([str(sweep), "99", str(tmp_path / "nothing")])
    assert refused.value.problems == (
        f"{sweep} has no trial 99; it has 12 trials, also named by their numbers",
        f"{sweep} has no trial {tmp_path / 'nothing'}; it has 12 trials, also named by their numbers",
    )
    with pytest.raises(RequestError, match="is not there"):
        find_experiments(["nothing"])


def _candidates(trials: list[object]) -> list[object]:
    from tune_jobs.analysis.sweep_analysis import analyse
    from tune_jobs.records.ledger import Ledger

    return list(analyse(Ledger(sweep=sweep_record(), trials=tuple(trials))).candidates)  # type: ignore[arg-type]


def test_one_or_too_many_are_refused(tmp_path: Path) -> None:
    one = Experiment(folder=experiment(tmp_path, "one", 0.5))
    with pytest.raises(RequestError, match="one experiment is named"):
        compare([one])
    with pytest.raises(RequestError, match="named twice"):
        compare([one, one])
    with pytest.raises(RequestError, match="at most 6"):
        compare([one] * 7)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    compare_cli.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_writes_text_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(experiment(tmp_path, name, q, seed=n)) for n, (name, q) in enumerate([("가나", 0.5), ("<b>", 0.8)])]
    page = tmp_path / "page.html"
    assert compare_cli.run(arguments(*words, "--html", str(page), "--examples", "2")) == 0
    text = capsys.readouterr().out
    assert text.startswith("B is clearly better than A, by ")
    assert text.count("  people  ") == 2
    assert text.rstrip().endswith(str(page))
    html = page.read_text(encoding="utf-8")
    assert "가나" in html
    assert "&lt;b&gt;" in html
    assert "<b><" not in html
    assert not re.search(r"(?:src|href)=|https?://", html)
    assert compare_cli.run(arguments(*words, "--html", str(page), "--format", "json", "--examples", "0")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["best"], answer["dialogues"], answer["examples"]) == ("<b>", 60, [])
    assert answer["experiments"][1]["certainty"] == "clear"
    assert answer["experiments"][1]["differences"][COMBINED]["low"] > 0


def test_the_best_of_the_others_is_held_against_the_best(tmp_path: Path) -> None:
    names = {"a": 0.9, "b": 0.7, "c": 0.2}
    comparison = compare([Experiment(folder=experiment(tmp_path, name, part)) for name, part in names.items()])
    assert (comparison.best.letter, comparison.rival.letter) == ("A", "B")
    page = build_compare_page(comparison)
    assert "Dialogue by dialogue: B against A" in page
    assert "largest gain of B first" in page


def test_letters_at_the_ends_of_curves_do_not_overlap(tmp_path: Path) -> None:
    comparison = compare([Experiment(folder=experiment(tmp_path, name, 0.5, seed=i)) for i, name in enumerate("abc")])
    longer = [{COMPOSITE: 10.0 + i} for i in range(3)]
    sides = tuple(replace(side, numbers=replace(side.numbers, history=longer)) for side in comparison.sides)
    drawing = draw_curves(replace(comparison, sides=sides), 520.0)
    letters = sorted(shape.y for shape in drawing.shapes if isinstance(shape, Label) and shape.bold)
    assert len(letters) == 3
    assert min(below - above for above, below in itertools.pairwise(letters)) >= 14.0


def test_the_page_lies_in_the_output_folder_of_what_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (experiment(tmp_path / "there", name, part) for name, part in (("a", 0.9), ("b", 0.5)))
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    compare_cli.add_arguments(parser)
    assert compare_cli.run(parser.parse_args([str(one), str(two)])) == 0
    assert capsys.readouterr().out.rstrip().endswith("\nthere/comparisons/a_b.html")
    assert (tmp_path / "there" / "comparisons" / "a_b.html").exists()
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_without_scores_is_told_in_words(tmp_path: Path) -> None:
    failed = [replace(one, status="failed", history=[], metrics={}, best_metrics={}) for one in wide_ledger(2)]
    folder = write(tmp_path / "s", failed).path
    with pytest.raises(RequestError, match="none of its configurations has a score; see the state of its trials"):
        find_experiments([str(folder)])
