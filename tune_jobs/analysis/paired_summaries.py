"""Summaries of several experiments on the same dialogues, each scored with one scorer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dialsum.config import Language
from tune_jobs.analysis.summaries import Summary, read_summaries, score_summaries
from tune_jobs.records.ledger import ExperimentFolder
from tuning_common.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class SharedSummaries:
    """One dialogue with the summary of each experiment.

    Attributes:
        fname: Name of the dialogue.
        dialogue: Its turns.
        references: Reference summaries.
        predictions: Summaries by the experiments, in their order.
        scores: For each experiment, its scores by name; 0 to 100.
    """

    fname: str
    dialogue: str
    references: tuple[str, ...]
    predictions: tuple[str, ...]
    scores: tuple[Mapping[str, float], ...]


def shared_summaries(
    folders: Sequence[Path], language: Language, weights: tuple[float, float, float]
) -> list[SharedSummaries]:
    """Scores the summaries of the dialogues that all experiments share, in the order of the first.

    Dialogues are the same where name, turns and references are equal.

    Args:
        folders: Folders of experiments.
        language: Language of the scorer.
        weights: Weights of the combined score.

    Raises:
        RequestError: When an experiment has no summaries.
    """
    sets = [_by_dialogue(folder) for folder in folders]
    shared = [key for key in sets[0] if all(key in one for one in sets)]
    if not shared:
        return []
    scored = [score_summaries([one[key] for key in shared], language, weights) for one in sets]
    return [
        SharedSummaries(
            fname=sets[0][key].fname,
            dialogue=sets[0][key].dialogue,
            references=sets[0][key].references,
            predictions=tuple(one[key].prediction for one in sets),
            scores=tuple(rows[index] for rows in scored),
        )
        for index, key in enumerate(shared)
    ]


def count_summaries(folder: Path) -> int:
    """Counts the summaries of an experiment that have references."""
    return len(read_summaries(ExperimentFolder(folder).predictions))


def _by_dialogue(folder: Path) -> dict[tuple[str, str, tuple[str, ...]], Summary]:
    path = ExperimentFolder(folder).predictions
    found = {(one.fname, one.dialogue, one.references): one for one in read_summaries(path)}
    if not found:
        state = "holds no summaries with references" if path.exists() else "is not there"
        raise RequestError(f"{path} {state}; give the folder of an experiment that has been evaluated at least once")
    return found
