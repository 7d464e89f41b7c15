"""The numbers of one run, read from its metrics.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tune_jobs.records.ledger import ExperimentFolder
from tuning_common.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """The numbers of a run, from its metrics.json.

    Attributes:
        history: One row for each evaluation.
        test: Scores on the test data, or None.
        scorer: Names and versions of the scorer.
    """

    history: tuple[Mapping[str, float], ...]
    test: Mapping[str, float] | None
    scorer: Mapping[str, str] | None


def read_numbers(folder: Path) -> RunNumbers:
    """Reads metrics.json of an experiment.

    Raises:
        RequestError: When the file is missing or has no evaluation.
    """
    path = ExperimentFolder(folder).metrics
    if not path.exists():
        raise RequestError(
            f"{folder}: no {path.name} in it; give the folder of an experiment that has been evaluated at least once"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        history = tuple(cast("Mapping[str, float]", row) for row in content["history"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    if not history:
        raise RequestError(f"{path}: holds no evaluation")
    return RunNumbers(history=history, test=content.get("test"), scorer=content.get("scorer"))
