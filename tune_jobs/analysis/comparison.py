"""Compares experiments: scores by one scorer, different settings, and the certainty of each difference."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from dialsum.config import COMPOSITE, RunConfig, load_run_config
from tune_jobs.analysis.candidates import Candidate, Noise, Scored, find_noise
from tune_jobs.analysis.experiments import Experiment
from tune_jobs.analysis.paired_summaries import SharedSummaries, count_summaries, shared_summaries
from tune_jobs.analysis.significance import PairedDifference, paired_bootstrap
from tune_jobs.analysis.summaries import SCORES
from tune_jobs.records.ledger import ExperimentFolder, TrialRecord
from tune_jobs.records.run_numbers import RunNumbers, read_numbers
from tuning_common.errors import Problems, RequestError
from tuning_common.goal import best_of

COMBINED = "rouge_combined_f1"
MOST_SIDES = 6
_LETTERS = "ABCDEF"
_SAME = 0.02  # points
Certainty = Literal["clear", "clear but for the seed", "not sure", "may be the seed", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One experiment of a comparison.

    Attributes:
        letter: A for the first, the reference for the others.
        experiment: See Experiment.
        config: Its run configuration.
        numbers: The numbers in its metrics.json.
        scores: Means over the shared dialogues by name, 0 to 100; without summaries, the reported scores.
        differences: This minus the first on the same dialogues, by name; empty for the first and without summaries.
        certainty: Certainty of the difference in the combined score.
    """

    letter: str
    experiment: Experiment
    config: RunConfig
    numbers: RunNumbers
    scores: Mapping[str, float]
    differences: Mapping[str, PairedDifference]
    certainty: Certainty

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.experiment.name


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The content of the text, JSON and page.

    Attributes:
        sides: The experiments, in the given order.
        settings: Different settings: name and one value for each side.
        summaries: Summaries of the shared dialogues.
        noise: The noise between two trainings of one configuration.
        scorer: Names and versions of the scorer.
        remarks: Remarks for the reader.
    """

    sides: tuple[Side, ...]
    settings: tuple[tuple[str, tuple[object, ...]], ...]
    summaries: tuple[SharedSummaries, ...]
    noise: Noise
    scorer: Mapping[str, str]
    remarks: tuple[str, ...]

    @property
    def best(self) -> Side:
        """The side with the highest combined score; of equals the first."""
        return max(self.sides, key=lambda side: side.scores.get(COMBINED, 0.0))

    @property
    def rival(self) -> Side:
        """The best of the sides after the first."""
        return max(self.sides[1:], key=lambda side: side.scores.get(COMBINED, 0.0))


def compare(experiments: Sequence[Experiment], *, rescore: bool = False) -> Comparison:
    """Compares experiments with the first of them.

    Args:
        experiments: At least two, at most MOST_SIDES.
        rescore: Score all summaries again with the installed scorer, whichever scorer the reports used.

    Raises:
        RequestError: When there are too few or too many, one has no evaluation, their scores come from different
            scorers or languages, or they have no dialogue in common.
    """
    _check_number(experiments)
    configs = [load_run_config(ExperimentFolder(one.folder).config) for one in experiments]
    numbers = [read_numbers(one.folder) for one in experiments]
    counts = [count_summaries(one.folder) for one in experiments]
    scorer = _one_scorer(experiments, configs, numbers, counts, rescore=rescore)
    weights, remarks = _weights(configs)
    shared: list[SharedSummaries] = []
    if all(counts):
        shared = shared_summaries([one.folder for one in experiments], configs[0].language, weights)
        if not shared:
            raise RequestError(
                "the experiments were evaluated on different dialogues, so their scores cannot be compared",
                ["score them on the same file: python -m dialsum evaluate --run FOLDER --data FILE, one after another"],
            )
        remarks += _coverage(counts, len(shared))
        remarks += _other_evaluations(experiments, numbers, shared, rescore=rescore)
    else:
        remarks += [
            f"{one.name} has no summaries in predictions.jsonl, so the certainty of its difference is unknown"
            for one, count in zip(experiments, counts, strict=True)
            if not count
        ]
    noise = _noise(configs[0], len(shared) or None)
    sides = [
        _side(index, one, config, number, shared, noise)
        for index, (one, config, number) in enumerate(zip(experiments, configs, numbers, strict=True))
    ]
    if len(sides) > 3:
        remarks.append("Each interval is for one comparison; among many comparisons, one may be significant by chance.")
    return Comparison(
        sides=tuple(sides),
        settings=differing_settings([config.to_dict() for config in configs]),
        summaries=tuple(shared),
        noise=noise,
        scorer=scorer,
        remarks=tuple(remarks),
    )


def differing_settings(configs: Sequence[Mapping[str, object]]) -> tuple[tuple[str, tuple[object, ...]], ...]:
    """Returns the settings that differ, with their values.

    >>> differing_settings([{"seed": 0, "model": "t5"}, {"seed": 1, "model": "t5"}])
    (('seed', (0, 1)),)
    """
    names = dict.fromkeys(name for config in configs for name in config)
    rows = [(name, tuple(config.get(name) for config in configs)) for name in names]
    return tuple((name, values) for name, values in rows if any(value != values[0] for value in values))


def judge_difference(difference: PairedDifference | None, noise: Noise) -> Certainty:
    """Returns whether a difference would hold on other dialogues and with another seed.

    >>> wide = PairedDifference(mean=1.0, low=-0.2, high=2.2, count=50)
    >>> judge_difference(wide, Noise(band=0.5, source=""))
    'not sure'
    """
    if difference is None:
        return "unknown"
    if not difference.is_clear:
        return "not sure"
    if noise.band is None:
        return "clear but for the seed"
    return "may be the seed" if abs(difference.mean) <= noise.band else "clear"


def largest_differences(comparison: Comparison, count: int) -> tuple[SharedSummaries, ...]:
    """Selects example dialogues: where the rival gains most, where it loses most, and between."""
    other = comparison.sides.index(comparison.rival)
    ranked = sorted(comparison.summaries, key=lambda one: -(one.scores[other][COMBINED] - one.scores[0][COMBINED]))
    if len(ranked) <= count:
        return tuple(ranked)
    top, end = -(-count // 3), count // 3
    middle = count - top - end
    start = max(top, (len(ranked) - middle) // 2)
    chosen = dict.fromkeys([*range(top), *range(start, start + middle), *range(len(ranked) - end, len(ranked))])
    return tuple(ranked[index] for index in chosen)


def _check_number(experiments: Sequence[Experiment]) -> None:
    if len(experiments) < 2:
        raise RequestError(
            "only one experiment is named; give at least two, or a sweep's folder alone for its two best"
        )
    if len(experiments) > MOST_SIDES:
        raise RequestError(
            f"{len(experiments)} experiments do not fit beside each other; give at most {MOST_SIDES}, or rank a whole"
            " sweep with: python -m tune_jobs report FOLDER"
        )
    folders = [one.folder.resolve() for one in experiments]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise RequestError(f"{', '.join(twice)} is named twice; name different experiments")
    problems = Problems()
    for one in experiments:
        if not ExperimentFolder(one.folder).config.exists():
            problems.add(f"{one.folder}: no config.yaml in it, so this is no experiment, or it never started")
    problems.raise_if_any("compare")


def _one_scorer(
    experiments: Sequence[Experiment],
    configs: Sequence[RunConfig],
    numbers: Sequence[RunNumbers],
    counts: Sequence[int],
    *,
    rescore: bool,
) -> Mapping[str, str]:
    """Scores of different scorers are never compared (design, section 9)."""
    if len({config.language for config in configs}) > 1:
        details = [f"{one.name}: {config.language}" for one, config in zip(experiments, configs, strict=True)]
        raise RequestError("the experiments are scored in different languages, so no scale is common to them", details)
    at_hand = _installed_scorer(configs[0])
    if rescore:
        without = [one.name for one, count in zip(experiments, counts, strict=True) if not count]
        if without:
            raise RequestError(f"--rescore needs predictions.jsonl with references, and {', '.join(without)} has none")
        return at_hand
    stored = {one.name: number.scorer for one, number in zip(experiments, numbers, strict=True)}
    known = {name: scorer for name, scorer in stored.items() if scorer is not None}
    wanted = at_hand if all(counts) else next(iter(known.values()), at_hand)
    if any(scorer != wanted for scorer in known.values()):
        details = [f"{name}: {_scorer_text(scorer)}" for name, scorer in known.items()]
        if all(counts):
            details += [
                f"installed: {_scorer_text(at_hand)}",
                "--rescore scores all summaries again with the installed scorer",
            ]
        raise RequestError("scores of different scorers are never compared, and these come from several", details)
    return wanted


def _installed_scorer(config: RunConfig) -> Mapping[str, str]:
    from dialsum.metrics import RougeScorer

    return {name: str(value) for name, value in asdict(RougeScorer(config.language).identity).items()}


def _scorer_text(scorer: Mapping[str, str]) -> str:
    """Returns a scorer as one line of text.

    >>> _scorer_text({"tokenizer": "kiwi", "tokenizer_version": "0.24.1", "rouge_score_version": "0.1.2"})
    'kiwi 0.24.1, rouge_score 0.1.2'
    """
    model = f" ({scorer['tokenizer_model']})" if scorer.get("tokenizer_model") else ""
    tokenizer = f"{scorer.get('tokenizer', 'unknown')} {scorer.get('tokenizer_version', '')}".strip()
    return f"{tokenizer}{model}, rouge_score {scorer.get('rouge_score_version', 'unknown')}"


def _weights(configs: Sequence[RunConfig]) -> tuple[tuple[float, float, float], list[str]]:
    weights, remarks = configs[0].rouge_weights, []
    if any(config.rouge_weights != weights for config in configs):
        shown = " / ".join(f"{weight:g}" for weight in weights)
        remarks.append(f"The experiments weigh ROUGE differently; here all are combined as the first is: {shown}.")
    if any(config.summary_length_floor_chars for config in configs):
        remarks.append("The combined score is shown without the factor for short summaries.")
    return weights, remarks


def _coverage(counts: Sequence[int], shared: int) -> list[str]:
    if all(count == shared for count in counts):
        return []
    each = ", ".join(str(count) for count in counts)
    return [f"Only the {shared} dialogues that all have are counted; the experiments have {each}."]


def _other_evaluations(
    experiments: Sequence[Experiment],
    numbers: Sequence[RunNumbers],
    shared: Sequence[SharedSummaries],
    *,
    rescore: bool,
) -> list[str]:
    """Returns remarks on summaries that are not of the best evaluation, for example after a crash."""
    found = []
    for index, (one, number) in enumerate(zip(experiments, numbers, strict=True)):
        counted = sum(row.scores[index]["rouge1_f1"] for row in shared) / len(shared)
        reported = [row["eval/rouge1_f1"] for row in number.history if "eval/rouge1_f1" in row]
        if rescore or not reported or len(shared) < count_summaries(one.folder):
            continue
        if all(abs(value - counted) > _SAME for value in reported):
            found.append(f"The summaries of {one.name} have ROUGE-1 {counted:.2f}, which none of its evaluations had.")
    return found


def _noise(config: RunConfig, dialogues: int | None) -> Noise:
    trial = TrialRecord(trial_id="", name="", sweep="", status="finished", resolved={"model": config.model})
    return find_noise(COMPOSITE, [Candidate(trials=(Scored(trial=trial, score=0.0),), score=0.0)], dialogues=dialogues)


def _side(
    index: int,
    experiment: Experiment,
    config: RunConfig,
    numbers: RunNumbers,
    shared: Sequence[SharedSummaries],
    noise: Noise,
) -> Side:
    differences: dict[str, PairedDifference] = {}
    if shared:
        scores = {name: sum(one.scores[index][name] for one in shared) / len(shared) for name in SCORES}
        if index:
            differences = {
                name: paired_bootstrap([o.scores[index][name] for o in shared], [o.scores[0][name] for o in shared])
                for name in SCORES
            }
    else:
        best = best_of(numbers.history, lambda row: row.get(config.metric), config.goal) or {}
        scores = {name: best[f"eval/{name}"] for name in SCORES if f"eval/{name}" in best}
    return Side(
        letter=_LETTERS[index],
        experiment=experiment,
        config=config,
        numbers=numbers,
        scores=scores,
        differences=differences,
        certainty=judge_difference(differences.get(COMBINED), noise),
    )
