"""Makes a trial runnable: rules, placement, name and folders come together in its order."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.config.naming import generation_name, trial_name
from tune_jobs.config.result_paths import Places
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.card_line import CardLine, FreeGpus, Offer
from tune_jobs.driver.trained_model import as_placed
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.records.trial_spec import Placed, TrialOrder
from tune_jobs.search.grid import sampled_configs
from tune_jobs.search.proposers import Sampled


class Placer(Protocol):
    """Finds a place for a configuration."""

    @property
    def simulated(self) -> bool:
        """Whether the cards are logical ones."""
        ...

    def check(self, name: str, config: RunConfig) -> None:
        """Raises RequestError where a configuration can never run."""
        ...

    def place(self, name: str, config: RunConfig) -> Placed:
        """Returns the place that it would get if all cards were free.

        Raises:
            RequestError: When there is none; says what was asked, what there is, and what would fit.
        """
        ...

    def offers(self, name: str, config: RunConfig, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Returns every place; see trial_line.OrderMaker."""
        ...

    def line(self, free: FreeGpus | None = None) -> CardLine:
        """Returns the line before what there is; `free` is asked where others use it too."""
        ...


class SweepOrders:
    """Makes the orders of one sweep.

    Args:
        sweep: A plain sweep.
        placer: Finds places.
        output_dir: Folder of experiments and sweep results.
        places: Where trials find what they share.
        started: When the sweep started first; part of every name.
        taken: Names that exist already, without this sweep's own.
        known: Names of this sweep's trials that were ordered by an earlier driver, by number.
    """

    def __init__(
        self,
        sweep: Sweep,
        placer: Placer,
        *,
        output_dir: Path,
        places: Places,
        started: datetime,
        taken: set[str],
        known: Mapping[int, str] | None = None,
    ) -> None:
        self._sweep, self._placer = sweep, placer
        self._output_dir, self._places = output_dir.resolve(), places
        self._started, self._taken = started, set(taken)
        # By number, not by turn: who comes first depends on which card is free first, and names must not.
        self._names = self._listed_names() | dict(known or {})
        self._taken.update(self._names.values())

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        """Returns the order of a trial; see trial_line.OrderMaker."""
        trial = self._sweep.resolve(sampled)
        name = self._names.get(number) or self._new_name(trial.resolved, self._taken)
        placed = self._placer.place(name, as_placed(self._sweep, trial.resolved))
        self._taken.add(name)
        return TrialOrder(
            number=number,
            name=name,
            sweep=self._sweep.name,
            bundle=placed.bundle,
            sampled={key: list(value) if isinstance(value, tuple) else value for key, value in sampled.items()},
            config=_with_whole_paths(trial.resolved, self._places).to_dict(),
            notes=list(trial.notes),
            shape=placed.shape,
            folder=str(ExperimentFolder.of(self._output_dir, name).path),
            sweep_folder=str(SweepFolder.of(self._output_dir, self._sweep.name).path),
            cache_dir=str(self._places.cache_dir.resolve()),
            metric=self._sweep.metric.name,
            retries=self._sweep.resources.retries,
            exploding_loss=self._sweep.anomalies.exploding_loss,
            retry_diverged=self._sweep.anomalies.diverged == "retry",
            usable_bytes=placed.usable_bytes,
            context_bytes=placed.context_bytes,
            estimate=placed.estimate or {},
            simulated=self._placer.simulated,
            member=self._sweep.team.member,
            trained=self._sweep.trained_model,
        )

    def _new_name(self, config: RunConfig, taken: Collection[str]) -> str:
        names = trial_name if self._sweep.trained_model is None else generation_name
        return names(self._sweep.name, config, self._started, taken)

    def _listed_names(self) -> dict[int, str]:
        if self._sweep.method not in ("grid", "random"):
            return {}
        names: dict[int, str] = {}
        taken = set(self._taken)
        for number, sampled in enumerate(sampled_configs(self._sweep), start=1):
            with suppress(RequestError):  # said when its turn comes
                names[number] = self._new_name(self._sweep.resolve(sampled).resolved, taken)
                taken.add(names[number])
        return names

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Returns where a trial can run; see trial_line.OrderMaker."""
        config = as_placed(self._sweep, RunConfig.from_dict(order.config))
        return self._placer.offers(order.name, config, least_bytes)


def _with_whole_paths(config: RunConfig, places: Places) -> RunConfig:
    """A trial's process has a working folder of its own, so files and local models are named in full."""
    names = ("train_file", "dev_file", "test_file", "model")
    paths = {name: str(getattr(config, name)) for name in names if getattr(config, name) is not None}
    return config.with_changes(
        {name: str(places.whole(Path(path))) for name, path in paths.items() if Path(path).exists()}
    )
