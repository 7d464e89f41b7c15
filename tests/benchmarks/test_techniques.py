"""The runs of the table of techniques, and its page while they are missing."""

import math
import multiprocessing

import pytest

from benchmarks.techniques import SEEDS, TECHNIQUES, compiled, groups, page
from benchmarks.training import FAMILIES
from benchmarks.training_watch import Watch
from cluster.estimator.roofline import Roofline

CORE = Roofline(half_flops_s=1e11, single_flops_s=1e11, bytes_s=1e10, launch_s=1e-5, host_s=0.0, source="a test")


def test_each_technique_is_run_once_for_each_model_and_seed() -> None:
    runs = [run for group in groups() for run in group]
    assert len({run.key for run in runs}) == len(runs)
    timed = [run for run in runs if run.purpose == "time"]
    assert len(timed) == len(TECHNIQUES) * len(FAMILIES) * len(SEEDS)


def test_a_compiled_step_that_saves_nothing_never_pays_back() -> None:
    assert compiled([1, 1, 1, 1], [9, 1, 1, 1]).break_even is None
    assert compiled([1, 1, 1, 1], [9.5, 1, 0.5, 0.5]).break_even == pytest.approx(19)
    assert compiled([1, 1, 1, 1, 1, 1], [9.5, 0.5, 0.5, 0.5, 0.5, 3]).ratio == 2


def test_a_page_without_results_says_so() -> None:
    runs = sum(map(len, groups()))
    text = page({}, CORE)
    assert f"**{runs} of {runs} runs are missing.**" in text
    assert "| without chunked loss | missing | missing | missing |" in text


def test_the_watch_counts_the_cpu_of_processes_that_live_and_that_ended() -> None:
    started, ending = multiprocessing.Event(), multiprocessing.Event()
    begin_s = Watch.now()[2]
    process = multiprocessing.Process(target=_work, args=(started, ending))
    process.start()
    started.wait()
    alive_s = Watch.now()[2] - begin_s
    ending.set()
    process.join()
    assert alive_s >= 0.2
    assert Watch.now()[2] - begin_s >= alive_s - 0.02  # the clock of /proc ticks in hundredths


def _work(started: "multiprocessing.synchronize.Event", ending: "multiprocessing.synchronize.Event") -> None:
    import time

    while time.process_time() < 0.25:
        math.factorial(1000)
    started.set()
    ending.wait()
