"""Disturbs sweeps at random moments, resumes them, and compares each outcome with that of an undisturbed sweep.

`python -m benchmarks.chaos --minutes 60` runs sweeps of light trials one after another and writes chaos.md in its own
folder; `--only driver --faults 10` gives a sweep ten faults of one kind. The faults, their order and the pauses between
them follow from the seed. Afterwards every trial has the same status and the same scores bit for bit, no evaluation was
reported with two values, and nothing outside of the results of the disturbed sweeps has changed.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from benchmarks.kills import outcome_of
from benchmarks.light_sweep import SWEEP
from benchmarks.pages import table
from benchmarks.sweeps import ROOT, driver_environment
from tuning_common.files import read_jsonl

Fault = Literal["driver", "stop", "trial", "raylet", "results full", "temporary folder full"]
DISKS: dict[Fault, str] = {"results full": "work/outputs", "temporary folder full": "tmp"}
PROGRAMS: dict[Fault, str] = {"raylet": "raylet", "trial": "ray::ImplicitFu"}  # of Tune, cut by the kernel
EPOCHS = 24
PAUSE_S = (2.0, 9.0)  # between a driver's start and a fault, and between two faults
FULL_S = (2.0, 12.0)
LIMIT_S = 600.0  # of one driver
DISK = "size=96m"
FAULTS_OF_A_SWEEP = 4
MOST_DRIVERS = 60


@dataclass(kw_only=True)
class Chaos:
    """Sweeps in a folder of their own.

    Attributes:
        folder: Has the drivers' home, temporary folder and working folder.
        rng: Chooses the moments.
        injected: How often each fault was injected.
        sweeps: Names of the disturbed sweeps.
        problems: What differs from the undisturbed sweep.
    """

    folder: Path
    rng: random.Random
    injected: Counter[Fault] = field(default_factory=Counter)
    sweeps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """The working folder of the drivers."""
        return self.folder / "work"

    def prepare(self) -> None:
        """Runs the undisturbed sweep."""
        for name in ("home", "tmp", "work/outputs", "work/neighbour"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o700)
        (self.work / "neighbour/model.bin").write_bytes(b"untouched")
        self._run("undisturbed", [])

    def disturb(self, name: str, faults: list[Fault]) -> None:
        """Runs a sweep, injects faults until it has ended, and compares it; takes the injected ones from the list."""
        before = self._files()
        self._run(name, faults)
        self.sweeps.append(name)
        expected, found = outcome_of(self.work, "undisturbed"), outcome_of(self.work, name)
        for what in ("statuses", "scores", "winner"):
            if getattr(expected, what) != getattr(found, what):
                self.problems.append(f"{name}: other {what}: {getattr(found, what)}")
        values: dict[tuple[object, object], object] = {}
        for event in read_jsonl(self._journal(name))[0]:
            key = (event["number"], event.get("evaluation"))
            if event["event"] == "reported" and values.setdefault(key, event["value"]) != event["value"]:
                self.problems.append(f"{name}: evaluation {key} has two values")
        after = self._files()
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        self.problems += [f"{name}: {path} was changed" for path in changed if name not in path]

    def _run(self, name: str, faults: list[Fault]) -> None:
        (self.work / f"{name}.yaml").write_text(
            SWEEP.replace("NAME", name).replace("num_epochs: {value: 8}", f"num_epochs: {{value: {EPOCHS}}}"),
            encoding="utf-8",
        )
        for _ in range(MOST_DRIVERS):
            if self._drive(name, faults) == 0:
                return
        raise AssertionError((self.folder / f"{name}.log").read_text(encoding="utf-8")[-3000:])

    def _drive(self, name: str, faults: list[Fault]) -> int:
        """Runs one driver, with faults as long as it lives; returns its exit code."""
        process = self._start(name)
        try:
            while faults:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(self.rng.uniform(*PAUSE_S))
                if self._inject(faults[0], process, name):
                    print(f"{name}: {faults[0]}", flush=True)
                    self.injected[faults.pop(0)] += 1
            return process.wait(LIMIT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.light_sweep", f"{name}.yaml", "--cpu-only"]
        command += ["--resume"] if self._journal(name).exists() else []
        temporary = str(self.folder / "tmp")
        folders = {"HOME": str(self.folder / "home"), "TMPDIR": temporary, "RAY_TMPDIR": temporary}
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = driver_environment() | folders
            return subprocess.Popen(
                command, cwd=self.work, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _inject(self, fault: Fault, process: "subprocess.Popen[bytes]", name: str) -> bool:
        """Injects a fault; returns False where there is nothing to disturb yet."""
        if fault in DISKS:
            with _full(self.folder / DISKS[fault]):
                time.sleep(self.rng.uniform(*FULL_S))
            return True
        if fault == "driver":
            process.kill()
        elif fault == "stop":
            process.send_signal(signal.SIGTERM)
        else:
            victims = [number for number, program in processes_of(process.pid) if program == PROGRAMS[fault]]
            if not victims:
                return False
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(victims), signal.SIGKILL)
        return True

    def _journal(self, name: str) -> Path:
        return self.work / "outputs/sweep_results" / name / "journal.jsonl"

    def _files(self) -> Mapping[str, tuple[int, int, int]]:
        """Returns size, time and mode of each file, but for temporary and log files."""
        found: dict[str, tuple[int, int, int]] = {}
        for path in [*(self.folder / "home").rglob("*"), *self.work.rglob("*")]:
            state = path.lstat()
            if not path.is_dir():
                found[str(path.relative_to(self.folder))] = (state.st_size, state.st_mtime_ns, state.st_mode)
        return found


def processes_of(session: int) -> list[tuple[int, str]]:
    """Returns number and program of the living processes of a session; see proc(5)."""
    found: list[tuple[int, str]] = []
    for path in sorted(Path("/proc").glob("[0-9]*/stat")):
        with suppress(OSError):
            head, _, tail = path.read_text(encoding="ascii", errors="replace").rpartition(") ")
            state, _, _, of_session = tail.split()[:4]
            if int(of_session) == session and state != "Z":
                found.append((int(path.parent.name), head.partition(" (")[2]))
    return found


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fills the disk of a folder; a writer on it takes what others set free meanwhile."""
    ballast = folder / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True, check=False)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def chaos_folder() -> Iterator[tuple[Path, bool]]:
    """Makes a folder with a small disk each for results and temporary files; yields whether these could be mounted."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as name:  # short: sockets are below it
        disks = [Path(name) / disk for disk in DISKS.values()]
        mounted = []
        for disk in disks:
            disk.mkdir(parents=True)
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", disk], capture_output=True, check=False)
            mounted += [disk] if done.returncode == 0 else []
        try:
            yield Path(name), len(mounted) == len(disks)
        finally:
            for disk in mounted:
                subprocess.run(["umount", "-l", disk], capture_output=True, check=False)


def run_chaos(faults: Iterator[Fault], folder: Path, seed: int, minutes: float = float("inf")) -> Chaos:
    """Runs sweeps until all faults are spent or the time is over.

    Args:
        faults: What to inject, in order.
        folder: See chaos_folder.
        seed: Of the moments.
        minutes: No sweep begins later.
    """
    chaos = Chaos(folder=folder, rng=random.Random(seed))
    chaos.prepare()
    ends_s = time.monotonic() + 60 * minutes
    left: list[Fault] = []
    for number in itertools.count(1):
        left += itertools.islice(faults, FAULTS_OF_A_SWEEP - len(left))
        if not left or time.monotonic() > ends_s:
            return chaos
        chaos.disturb(f"disturbed{number}", left)
    raise AssertionError("not reached")


def page(chaos: Chaos, command: str) -> str:
    """Returns the page of a run."""
    lines = [
        "# Sweeps that are disturbed at random moments",
        "",
        f"Written by `{command}`: {chaos.injected.total()} faults in {len(chaos.sweeps)} sweeps of four light trials.",
        "",
        table(["fault", "times"], sorted(chaos.injected.items())),
        "",
        "Against the undisturbed sweep, " + ("there is no difference." if not chaos.problems else "these differ:"),
        *(f"* {problem}" for problem in chaos.problems),
        "",
    ]
    return "\n".join(lines)


def shuffled(kinds: Sequence[Fault], seed: int) -> Iterator[Fault]:
    """Yields each kind equally often, in a random order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(kinds, len(kinds))


def main() -> int:
    """Runs it and writes the page."""
    kinds: tuple[Fault, ...] = get_args(Fault)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--faults", type=int, help="at most so many")
    parser.add_argument("--only", choices=kinds, help="one kind of fault")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with chaos_folder() as (folder, has_disks):
        if not has_disks:
            print("no disks can be mounted here: none is filled")
        kinds = tuple(kind for kind in kinds if (has_disks or kind not in DISKS) and chosen.only in (None, kind))
        faults = itertools.islice(shuffled(kinds, chosen.seed), chosen.faults)
        chaos = run_chaos(faults, folder, chosen.seed, chosen.minutes)
    text = page(chaos, " ".join(["python -m benchmarks.chaos", *sys.argv[1:]]))
    name = "chaos.md" if chosen.only is None else f"chaos_{chosen.only.replace(' ', '_')}.md"
    (ROOT / "benchmarks" / name).write_text(text, encoding="utf-8")
    print(text)
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
