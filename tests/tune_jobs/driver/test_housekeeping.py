"""Weights that a sweep keeps while it runs: the winner's never go, also where several seeds are one configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.driver.housekeeping import KEPT_MODELS, keep_best_models
from tune_jobs.records.journal import EndStatus, Evaluation, TrialHistory
from tune_jobs.records.ledger import Ledger
from tune_jobs.records.outcomes import record_of
from tune_jobs.records.progress import SweepFrame, progress_of
from tune_jobs.search.samplers import Sampled
from tuning_common.bounds import remove_folder

METRIC = "eval/rouge_combined_f1"


class Sweep:
    """Trials that end one after another; each leaves weights."""

    def __init__(self, folder: Path, configurations: Sequence[Sampled], *, decides_by_results: bool = False) -> None:
        self.folder, self.configurations, self.decides_by_results = folder, configurations, decides_by_results
        self.trials: dict[int, TrialHistory] = {}
        self.light: set[tuple[int, int]] = set()
        total = len(configurations)
        self.frame = SweepFrame(sweep="s", metric=METRIC, goal="maximize", total=total, longest=1, slots=1)

    def end(self, value: float, status: EndStatus = "finished") -> None:
        number = len(self.trials) + 1
        home = self.folder / str(number)
        (home / "models" / "best_model").mkdir(parents=True)
        sampled = self.configurations[number - 1]
        spec = {"name": str(number), "sweep": "s", "sampled": sampled, "folder": str(home), "config": {}}
        trial = TrialHistory(number=number, spec=spec, status=status)
        trial.evaluations[1] = Evaluation(number=1, value=value, metrics={METRIC: value}, run_s=1.0)
        self.trials[number] = trial
        to_come = None if self.decides_by_results else self.configurations[number:]
        progress = progress_of(self.frame, self.trials, now_s=1.0)
        keep_best_models(self.trials, progress, self.folder, to_come, self.light)

    @property
    def kept(self) -> list[int]:
        return sorted(int(path.parent.parent.name) for path in self.folder.glob("*/models/best_model"))

    @property
    def winner(self) -> int:
        records = tuple(record_of(trial, goal="maximize") for trial in self.trials.values())
        found = analyse(Ledger(trials=records)).winner
        assert found is not None
        return int(found.trial.trial_id)


def seeded(*names: int, seeds: int = 2) -> list[Mapping[str, int]]:
    return [{"batch_size": name, "seed": seed} for name in names for seed in range(seeds)]


def test_the_winner_by_the_mean_keeps_its_weights_though_single_trials_were_better(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, seeded(*range(1, KEPT_MODELS + 3)))
    for _ in range(KEPT_MODELS + 1):
        sweep.end(40.0)  # lucky once, and poor the second time
        sweep.end(10.0)
    sweep.end(30.0)
    sweep.end(29.0)
    assert sweep.winner == 13
    assert sweep.kept == [1, 3, 5, 7, 13]


def test_a_configuration_whose_seeds_are_not_all_over_is_not_judged(tmp_path: Path) -> None:
    first_seeds = [{"batch_size": size, "seed": 0} for size in range(1, 8)]
    second_seeds = [{"batch_size": size, "seed": 1} for size in range(1, 8)]
    sweep = Sweep(tmp_path, [*first_seeds, *second_seeds])
    for _ in range(6):
        sweep.end(40.0)
    sweep.end(30.0)  # the seventh of seven, and the winner in the end
    assert sweep.kept == [1, 2, 3, 4, 5, 6, 7]
    for _ in range(6):
        sweep.end(10.0)
    sweep.end(29.0)
    assert sweep.winner == 7
    assert 7 in sweep.kept
    assert len(sweep.kept) == KEPT_MODELS


def test_a_grid_frees_the_disk_while_it_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, seeded(*range(1, 21), seeds=3))
    for number in range(60):
        sweep.end(float(number % 17))
        assert len(sweep.kept) <= KEPT_MODELS + 1  # one whose seeds are not all over
    assert sweep.winner in sweep.kept


def test_without_seeds_the_best_trials_stay(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [{"batch_size": size} for size in range(1, 9)])
    for size in range(1, 9):
        sweep.end(float(size), "stopped")
    assert sweep.kept == [4, 5, 6, 7, 8]


def test_a_search_that_decides_by_results_keeps_what_a_further_seed_could_lift(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [{"batch_size": size, "seed": 0} for size in range(1, 9)], decides_by_results=True)
    for size in range(1, 8):
        sweep.end(float(size))
    assert sweep.kept == [1, 2, 3, 4, 5, 6, 7]
    sweep.end(8.0)  # the last: nothing is lifted any more
    assert sweep.kept == [4, 5, 6, 7, 8]


def test_weights_are_removed_once_and_again_after_a_further_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []

    def remove(path: Path, root: Path) -> None:
        removed.append(path)
        remove_folder(path, root)

    monkeypatch.setattr("tune_jobs.driver.housekeeping.remove_folder", remove)
    sweep = Sweep(tmp_path, [{"batch_size": number} for number in range(40)])
    for number in range(30):
        sweep.end(float(number))
    assert len(removed) == 30 - KEPT_MODELS == len(set(removed))
    sweep.trials[1].starts += 1
    (tmp_path / "1" / "models" / "best_model").mkdir(parents=True)
    sweep.end(30.0)
    assert 1 not in sweep.kept
