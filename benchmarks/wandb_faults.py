"""Measures whether a failing W&B server slows down a sweep; writes wandb_faults.md in its own folder.

`python -m benchmarks.wandb_faults` runs one tiny sweep repeatedly, always two at a time: with W&B offline, and
beside it, started at the same moment on the same machine, with a W&B server that works, hangs, answers 500, or dies in
the middle. So both have the same background load, and their ratio shows the effect of the server. Offline
with offline is the control: its spread is the noise. The order of the kinds changes each round. Measured are the whole
command, the time from the first trial's start to the last one's end, the sum of the trials' own times, and the CPU
seconds of the mirror (with wandb-core), which has the lowest priority and which both commands of a pair pay for. About
15 minutes on two quiet cores.
"""

import ctypes
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.pages import page_parser
from tests.tune_jobs.wandb_server import WandbServer, wandb_server
from tune_jobs.records.ledger import SweepFolder
from tuning_common.cli import note
from tuning_common.errors import WorkError
from tuning_common.files import write_text

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("offline", "works", "hangs", "errors", "dies")
SHOWN = {
    "offline": "offline too (the control)",
    "works": "a server that works",
    "hangs": "one that hangs",
    "errors": "one that answers 500",
    "dies": "one that dies after the first evaluation",
}
SWEEP = """
name: faults
method: grid
parameters:
  learning_rate: {values: [3.0e-3, 1.0e-3]}
  batch_size: {value: 8}
  num_epochs: {value: 3}
  max_train_samples: {value: 96}
  max_eval_samples: {value: 16}
  decoder_max_len: {value: 32}
  encoder_max_len: {value: 128}
early_terminate: {type: none}
base_config: tiny.yaml
resources: {cpus_per_trial: 1}
"""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: adopt orphaned grandchildren, to end them
_LINGERS_S = 2.0  # the mirror of a server in trouble goes on for minutes; the next run must not share the cores with it
_LOOK_S = 0.25
_MIRROR = ("tune_jobs.tracking.mirror_process", "wandb-core", "wandb-xpu", "gpu_stats")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of the sweep.

    Attributes:
        wall_s: Wall time of the whole command.
        span_s: From the first trial's start to the last one's end.
        trials_s: Sum of the trials' own times.
        mirror_cpu_s: CPU time of the mirror and its child processes.
        said: The command's output about W&B.
    """

    wall_s: float
    span_s: float
    trials_s: float
    mirror_cpu_s: float
    said: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs at the same time."""

    offline: Measured
    other: Measured


MEASURES = {"whole command": "wall_s", "first start to last end": "span_s", "trials' own time": "trials_s"}


def main() -> None:
    """Measures everything and writes the tables."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="pairs of each kind; 7 if absent")
    parser.add_argument("--alone", action="store_true", help="one run after the other: on a machine that nobody shares")
    chosen = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pairs: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    started_s, loads = time.monotonic(), [os.getloadavg()[0]]
    total = chosen.rounds * len(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        homes = (Path(folder) / "a", Path(folder) / "b")
        for home in homes:
            prepare(home)
        for number in range(chosen.rounds):
            for kind in in_turn(KINDS, number):
                pairs[kind].append(run_pair(homes, kind, other_first=number % 2 == 1, alone=chosen.alone))
                loads.append(os.getloadavg()[0])
                done = sum(len(found) for found in pairs.values())
                left_s = (time.monotonic() - started_s) / done * (total - done)
                note(f"{done} of {total}, {kind}: {pairs[kind][-1]}; about {left_s / 60:.0f} min to go")
                if all(pairs.values()):
                    write_text(chosen.output, report(pairs, loads, alone=chosen.alone))
    note(f"written to {chosen.output}")


def in_turn(kinds: Sequence[str], number: int) -> list[str]:
    """Returns the order of a round; the first kind changes.

    >>> in_turn(("a", "b", "c"), 0), in_turn(("a", "b", "c"), 1), in_turn(("a", "b", "c"), 2)
    (['a', 'b', 'c'], ['a', 'c', 'b'], ['c', 'a', 'b'])
    """
    shift = number // 2 % len(kinds)
    turned = [*kinds[-shift:], *kinds[:-shift]] if shift else list(kinds)
    return turned if number % 2 == 0 else [turned[0], *reversed(turned[1:])]


def prepare(folder: Path) -> None:
    """Writes the sweep and the data that it reads, and runs it once, to fill caches."""
    folder.mkdir()
    text = (ROOT / "configs/tiny.yaml").read_text(encoding="utf-8")
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    (folder / "faults.yaml").write_text(SWEEP, encoding="utf-8")
    if start(folder, {"WANDB_MODE": "offline"}).wait():
        raise WorkError((folder / "said").read_text(encoding="utf-8"))
    end_leftovers(_LINGERS_S)


def run_pair(homes: tuple[Path, Path], kind: str, *, other_first: bool, alone: bool = False) -> Pair:
    """Runs the sweep offline and with a server of a kind, at the same time or, `alone`, right after each other.

    Raises:
        WorkError: When a command or a trial fails.
    """
    for home in homes:
        for name in ("sweep_results", "experiments"):
            shutil.rmtree(home / "outputs" / name, ignore_errors=True)
    watch = MirrorWatch()
    with serving(kind) as variables:
        plan = [(homes[0], {"WANDB_MODE": "offline"}), (homes[1], variables)]
        ordered = plan[:: -1 if other_first else 1]
        started: dict[Path, tuple[float, subprocess.Popen[bytes]]] = {}
        walls: dict[Path, float] = {}
        for together in [[one] for one in ordered] if alone else [ordered]:
            started |= {home: (time.monotonic(), start(home, told)) for home, told in together}
            while len(walls) < len(started):
                time.sleep(0.02)
                watch.look({command.pid: str(home) for home, (_, command) in started.items()})
                for home, (since_s, command) in started.items():
                    if home not in walls and command.poll() is not None:
                        walls[home] = time.monotonic() - since_s
            end_leftovers(_LINGERS_S, lambda: watch.look({}))
    for home, (_, command) in started.items():
        if command.returncode:
            raise WorkError(f"the sweep failed with {kind}: {(home / 'said').read_text(encoding='utf-8')[-3000:]}")
    offline, other = (measured(home, walls[home], watch.cpu_s(str(home))) for home in homes)
    return Pair(offline=offline, other=other)


def start(folder: Path, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Starts the sweep."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "tune_jobs", "run", "faults.yaml"],
            cwd=folder,
            env={**plain_environment(folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def measured(home: Path, wall_s: float, mirror_cpu_s: float) -> Measured:
    """Reads the results of a run."""
    records = SweepFolder.of(home / "outputs", "faults").load().trials
    if any(record.status != "finished" for record in records):
        raise WorkError(f"a trial failed; see {home}")
    starts = [record.started_at for record in records if record.started_at is not None]
    ends = [record.ended_at for record in records if record.ended_at is not None]
    text = (home / "said").read_text(encoding="utf-8")
    return Measured(
        wall_s=wall_s,
        span_s=max(ends) - min(starts),
        trials_s=sum(record.wall_s for record in records),
        mirror_cpu_s=mirror_cpu_s,
        said=next((line for line in text.splitlines() if line.startswith("W&B:")), "nothing"),
    )


class MirrorWatch:
    """Adds up the CPU time of mirrors, by their working folders; polls /proc."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], float] = {}
        self._homes: dict[int, str] = {}
        self._looked_s = 0.0

    def look(self, commands: Mapping[int, str]) -> None:
        """Updates the CPU times; `commands` are the processes to follow, with their folders."""
        self._homes |= commands
        if time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                line = (path / "cmdline").read_bytes().decode(errors="replace")
                if not any(name in line for name in _MIRROR):
                    continue
                home = str((path / "cwd").resolve())
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
                ticks = int(fields[11]) + int(fields[12])  # utime and stime, proc_pid_stat(5)
                self._seen[(int(path.name), home)] = ticks / os.sysconf("SC_CLK_TCK")

    def cpu_s(self, home: str) -> float:
        """Returns the CPU seconds of a folder's mirror."""
        return sum(used for (_, where), used in self._seen.items() if where == str(Path(home).resolve()))


@contextmanager
def serving(kind: str) -> Iterator[Mapping[str, str]]:
    """Runs a W&B server of this kind; yields the environment variables for a sweep."""
    if kind == "offline":
        yield {"WANDB_MODE": "offline"}
        return
    with ExitStack() as stack:
        server = stack.enter_context(wandb_server())
        if kind in ("hangs", "errors"):
            server.mode = "hangs" if kind == "hangs" else "errors"
        over = threading.Event()
        if kind == "dies":
            killer = threading.Thread(target=die_after_first_row, args=(server, stack.pop_all(), over), daemon=True)
            killer.start()
        try:
            yield {"WANDB_MODE": "online", **server.environment()}
        finally:
            over.set()
            if kind == "dies":
                killer.join()


def die_after_first_row(server: WandbServer, stack: ExitStack, over: threading.Event) -> None:
    """Closes the port when a run has sent a row with an evaluation."""
    while not over.wait(0.05):
        if any("eval/loss" in row for run in list(server.runs.values()) for row in run.rows()):
            break
    stack.close()


def plain_environment(folder: Path) -> dict[str, str]:
    """Returns this environment without W&B accounts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    return {**kept, **threads, "WANDB_ERROR_REPORTING": "false"}


def end_leftovers(patience_s: float, look: Callable[[], None] = lambda: None) -> None:
    """Waits for remaining child processes (the mirror), then ends them."""
    until_s = time.monotonic() + patience_s
    while own_children():
        look()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if time.monotonic() > until_s:
            for child in own_children():
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.05)


def own_children() -> list[int]:
    """Returns the child processes of this process."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [int(one) for one in path.read_text().split()]


def ratios(pairs: Sequence[Pair], measure: str) -> list[float]:
    """Returns the ratios of a kind to its parallel offline run, pair by pair."""
    return [getattr(pair.other, measure) / getattr(pair.offline, measure) for pair in pairs]


def cell(values: Sequence[float]) -> str:
    """Median and range of ratios.

    >>> cell([1.02, 0.98, 1.04])
    '1.02 (0.98-1.04)'
    """
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(pairs: Mapping[str, Sequence[Pair]], loads: Sequence[float], *, alone: bool) -> str:
    """Returns the page."""
    counts = [len(found) for found in pairs.values()]
    several = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    python, today = platform.python_version(), f"{datetime.now(UTC):%d %B %Y}"
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {python}, {today}"
    lines = [
        "# Sweeps with a W&B server in trouble",
        "",
        "```bash",
        f"python -m benchmarks.wandb_faults --rounds {max(counts)}{' --alone' if alone else ''}",
        "```",
        "",
        f"Two trials of a tiny model ({where}); {several} pairs of each kind, in turn. Each is run",
        f"{'right before or after' if alone else 'at the same moment as'} the same sweep with W&B offline, and held",
        "against it: median of the pairs' ratios",
        "(lowest-highest). The control says how",
        f"much is noise; the load average of the machine meanwhile was {min(loads):.0f} to {max(loads):.0f}.",
        "",
        f"| beside offline | {' | '.join(MEASURES)} | mirror, CPU s |",
        "|---|" + "---|" * (len(MEASURES) + 1),
    ]
    for kind in KINDS:
        cells = [cell(ratios(pairs[kind], measure)) for measure in MEASURES.values()]
        used = statistics.median(pair.other.mirror_cpu_s for pair in pairs[kind])
        lines.append(f"| {SHOWN[kind]} | {' | '.join(cells)} | {used:.1f} |")
    offline = [pair.offline for found in pairs.values() for pair in found]
    names = (*MEASURES.values(), "mirror_cpu_s")
    medians = [f"{statistics.median(getattr(one, name) for one in offline):.1f}" for name in names]
    lines.append(f"| *offline itself, median in seconds* | {' | '.join(medians)} |")
    apart = max(abs(ratio - 1) for name in MEASURES.values() for ratio in ratios(pairs["offline"], name))
    medians_of = {kind: statistics.median(ratios(pairs[kind], "wall_s")) for kind in KINDS[1:]}
    above = ", ".join(f"{SHOWN[kind]} ({ratio:.2f})" for kind, ratio in medians_of.items() if ratio > 1.05)
    lines += [
        "",
        f"The goal is a ratio of at most 1.05 for the whole command. Above it: {above or 'none'}. The control itself",
        f"is up to {apart:.0%} away from 1, with {several} pairs of each kind: less than that is *not known*.",
    ]
    lines += ["", "The mirror's CPU seconds are counted until it ended, or was ended two seconds after both commands."]
    lines += ["", "What the command said of W&B, the last time:", ""]
    lines += [f"* {kind}: `{pairs[kind][-1].other.said}`" for kind in KINDS]
    lines += ["", "Every pair, whole command in seconds, offline / other:", "", f"| round | {' | '.join(KINDS)} |"]
    lines += ["|---|" + "---|" * len(KINDS)]
    for number in range(max(counts)):
        both = (pairs[kind][number : number + 1] for kind in KINDS)
        cells = ["".join(f"{pair.offline.wall_s:.1f} / {pair.other.wall_s:.1f}" for pair in found) for found in both]
        lines.append(f"| {number + 1} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
