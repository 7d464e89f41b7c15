"""Makes the specification of a trial: rules, placement, name and folders come together."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import cast

from dialsum.config import RunConfig
from tune_jobs.config.naming import generation_name, trial_name
from tune_jobs.config.result_paths import SharedFolders
from tune_jobs.config.space import as_written
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option, Placer
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.search.grid import sampled_configs
from tune_jobs.search.samplers import Sampled
from tuning_common.bounds import lies_inside
from tuning_common.errors import RequestError

FILE_FIELDS = ("train_file", "dev_file", "test_file", "model")  # named in full in a specification


class SweepSpecs:
    """Makes the specifications of one sweep; see sweep_parts.SpecMaker.

    Args:
        sweep: A plain sweep.
        placer: Finds out how configurations can run.
        output_dir: Folder of experiments and sweep results.
        folders: Folders that all trials share.
        started: When the sweep started first; part of every name.
        taken: Names that exist already, without this sweep's own.
        known: Names of this sweep's trials that an earlier driver made, by number.
    """

    def __init__(
        self,
        sweep: Sweep,
        placer: Placer,
        *,
        output_dir: Path,
        folders: SharedFolders,
        started: datetime,
        taken: set[str],
        known: Mapping[int, str] | None = None,
    ) -> None:
        self._sweep, self._placer = sweep, placer
        self._output_dir, self._folders = output_dir.resolve(), folders
        self._started, self._taken = started, set(taken)
        # By number: who starts first depends on which card is free first, and names must not.
        self._names = self._listed_names() | dict(known or {})
        self._taken.update(self._names.values())

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        """Returns the specification of a new trial; see sweep_parts.SpecMaker."""
        trial = self._sweep.resolve(sampled)
        name = self._names.get(number) or self._new_name(trial.resolved, self._taken)
        placement = self._placer.options(name, trial.resolved)[0].placement
        self._taken.add(name)
        return TrialSpec(
            number=number,
            name=name,
            sweep=self._sweep.name,
            sampled={key: as_written(value) for key, value in sampled.items()},
            config=_with_whole_paths(trial.resolved, self._folders).to_dict(),
            folder=str(ExperimentFolder.of(self._output_dir, name).path),
            sweep_folder=str(SweepFolder.of(self._output_dir, self._sweep.name).path),
            cache_dir=str(self._folders.cache_dir.resolve()),
            metric=self._sweep.metric.name,
            bundle=placement.bundle,
            shape=placement.shape,
            notes=list(trial.notes),
            exploding_loss=self._sweep.anomalies.exploding_loss,
            simulated=self._placer.simulated,
            member=self._sweep.team.member,
            trained=self._sweep.trained_model,
        ).at(placement)

    def here(self, kept: Mapping[str, object]) -> Mapping[str, object]:
        """Returns the specification of an earlier driver, with folders and files as this driver finds them.

        Raises:
            RequestError: When it is no specification of this sweep, or its folder lies behind a link.
        """
        spec = TrialSpec.from_dict({**kept, "cache_dir": str(self._folders.cache_dir.resolve())})
        folder = ExperimentFolder.of(self._output_dir, spec.name).path
        if not lies_inside(folder, self._output_dir):
            raise RequestError(f"{folder} lies behind a link, or outside of {self._output_dir}")
        sampled = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.sampled.items()}
        found = _with_whole_paths(self._sweep.resolve(cast("Sampled", sampled)).resolved, self._folders).to_dict()
        return replace(
            spec,
            folder=str(folder),
            sweep_folder=str(SweepFolder.of(self._output_dir, self._sweep.name).path),
            trained=self._sweep.trained_model,
            config=spec.config | {name: found[name] for name in FILE_FIELDS},
        ).to_dict()

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every way to run a trial; see sweep_parts.SpecMaker."""
        return self._placer.options(spec.name, RunConfig.from_dict(spec.config), least_bytes)

    def _new_name(self, config: RunConfig, taken: Collection[str]) -> str:
        names = trial_name if self._sweep.trained_model is None else generation_name
        return names(self._sweep.name, config, self._started, taken)

    def _listed_names(self) -> dict[int, str]:
        if self._sweep.method not in ("grid", "random"):
            return {}
        names: dict[int, str] = {}
        taken = set(self._taken)
        for number, sampled in enumerate(sampled_configs(self._sweep), start=1):
            with suppress(RequestError):  # reported when the trial is made
                names[number] = self._new_name(self._sweep.resolve(sampled).resolved, taken)
                taken.add(names[number])
        return names


def _with_whole_paths(config: RunConfig, folders: SharedFolders) -> RunConfig:
    """A trial's process has a working folder of its own, so files and local models are named in full."""
    paths = {name: str(getattr(config, name)) for name in FILE_FIELDS if getattr(config, name) is not None}
    return config.with_changes(
        {name: str(folders.permanent_path(Path(path))) for name, path in paths.items() if Path(path).exists()}
    )
