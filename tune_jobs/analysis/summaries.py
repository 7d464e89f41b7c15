"""An experiment's summaries of its dev dialogues, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dialsum.config import Language
from tuning_common.files import read_jsonl

SCORES = ("rouge1_f1", "rouge2_f1", "rougeL_f1", "rouge_combined_f1")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A dialogue with its reference summaries, a model's summary, and its score, 0 to 100."""

    fname: str
    dialogue: str
    references: tuple[str, ...]
    prediction: str
    score: float = 0.0


def read_summaries(path: Path) -> list[Summary]:
    """Reads predictions.jsonl; an absent or malformed file gives no summaries."""
    found = []
    for row in read_jsonl(path)[0]:
        texts, references = (row.get("dialogue"), row.get("prediction")), row.get("references")
        if not all(isinstance(text, str) for text in texts) or not isinstance(references, list) or not references:
            return []
        found.append(
            Summary(
                fname=str(row.get("fname", "")),
                dialogue=str(texts[0]),
                references=tuple(str(text) for text in references),
                prediction=str(texts[1]),
            )
        )
    return found


def score_summaries(
    summaries: Sequence[Summary], language: Language, weights: tuple[float, float, float]
) -> list[dict[str, float]]:
    """Scores each summary against its references.

    Args:
        summaries: With their references.
        language: Language of the scorer.
        weights: Weights of ROUGE-1, ROUGE-2 and ROUGE-L in the combined score.

    Returns:
        For each summary its scores by the names of SCORES, 0 to 100.
    """
    from dialsum.metrics import RougeScorer

    pairs = RougeScorer(language).score_pairs(
        [one.prediction for one in summaries], [one.references for one in summaries]
    )
    rows = []
    for pair in pairs:
        three = (pair.rouge1_f1, pair.rouge2_f1, pair.rougeL_f1)
        combined = sum(weight * score for weight, score in zip(weights, three, strict=True))
        rows.append(dict(zip(SCORES, (*three, combined), strict=True)))
    return rows
