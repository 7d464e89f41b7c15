"""A driver process for tests of quotas: python team_driver.py ADDRESS FOLDER MEMBER TRIALS GPUS STEPS TEAM_FILE.

Everything is the product's but the training, which counts steps.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import ray

from tests.tune_jobs.ordered import METRIC, order_of
from tune_jobs.driver.card_line import Offer
from tune_jobs.driver.conductor import SweepConductor
from tune_jobs.driver.tuner import FitSettings, fit, last_checkpoint, report
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import EVALUATION_KEY, ORDER_KEY, Bundle, TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.search.stopping import NeverStop
from tune_jobs.team.quotas import load_team
from tune_jobs.team.team_actor import team_admission

STEP_S = 0.4


def trial(config: dict[str, object]) -> None:
    """Counts steps; each is reported with a checkpoint that says how far it came."""
    order = TrialOrder.from_dict(config[ORDER_KEY])  # type: ignore[arg-type]
    start = last_checkpoint() or (Path(order.resume_from) if order.resume_from else None)
    done = json.loads((start / "state.json").read_text())["step"] if start else 0
    for step in range(done + 1, int(str(order.sampled["num_epochs"])) + 1):
        time.sleep(STEP_S)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            report({METRIC: float(step), EVALUATION_KEY: step}, Path(folder))


class Orders:
    """Makes orders of a given size."""

    def __init__(self, folder: Path, member: str, gpus: float) -> None:
        self.folder, self.member, self.gpus = folder, member, gpus

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        return order_of(
            self.folder,
            f"{self.member}_{number}",
            number=number,
            sweep=self.member,
            bundle=Bundle(cpus=0.5, gpus=self.gpus, labels={"gpu-model": "simulated-24GiB"}),
            sampled=dict(sampled),
            member=self.member,
        )

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Ray alone counts."""
        return ()


def main(address: str, folder: Path, member: str, trials: int, gpus: float, steps: int, team_file: Path) -> None:
    """Runs one sweep to its end."""
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    admission = team_admission(
        sweep=f"{member}s", member=member, models=("kobart",), team=load_team(team_file), source=team_file
    )
    conductor = SweepConductor(
        proposer=ListSampler([{"num_epochs": steps}] * trials),
        orders=Orders(folder, member, gpus),
        rule=NeverStop(),
        progress=SweepProgress(
            sweep=member,
            metric=METRIC,
            goal="maximize",
            total=trials,
            longest=steps,
            slots=trials,
            started_s=time.monotonic(),
        ),
        view=LogView(sys.stdout),
        folder=SweepFolder(folder),
        journal=Journal(folder / "journal.jsonl"),
        admission=admission,
    )
    admission.open()
    fit(trial, conductor, FitSettings(folder=folder / "tune", name="run", attempts=3))
    admission.close()
    assert conductor.is_over


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
        float(sys.argv[5]),
        int(sys.argv[6]),
        Path(sys.argv[7]),
    )
