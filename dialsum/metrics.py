"""ROUGE as in Google's reference implementation, with a tokenizer that fits the language. ROUGE is in 0..100.

Scores of different scorers are never compared: each result carries the identity of its scorer. Does not import torch.
"""

import dataclasses
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from dialsum.config import Language
from dialsum.korean_tokens import KIWI_MODEL_TYPE, KiwiTokenizer, kiwi_version
from tuning_common.errors import Problems, RequestError

DEFAULT_WEIGHTS = (0.3, 0.3, 0.4)
SHORT_SUMMARY_FACTOR = 0.9
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_KINDS = ("rouge1", "rouge2", "rougeL")
_SHOWN_PROBLEMS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorerIdentity:
    """The identity of a scorer. Only scores with equal identities are comparable."""

    language: Language
    tokenizer: str
    tokenizer_version: str
    tokenizer_model: str
    rouge_score_version: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairScores:
    """F1 of one prediction against its references, 0..100: the mean over them, and the best of them."""

    rouge1_f1: float
    rouge2_f1: float
    rougeL_f1: float  # noqa: N815  # the usual name
    best_rouge1_f1: float
    best_rouge2_f1: float
    best_rougeL_f1: float  # noqa: N815


@dataclasses.dataclass(frozen=True, kw_only=True)
class RougeScores:
    """Means over a set of predictions, 0..100.

    Attributes:
        best_rouge1_f1: Mean of the best reference's score, as in some papers; likewise the other two.
        count: Number of predictions.
        empty_predictions: Number of blank predictions (they score 0).
        mean_summary_chars: Mean length of a prediction in characters.
        scorer: Identity of the scorer.
    """

    rouge1_f1: float
    rouge2_f1: float
    rougeL_f1: float  # noqa: N815
    best_rouge1_f1: float
    best_rouge2_f1: float
    best_rougeL_f1: float  # noqa: N815
    count: int
    empty_predictions: int
    mean_summary_chars: float
    scorer: ScorerIdentity

    def combined(
        self, weights: tuple[float, float, float] = DEFAULT_WEIGHTS, summary_length_floor_chars: int = 0
    ) -> float:
        """Returns the combined score that ranks trials, 0..100.

        Args:
            weights: Weights of ROUGE-1, ROUGE-2 and ROUGE-L.
            summary_length_floor_chars: Where the mean summary is shorter, the score is multiplied by 0.9: very short
                summaries can score well with little content.
        """
        plain = sum(weight * score for weight, score in zip(weights, self._three(), strict=True))
        return plain * (SHORT_SUMMARY_FACTOR if self.mean_summary_chars < summary_length_floor_chars else 1.0)

    @property
    def mean(self) -> float:
        """Plain mean of the three, as in the Korean competition."""
        return fmean(self._three())

    def to_dict(
        self, weights: tuple[float, float, float] = DEFAULT_WEIGHTS, summary_length_floor_chars: int = 0
    ) -> dict[str, object]:
        """Returns plain values for JSON: every field, `rouge_mean_f1` and `rouge_combined_f1`."""
        combined = self.combined(weights, summary_length_floor_chars)
        return dataclasses.asdict(self) | {"rouge_mean_f1": self.mean, "rouge_combined_f1": combined}

    def _three(self) -> tuple[float, float, float]:
        return self.rouge1_f1, self.rouge2_f1, self.rougeL_f1


class RougeScorer:
    """Scores summaries of one language: Kiwi morphemes for Korean, Porter stems for English.

    Keeps the tokens of the last call's texts: a trainer scores the same references each time, and some summaries too.

    >>> scorer = RougeScorer("en")
    >>> scores = scorer.score(["#Person1# buys apples."], [["#Person1# bought an apple.", "#Person1# buys apples."]])
    >>> round(scores.rouge1_f1, 2), scores.best_rouge1_f1, scores.count
    (78.57, 100.0, 1)
    """

    def __init__(self, language: Language) -> None:
        if language not in ("ko", "en"):
            raise RequestError(f"no scorer for language {language!r}; there are ko (Kiwi) and en (Porter)")
        self.language: Language = language
        self._tokenizer: _Tokenizer = KiwiTokenizer() if language == "ko" else _porter()
        self._tokens: dict[str, list[str]] = {}

    @property
    def identity(self) -> ScorerIdentity:
        """The tokenizer with its version and model, and the ROUGE implementation."""
        if self.language == "ko":
            name, version, model = "kiwi", kiwi_version(), KIWI_MODEL_TYPE
        else:
            name, version, model = "porter", _version("nltk"), "rouge_score.tokenizers.DefaultTokenizer"
        return ScorerIdentity(
            language=self.language,
            tokenizer=name,
            tokenizer_version=version,
            tokenizer_model=model,
            rouge_score_version=_version("rouge_score"),
        )

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> RougeScores:
        """Scores a set of predictions.

        Args:
            predictions: One text each; a blank one scores 0.
            references: For each prediction one or more texts.

        Raises:
            RequestError: When there is nothing to score, the numbers differ, a prediction has no reference, or English
                text has Hangul, which the English tokenizer would drop silently.
        """
        pairs = self.score_pairs(predictions, references)
        return RougeScores(
            **{name: fmean(getattr(pair, name) for pair in pairs) for name in _FIELDS},
            count=len(predictions),
            empty_predictions=sum(not text.strip() for text in predictions),
            mean_summary_chars=fmean(len(text) for text in predictions),
            scorer=self.identity,
        )

    def score_pairs(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[PairScores]:
        """Scores each prediction alone, for paired comparisons of two models; see score."""
        _check(predictions, references, self.language)
        wanted, known = {*predictions, *(text for texts in references for text in texts)}, self._tokens
        self._tokens = {text: known.get(text) or self._tokenizer.tokenize(text) for text in wanted}
        scorer = _reference_scorer(_Tokens(self._tokens))
        return [_pair(scorer, text, texts) for text, texts in zip(predictions, references, strict=True)]


class _Tokenizer(Protocol):
    def tokenize(self, text: str) -> list[str]: ...


class _FMeasure(Protocol):
    fmeasure: float


class _ReferenceScorer(Protocol):
    def score(self, target: str, prediction: str) -> Mapping[str, _FMeasure]: ...


_FIELDS = tuple(field.name for field in dataclasses.fields(PairScores))


class _Tokens:
    """Passes cached tokens to the reference implementation."""

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.known = known

    def tokenize(self, text: str) -> list[str]:
        return self.known[text]


def _porter() -> _Tokenizer:
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer: _Tokenizer = DefaultTokenizer(use_stemmer=True)
    return tokenizer


def _reference_scorer(tokens: _Tokens) -> _ReferenceScorer:
    from rouge_score.rouge_scorer import RougeScorer as Reference

    scorer: _ReferenceScorer = Reference(list(_KINDS), tokenizer=tokens)
    return scorer


def _pair(scorer: _ReferenceScorer, prediction: str, references: Sequence[str]) -> PairScores:
    scores = [scorer.score(target=reference, prediction=prediction) for reference in references]
    by_kind = {kind: [100 * score[kind].fmeasure for score in scores] for kind in _KINDS}
    means = {f"{kind}_f1": fmean(values) for kind, values in by_kind.items()}
    return PairScores(**means, **{f"best_{kind}_f1": max(values) for kind, values in by_kind.items()})


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]], language: Language) -> None:
    if len(predictions) != len(references):
        raise RequestError(f"{len(predictions)} predictions, but references for {len(references)}; give one set each")
    if not predictions:
        raise RequestError("no prediction to score")
    problems = Problems()
    without = [n for n, texts in enumerate(references, start=1) if not texts or not all(text.strip() for text in texts)]
    problems.extend([f"prediction {n}: has no reference or a blank one" for n in without[:_SHOWN_PROBLEMS]])
    hangul = [
        n
        for n, (prediction, texts) in enumerate(zip(predictions, references, strict=True), start=1)
        if language == "en" and any(HANGUL.search(text) for text in (prediction, *texts))
    ]
    problems.extend([f"text {n}: holds Hangul, which English scoring drops; use ko" for n in hangul[:_SHOWN_PROBLEMS]])
    more = max(0, len(without) - _SHOWN_PROBLEMS) + max(0, len(hangul) - _SHOWN_PROBLEMS)
    if more:
        problems.add(f"and {more} more of the same kind")
    problems.raise_if_any(f"{len(predictions)} predictions cannot be scored as language {language!r}")


def _version(package: str) -> str:
    return importlib.metadata.version(package)
