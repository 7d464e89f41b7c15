"""Builds parts of templates by tracing, in a separate process: the caller does not import torch.

`python -m cluster.estimator.template_build` reads one job as JSON from standard input.
Must not import torch at the top.
"""

import gc
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cluster.estimator.cuda_imitation import KERNEL_FAMILIES, KernelFamily
from cluster.estimator.template_file import Part, write_part
from cluster.estimator.template_fit import (
    GENERATED_BEHIND,
    GENERATED_BESIDE,
    GENERATION_SHAPES,
    ONE_SEQUENCE,
    PASSES,
    SHAPES,
    SHORT_SHAPES,
    TWO_SEQUENCES,
    Growth,
    UnevenModelError,
    condense,
    constant_tape,
    fit,
    shapes_beyond,
)
from cluster.estimator.template_keys import PartKey
from cluster.estimator.template_tape import Tape
from cluster.estimator.trace import Trace, trace
from cluster.estimator.workload import Recipe, Shape, Workload
from tuning_common import cli
from tuning_common.errors import RequestError, WorkError
from tuning_common.files import write_text

TIME_LIMIT_S = 600.0  # for all parts; a trace takes seconds even of large models
ROOT = Path(__file__).resolve().parents[2]


def build_part(workload: Workload, key: PartKey, *, family: KernelFamily) -> Part:
    """Traces and fits the tapes of a part.

    Args:
        workload: Must match the key; not checked here.
        key: The part.
        family: Which attention kernels the GPU prefers.

    Raises:
        UnevenModelError: When the model's sizes are not products of batch and lengths, and the key has no sizes.
        RequestError: When the model's own code cannot run on meta tensors.
    """
    options = dict(key.options)
    try:
        if "sizes" in options:
            traces, tapes = _exact(workload, key, family, tuple(int(size) for size in options["sizes"].split("x")))
        else:
            traces, tapes = _general(workload, key, family, options.get("window", ""))
    except (RequestError, WorkError):
        raise
    except Exception as error:  # any model's code: it may depend on values or have a bug
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            "this model cannot be traced without a GPU, so it is not estimated",
            [f"transformers' own code ended with {type(error).__name__}: {reason[:200]}"],
        ) from error
    last = traces[-1]
    return Part(
        key=key,
        tapes=tapes,
        model_parameters=last.model_parameters,
        operations=last.operations,
        weight_bytes=last.weight_bytes,
    )


Traced = tuple[list[Trace], dict[str, Tape]]


def _general(workload: Workload, key: PartKey, family: KernelFamily, window: str) -> Traced:
    """Traces a part at two shapes, on the given sides of the model's window."""
    together = ONE_SEQUENCE if workload.causal else TWO_SEQUENCES
    behind = GENERATED_BEHIND if workload.causal else GENERATED_BESIDE
    sequence, _, prompt = window.partition("-")
    if key.part == "optimizer":
        traces = [trace(workload, SHAPES[0], family=family, parts=("optimizer",))]
        return traces, {name: constant_tape(raw) for name, raw in traces[0].tapes.items()}
    shapes = _beside(sequence, SHAPES, SHORT_SHAPES)
    if key.part == "step":
        traces = [trace(workload, shape, family=family, parts=("train",)) for shape in shapes]
        return traces, {name: _fitted(traces, name, together) for name in ("first", "later")}
    traces = [trace(workload, shape, family=family, parts=("evaluate",)) for shape in shapes]
    tapes = {"evaluate": _fitted(traces, "evaluate", together)}
    shapes = _beside(prompt, GENERATION_SHAPES, GENERATION_SHAPES)
    traces = [trace(workload, shape, family=family, parts=("greedy", "beam")) for shape in shapes]
    tapes["greedy"] = _fitted(traces, "greedy", behind)
    tapes["beam"] = _fitted(traces, "beam", replace(behind, beams=True))
    return traces, tapes


def _beside(side: str, usual: tuple[Shape, ...], short: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Returns the shapes for one side of a window, for example "beyond512"; the usual ones without a window."""
    if side.startswith("beyond"):
        return shapes_beyond(usual, int(side.removeprefix("beyond")))
    return short if side else usual


def _exact(workload: Workload, key: PartKey, family: KernelFamily, sizes: tuple[int, ...]) -> Traced:
    """Traces a part at exact sizes; only the number of new tokens of a generation stays variable."""
    batch, encoder_len, decoder_len = sizes[:3]
    shape = Shape(batch=batch, encoder_len=encoder_len, decoder_len=decoder_len)
    if key.part == "step":
        traces = [trace(workload, shape, family=family, parts=("train",))]
        return traces, {name: constant_tape(raw) for name, raw in traces[0].tapes.items()}
    rows, prompt_len, beams = sizes[3:]
    tapes = {"evaluate": constant_tape(trace(workload, shape, family=family, parts=("evaluate",)).tapes["evaluate"])}
    behind = GENERATED_BEHIND if workload.causal else GENERATED_BESIDE
    shapes = [Shape(batch=rows, encoder_len=prompt_len, decoder_len=passes, beams=max(2, beams)) for passes in PASSES]
    traces = [trace(workload, shape, family=family, parts=("greedy", "beam")) for shape in shapes]
    return traces, tapes | {name: _fitted(traces, name, behind) for name in ("greedy", "beam")}


def build_in_subprocess(recipe: Recipe, keys: Sequence[PartKey], *, family: KernelFamily, folder: Path) -> None:
    """Builds parts and writes them into a folder, in seconds. Uses two processes where there is enough work.

    Args:
        recipe: Recipe of the workload for the other processes.
        keys: The parts.
        family: Which attention kernels the GPU prefers.
        folder: Target folder of the files.

    Raises:
        RequestError: When the workload refuses its settings.
        WorkError: When the trace fails; with the last lines of its output.
    """

    def build(group: Sequence[PartKey]) -> None:
        _build_group(recipe, group, family=family, folder=folder)

    # An evaluation takes about as long as everything else.
    halves = [[key for key in keys if (key.part == "evaluation") == alone] for alone in (True, False)]
    with ThreadPoolExecutor(max_workers=len(halves)) as pool:
        list(pool.map(build, filter(None, halves)))


def _build_group(recipe: Recipe, keys: Sequence[PartKey], *, family: KernelFamily, folder: Path) -> None:
    job = {
        "factory": recipe.factory,
        "settings": dict(recipe.settings),
        "keys": [key.to_dict() for key in keys],
        "family": family,
        "folder": str(folder.absolute()),
    }
    # A trace needs one core, no GPU and no hub.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.estimator.template_build"],
            input=json.dumps(job), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WorkError(f"tracing the model took longer than {TIME_LIMIT_S:.0f} s and was ended") from None
    if done.returncode == 0:
        return
    output = done.stderr.strip()
    if done.returncode == RequestError.exit_code:
        raise RequestError(output.removeprefix("error: "))
    raise WorkError("the model could not be traced:\n" + "\n".join(output.splitlines()[-6:]))


def _fitted(traces: Sequence[Trace], name: str, growth: Growth) -> Tape:
    raws = [traced.tapes[name] for traced in traces]
    if name in ("greedy", "beam"):
        raws = [condense(raw) for raw in raws]
    return fit(raws, [traced.shape for traced in traces], growth).tape


def main(arguments: Sequence[str]) -> int:
    """Runs the job from standard input."""
    job = json.loads(sys.stdin.read())
    warnings.filterwarnings("ignore")  # of models that are never trained here
    logging.disable(logging.WARNING)
    workload = Recipe(factory=job["factory"], settings=job["settings"]).make()
    family = next(name for name in KERNEL_FAMILIES if name == job["family"])
    gc.freeze()  # excludes the libraries from the collection before each trace
    for stored in job["keys"]:
        key = PartKey.from_dict(stored)
        folder = Path(job["folder"])
        try:
            write_part(folder, build_part(workload, key, family=family))
        except UnevenModelError as error:
            if "sizes" in dict(key.options):
                raise RequestError(f"{key.part}: {error}, even at given sizes; it is not estimated") from None
            write_text(folder / key.uneven_name, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
