"""What a training takes of CPU and memory while it runs, seen from inside, on Linux; for benchmarks/training_run.py."""

import itertools
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Times from the begin of training to the end of its last step."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, float, float]] = []  # the begin, then each step's end
        self.optimizer_cpu_s = 0.0
        self.worker_bytes = 0

    @staticmethod
    def now() -> tuple[float, float, float]:
        """Returns seconds of wall, of the CPU as user, and of the CPU."""
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = own.ru_utime + ended.ru_utime, own.ru_stime + ended.ru_stime
        for child in _children():  # proc(5): the 14th and 15th field
            parts = (child / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
            user, system = user + int(parts[11]) / CLOCK_TICKS, system + int(parts[12]) / CLOCK_TICKS
        return time.perf_counter(), user, user + system

    def step_done(self) -> None:
        """Notes a step's end; the data loader's processes, where there are any, are still alive."""
        self.moments.append(self.now())
        private = [_kilobytes(child / "smaps_rollup", "Private_") for child in _children()]
        self.worker_bytes = max(self.worker_bytes, sum(private) * 1024)

    def values(self) -> dict[str, object]:
        """Returns its part of Measured."""
        wall, user, cpu = (end - begin for begin, end in zip(self.moments[0], self.moments[-1], strict=True))
        return {
            "train_wall_s": wall, "train_user_s": user, "train_cpu_s": cpu, "optimizer_cpu_s": self.optimizer_cpu_s,
            "step_cpu_s": [end[2] - begin[2] for begin, end in itertools.pairwise(self.moments)],
        }  # fmt: skip


def _children() -> Iterator[Path]:
    for tasks in Path("/proc/self/task").glob("*/children"):
        yield from (Path("/proc", child) for child in tasks.read_text(encoding="ascii").split())


def watch_training(trainer: "Trainer") -> Watch:
    """Lets a trainer's callbacks feed a watch."""
    from transformers import TrainerCallback

    watch = Watch()

    class Callback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
        """Feeds the watch."""

        def on_train_begin(self, *arguments: object, **kwargs: object) -> None:
            """Starts it."""
            watch.moments.append(watch.now())

        def on_pre_optimizer_step(self, *arguments: object, **kwargs: object) -> None:
            """Starts a step of the optimizer."""
            self.begin_s = time.process_time()

        def on_optimizer_step(self, *arguments: object, **kwargs: object) -> None:
            """Adds it."""
            if len(watch.moments) > 1:
                watch.optimizer_cpu_s += time.process_time() - self.begin_s

        def on_step_end(self, *arguments: object, **kwargs: object) -> None:
            """Counts a step."""
            watch.step_done()

    trainer.add_callback(Callback)
    return watch


def reset_peak() -> int:
    """Resets the kernel's peak of resident memory; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_bytes() -> int:
    """Returns the peak of resident memory since then."""
    return _status("VmHWM")


def _status(name: str) -> int:
    """Returns bytes; resident memory is measured on Linux only."""
    return _kilobytes(Path("/proc/self/status"), f"{name}:") * 1024


def _kilobytes(path: Path, start: str) -> int:
    """Adds up the lines of a file of /proc that begin so."""
    lines = path.read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(start))
