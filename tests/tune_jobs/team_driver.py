"""A driver process for tests of quotas: python team_driver.py ADDRESS FOLDER MEMBER TRIALS GIB STEPS TEAM_FILE.

Everything is the product's but the training, which counts steps, and the estimate, which is given.
"""

import sys
import time
from functools import partial
from pathlib import Path

import ray

from cluster.machines.node_watch import ray_cluster
from cluster.scheduling.broker_process import cluster_broker
from cluster.scheduling.quotas import load_team
from tests.tune_jobs.counting import counting_trial
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.records.trial_spec import Bundle, TrialSpec
from tune_jobs.search.samplers import Sampled

STEP_S = 0.4


def take_a_step(spec: TrialSpec, step: int) -> float:
    """Takes a while; returns the value at a step."""
    time.sleep(STEP_S)
    return float(step)


def main(address: str, folder: Path, member: str, trials: int, gib: float, steps: int, team_file: Path) -> None:
    """Runs one sweep to its end."""
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    inventory = ray_cluster().inventory

    def make_spec(sampled: Sampled) -> TrialSpec:
        name = str(sampled["name"])
        return spec_of(folder / "results", name, sweep=f"{member}s", bundle=Bundle(cpus=0.5), member=member)

    broker = cluster_broker(
        sweep=f"{member}s", member=member, models=("kobart",), team=load_team(team_file), team_source=str(team_file)
    )
    sweep = RaySweep(
        folder=folder,
        specs=Made(make_spec=make_spec, inventory=inventory, upper_bytes=lambda sampled: int(gib * 2**30)),
        trials=[{"name": f"{member}_{number}"} for number in range(1, trials + 1)],
        trainable=partial(counting_trial, steps=steps, score=take_a_step),
        inventory=inventory,
        longest=steps,
        sweep=f"{member}s",
        broker=broker,
        show=partial(print, flush=True),
    )
    sweep.run()


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
