"""What earlier sweeps tell about one that is planned: how fast runs go, and which parameters matter."""

from collections.abc import Sequence
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.analysis.candidates import Scored, score_of
from tune_jobs.analysis.importance import Importance, find_importances
from tune_jobs.config.parameters import find_parameters
from tune_jobs.placing.throughput import Observation, observe
from tune_jobs.records.ledger import Ledger, SweepFolder
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.goal import Goal
from tuning_common.units import counted


def earlier_ledgers(output_dir: Path) -> list[Ledger]:
    """Reads all ledgers below an output folder; lines that cannot be read are named and left out."""
    found = []
    for folder in sorted(path.parent for path in SweepFolder.of(output_dir, "").path.glob("*/all_results.jsonl")):
        ledger = SweepFolder(folder).load()
        if ledger.torn:
            note(
                f"{folder}: not used for the plan: {counted(len(ledger.torn), 'line')} of the ledger: {ledger.torn[0]}"
            )
        found.append(ledger)
    return found


def observations_of(ledgers: Sequence[Ledger]) -> list[Observation]:
    """Returns what trials took that ended well; a configuration of an older version teaches nothing."""
    sizes: dict[str, int] = {}

    def dev_size(config: RunConfig) -> int:
        if config.dev_file not in sizes:
            sizes[config.dev_file] = _dialogues(config)
        counted = sizes[config.dev_file] or config.max_eval_samples or 1
        return min(counted, config.max_eval_samples or counted)

    found = []
    for ledger in ledgers:
        for record in ledger.trials:
            if record.status not in ("finished", "stopped"):
                continue
            try:
                observation = observe(record, dev_size)
            except RequestError:
                continue
            if observation is not None:
                found.append(observation)
    return found


def importances_of(ledgers: Sequence[Ledger], metric: str, goal: Goal) -> tuple[str, tuple[Importance, ...]]:
    """Returns the importances of the largest earlier sweep with the same metric, and its name; empty without one."""
    best: tuple[str, tuple[Importance, ...]] = ("", ())
    most = 0
    for ledger in ledgers:
        if ledger.sweep is None or ledger.sweep.metric != metric:
            continue
        scores = [(trial, score_of(trial, metric, goal)) for trial in ledger.trials]
        scored = [Scored(trial=trial, score=score) for trial, score in scores if score is not None]
        if len(scored) <= most:
            continue
        parameters, _ = find_parameters([one.trial.sampled for one in scored], ledger.sweep.parameters)
        found = find_importances(scored, parameters, maximize=goal == "maximize")
        if found.parameters:
            best, most = (f"{ledger.sweep.sweep}, {counted(found.trials, 'trial')}", found.parameters), len(scored)
    return best


def _dialogues(config: RunConfig) -> int:
    from dialsum.data import load_examples

    try:
        return len(load_examples(Path(config.dev_file), columns=config.columns))
    except RequestError:
        return 0
