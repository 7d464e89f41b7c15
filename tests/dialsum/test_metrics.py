"""ROUGE against an independent implementation of twenty lines, and the guards around it."""

import os
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialsum.data import load_examples
from dialsum.korean_tokens import KiwiTokenizer
from dialsum.metrics import RougeScorer
from tuning_common.errors import RequestError

SHARED = Path(os.environ.get("DIALSUM_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))


def oracle_f1(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float]:
    """ROUGE-1, -2 and -L F1 (0..100) of token lists, from Lin (2004)."""

    def f1(overlap: int, predicted: int, wanted: int) -> float:
        return 200.0 * overlap / (predicted + wanted) if overlap else 0.0

    def n_gram_f1(n: int) -> float:
        grams = [Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (prediction, reference)]
        return f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())

    row = [0] * (len(reference) + 1)  # longest common subsequence with the first j tokens of the reference
    for token in prediction:
        above = row[:]
        for j, other in enumerate(reference):
            row[j + 1] = above[j] + 1 if token == other else max(row[j], above[j + 1])
    return n_gram_f1(1), n_gram_f1(2), f1(row[-1], len(prediction), len(reference))


words = st.lists(st.sampled_from(["apple", "pear", "plum", "fig", "kiwi"]), min_size=1, max_size=9)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_english_equals_the_oracle(prediction: list[str], references: list[list[str]]) -> None:
    scores = RougeScorer("en").score([" ".join(prediction)], [[" ".join(one) for one in references]])
    stem = {"apple": "appl"}
    tokens = [[stem.get(word, word) for word in text] for text in (prediction, *references)]
    expected = [fmean(column) for column in zip(*(oracle_f1(tokens[0], one) for one in tokens[1:]), strict=True)]
    assert [scores.rouge1_f1, scores.rouge2_f1, scores.rougeL_f1] == pytest.approx(expected, abs=1e-9)


def test_a_pair_worked_out_by_hand() -> None:
    scores = RougeScorer("en").score(["the cat sat on the mat"], [["the cat lay on the mat today"]])
    assert scores.rouge1_f1 == pytest.approx(100 * 2 * 5 / (6 + 7))
    assert scores.rouge2_f1 == pytest.approx(100 * 2 * 3 / (5 + 6))
    assert scores.rougeL_f1 == pytest.approx(100 * 2 * 5 / (6 + 7))
    assert scores.combined() == pytest.approx(0.7 * 76.923077 + 0.3 * 54.545455)


KOREAN = [
    ("#Person1#은 병원에 가서 3시에 진료를 받는다.", "#Person1#은 내일 3시에 병원 진료를 예약한다."),
    ("#Person2#가 환불을 요청한다.", "#Person2#는 #Person1#에게 신발의 환불을 요청한다."),
    ("둘은 부산으로 여행을 간다.", "#Person1#과 #Person2#는 부산 여행을 계획한다."),
    ("", "아무 말도 하지 않는다."),
]


def test_korean_equals_the_oracle_on_kiwi_tokens() -> None:
    tokenizer = KiwiTokenizer()
    pairs = RougeScorer("ko").score_pairs([a for a, _ in KOREAN], [[b] for _, b in KOREAN])
    for pair, (prediction, reference) in zip(pairs, KOREAN, strict=True):
        expected = oracle_f1(tokenizer.tokenize(prediction), tokenizer.tokenize(reference))
        assert (pair.rouge1_f1, pair.rouge2_f1, pair.rougeL_f1) == pytest.approx(expected, abs=1e-9)
    assert pairs[0].rouge1_f1 > 40
    assert pairs[3].rouge1_f1 == 0.0


def test_korean_scores_see_the_words_and_not_only_the_speakers() -> None:
    scorer = RougeScorer("ko")
    right, wrong = "#Person1#은 표를 산다.", "#Person1#은 잠을 잔다."
    assert scorer.score([right], [[right]]).rougeL_f1 == 100.0
    assert scorer.score([wrong], [[right]]).rouge1_f1 == pytest.approx(400 / 7)  # the blind default gives 100
    assert scorer.score(["표를 산다"], [["표를 산다"]]).rouge2_f1 == 100.0  # the blind default gives 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("#Person1#은 병원에 갔다.", ["#Person1#", "은", "병원", "에", "가", "었", "다", "."]),
        ("#Person1##Person2#", ["#Person1#", "#Person2#"]),
        ("#PhoneNumber#로 연락", ["#PhoneNumber#", "로", "연락"]),
        ("  ", []),
    ],
)
def test_placeholders_are_whole_tokens(text: str, tokens: list[str]) -> None:
    assert KiwiTokenizer().tokenize(text) == tokens


def test_several_references_are_averaged_and_the_best_is_reported() -> None:
    scores = RougeScorer("en").score(["red fish"], [["red fish", "blue bird", "red bird"]])
    assert scores.rouge1_f1 == pytest.approx((100 + 0 + 50) / 3)
    assert scores.best_rouge1_f1 == 100.0
    assert (scores.rouge2_f1, scores.best_rouge2_f1) == (pytest.approx(100 / 3), 100.0)


def test_the_composite_takes_weights_and_a_floor() -> None:
    scores = RougeScorer("en").score(["red fish"], [["red bird"]])
    assert (scores.rouge1_f1, scores.rouge2_f1, scores.rougeL_f1) == (50.0, 0.0, 50.0)
    assert scores.combined() == pytest.approx(35.0)
    assert scores.combined((0.0, 0.0, 1.0)) == 50.0
    assert scores.mean_summary_chars == 8
    assert scores.combined(summary_length_floor_chars=8) == pytest.approx(35.0)
    assert scores.combined(summary_length_floor_chars=9) == pytest.approx(31.5)
    assert scores.mean == pytest.approx(100 / 3)


def test_every_score_names_its_scorer() -> None:
    korean, english = RougeScorer("ko").identity, RougeScorer("en").identity
    assert (korean.tokenizer, korean.tokenizer_model, english.tokenizer) == ("kiwi", "cong", "porter")
    assert re.fullmatch(r"\d+\.\d+\.\d+/model-\d+\.\d+\.\d+", korean.tokenizer_version)
    record = RougeScorer("en").score(["a"], [["a"]]).to_dict()
    assert record["scorer"] == {**vars(english)}
    assert {"rouge1_f1", "rouge2_f1", "rougeL_f1", "rouge_combined_f1", "rouge_mean_f1", "count"} <= set(record)


def test_english_scoring_refuses_hangul() -> None:
    with pytest.raises(RequestError, match="text 2: holds Hangul") as caught:
        RougeScorer("en").score(["fine"] + ["좋다"] * 9, [["fine"]] * 10)
    assert caught.value.problems[-1] == "and 4 more of the same kind"


def test_what_cannot_be_scored_is_refused() -> None:
    scorer = RougeScorer("en")
    with pytest.raises(RequestError, match="no prediction"):
        scorer.score([], [])
    with pytest.raises(RequestError, match="2 predictions, but references for 1"):
        scorer.score(["a", "b"], [["a"]])
    with pytest.raises(RequestError, match="prediction 2: has no reference"):
        scorer.score(["a", "b"], [["a"], []])
    with pytest.raises(RequestError, match="no scorer for language 'fr'"):
        RougeScorer("fr")  # type: ignore[arg-type]


def test_blank_predictions_are_counted() -> None:
    scores = RougeScorer("en").score(["", "a plum"], [["a fig"], ["a plum"]])
    assert (scores.rouge1_f1, scores.empty_predictions, scores.count) == (50.0, 1, 2)


def test_a_scorer_travels_to_another_process_and_scores_the_same() -> None:
    scorer = RougeScorer("ko")
    first = scorer.score([a for a, _ in KOREAN], [[b] for _, b in KOREAN])
    copy: RougeScorer = pickle.loads(pickle.dumps(scorer))  # noqa: S301 (own bytes)
    assert copy.score([a for a, _ in KOREAN], [[b] for _, b in KOREAN]) == first


@pytest.mark.skipif(not (SHARED / "data/dialogsum").is_dir(), reason=f"needs English DialogSum under {SHARED}")
def test_real_english_summaries_against_each_other_equal_the_oracle() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    examples = load_examples(SHARED / "data/dialogsum/dialogsum.test.jsonl")[:100]
    predictions = [one.summaries[0] for one in examples]
    scores = RougeScorer("en").score(predictions, [one.summaries[1:] for one in examples])
    tokenize = DefaultTokenizer(use_stemmer=True).tokenize
    expected = [
        [
            fmean(column)
            for column in zip(*(oracle_f1(tokenize(p), tokenize(r)) for r in one.summaries[1:]), strict=True)
        ]
        for p, one in zip(predictions, examples, strict=True)
    ]
    means = [fmean(column) for column in zip(*expected, strict=True)]
    assert [scores.rouge1_f1, scores.rouge2_f1, scores.rougeL_f1] == pytest.approx(means, abs=1e-9)
