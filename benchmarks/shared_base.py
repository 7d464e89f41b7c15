"""Several LoRA trials that share one frozen base in one process: equality, memory and speed beside own processes.

`python -m benchmarks.shared_base` writes shared_base.md in a few minutes of two cores, no GPU. An experiment: the
product starts one process for each trial.
"""

import argparse
import copy
import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.external_replay import played
from cluster.estimator.gpu_profile import MIB, find_gpu
from cluster.estimator.trace import trace_program
from cluster.estimator.workload import Region
from tuning_common import cli
from tuning_common.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_suffix(".md")
GPU = "L4"
SMALL = {  # of the base on this CPU; the traced one has the shape of qwen3-0.6b
    "vocab_size": 2000, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
}  # fmt: skip
BATCH, LENGTH = 8, 64
TRACED_BATCH, TRACED_LENGTH = 4, 640
MEASURED_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What one trial decides for itself.

    Attributes:
        name: Name of its adapter.
        rank: Rank of its adapter.
        learning_rate: Its peak; the schedule falls linearly to 0 after `steps`.
        steps: Its optimizer steps.
        seed: Of its adapter, its data and its dropout.
    """

    name: str
    rank: int
    learning_rate: float
    steps: int
    seed: int


TRIALS = (
    Trial(name="one", rank=8, learning_rate=1e-3, steps=12, seed=1),
    Trial(name="two", rank=4, learning_rate=3e-3, steps=12, seed=2),
    Trial(name="three", rank=16, learning_rate=1e-2, steps=12, seed=3),
)
ENDED = ("two", 5)  # this trial ends after so many steps; the others go on


def make_base(shape: Mapping[str, object], dtype: torch.dtype) -> nn.Module:
    """Builds the base, the same in each process."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    made: nn.Module = AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=dtype)
    return made


def add_adapter(base: nn.Module, trial: Trial) -> nn.Module:
    """Adds a trial's adapter to a base, or to a base that has adapters of others."""
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(trial.seed)
    config = LoraConfig(r=trial.rank, lora_alpha=2 * trial.rank, lora_dropout=0.1, target_modules="all-linear")
    if not isinstance(base, PeftModel):
        base = get_peft_model(base, config, adapter_name=trial.name)
    else:
        base.add_adapter(trial.name, config)
    return base


class Running:
    """A trial's own optimizer, schedule, data and random numbers, on a model that others may use too."""

    def __init__(self, model: nn.Module, trial: Trial, batches: Iterator[Tensor]) -> None:
        self.trial = trial
        self._model, self._batches = model, batches
        self.weights = {name: one for name, one in model.named_parameters() if f".{trial.name}." in name}
        for one in self.weights.values():
            one.data = one.data.float()
        self._optimizer = torch.optim.AdamW(self.weights.values(), lr=trial.learning_rate, foreach=True)
        self._schedule = torch.optim.lr_scheduler.LinearLR(
            self._optimizer, start_factor=1.0, end_factor=0.0, total_iters=trial.steps
        )
        self._random = torch.get_rng_state()

    def step(self, autocast: Region = nullcontext) -> None:
        """Runs one optimizer step; nothing but weights and states is left behind."""
        torch.set_rng_state(self._random)
        self._model.set_adapter(self.trial.name)  # type: ignore[operator]
        tokens = next(self._batches)
        with autocast():
            loss = self._model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self._random = torch.get_rng_state()


def batches_of(trial: Trial) -> Iterator[Tensor]:
    """Draws a trial's batches in its own order."""
    generator = torch.Generator().manual_seed(trial.seed)
    vocabulary = int(str(SMALL["vocab_size"]))
    while True:
        yield torch.randint(vocabulary, (BATCH, LENGTH), generator=generator)


def start(trials: Sequence[Trial]) -> list[Running]:
    """Puts trials on one base."""
    model = make_base(SMALL, torch.float32)
    running = []
    for trial in trials:
        model = add_adapter(model, trial)
        running.append(Running(model.train(), trial, batches_of(trial)))
    return running


def largest_difference() -> float:
    """Trains the trials alone and together, where one ends early, and compares the weights of all that end."""
    alone = {}
    for trial in TRIALS:
        (running,) = start([trial])
        for _ in range(trial.steps if trial.name != ENDED[0] else ENDED[1]):
            running.step()
        alone[trial.name] = {name: one.detach().clone() for name, one in running.weights.items()}
    together = start(TRIALS)
    found = {}
    for step in range(max(trial.steps for trial in TRIALS)):
        for running in list(together):
            if (running.trial.name, step) == ENDED:
                found[running.trial.name] = copy.deepcopy(running.weights)
                running._model.delete_adapter(running.trial.name)  # type: ignore[operator]
                together.remove(running)
                continue
            running.step()
    found |= {running.trial.name: running.weights for running in together}
    return max(
        float((found[trial][name].detach() - weight).abs().max())
        for trial, own in alone.items()
        for name, weight in own.items()
    )


class SharedProgram:
    """For the tracer: trials of rank 16 on one base of the shape of qwen3-0.6b in bf16, step by step in turn."""

    def __init__(self, count: int) -> None:
        self._trials = [Trial(name=f"t{n}", rank=16, learning_rate=1e-4, steps=9, seed=n) for n in range(count)]

    def build(self, recompute: Region) -> nn.Module:
        """Builds the base and its adapters."""
        from dialsum.models import SPECS

        model = make_base(SPECS["qwen3-0.6b"].shape, torch.bfloat16)
        for trial in self._trials:
            model = add_adapter(model, trial)
        return model.train()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs two steps of each."""
        tokens = torch.empty(TRACED_BATCH, TRACED_LENGTH, dtype=torch.int64)
        running = [Running(model, trial, iter([tokens] * 2)) for trial in self._trials]
        for _ in range(2):
            for one in running:
                one.step(autocast)


def traced_bytes(count: int) -> int:
    """Returns the reserved bytes of a process with so many trials on one base."""
    log = trace_program(SharedProgram(count), family="flash", precision="bf16")
    return played(log, expandable=True).peak_reserved_bytes


def measure(count: int) -> None:
    """Prints the user CPU seconds of steps of trials on one base, with one thread."""
    torch.set_num_threads(1)
    running = start([dataclasses.replace(TRIALS[n % 3], name=f"t{n}", rank=8) for n in range(count)])
    for one in running:
        one.step()
    before_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(MEASURED_STEPS):
        for one in running:
            one.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before_s)


def speed(processes: int, trials: int) -> float:
    """Runs processes side by side; returns samples a user CPU second of all together."""
    command = [sys.executable, "-m", "benchmarks.shared_base", "--measure", str(trials)]
    pipes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(processes)]
    took_s = sum(float(one.communicate()[0]) for one in pipes)
    return processes * trials * MEASURED_STEPS * BATCH / took_s


def page(difference: float, reserved: dict[int, int], apart: float, shared: float) -> str:
    """Writes the page."""
    gpu = find_gpu(GPU)
    own = reserved[1] + gpu.context_bytes
    counts = sorted(reserved)
    further = (reserved[counts[-1]] - reserved[1]) / (counts[-1] - 1)
    less = 1 - further / own
    sums = shared / (2 * apart)
    kept = less > 0.5 and sums >= 1
    equal = "bit for bit" if not difference else f"to {difference:.1e} of each weight"
    lines = [
        "# Trials that share one frozen base",
        "",
        f"Made by `python -m benchmarks.shared_base` on {os.cpu_count()} cores (torch"
        f" {metadata.version('torch')}, transformers {metadata.version('transformers')}, peft"
        f" {metadata.version('peft')}), without a GPU; load {os.getloadavg()[0]:.1f} with other work. Trials of one"
        " base run in one process, a step of each in turn; each has its own adapter, optimizer, schedule, data and"
        " random numbers.",
        "",
        f"**Equality.** {len(TRIALS)} trials (ranks {', '.join(str(one.rank) for one in TRIALS)}) together equal the"
        f" same ones alone: {equal}. One of them ended after step {ENDED[1]} and its adapter was deleted; the others"
        " did not change by it.",
        "",
        f"**Memory**, traced for the shape of qwen3-0.6b in bf16, rank 16 on all linear layers, batch {TRACED_BATCH} x"
        f" {TRACED_LENGTH} tokens, on an {GPU} (context {gpu.context_bytes / MIB:,.0f} MiB, assumed); on a GPU *not"
        " measured*.",
        "",
        "| trials | in one process, MiB | in a process each, MiB |",
        "|---|---|---|",
    ]
    for count in counts:
        together = reserved[count] + gpu.context_bytes
        lines.append(f"| {count} | {together / MIB:,.0f} | {count * own / MIB:,.0f} |")
    lines += [
        "",
        f"A further trial needs {further / MIB:,.0f} MiB instead of {own / MIB:,.0f} MiB: {less:.0%} less.",
        "",
        f"**Speed** of two trials on this CPU, a base of {SMALL['num_hidden_layers']} layers of width"
        f" {SMALL['hidden_size']}, batch {BATCH} x {LENGTH}, one thread in a process, by user CPU seconds, as other"
        " work was on the machine.",
        "",
        "| | samples a CPU second | cores in use | samples a second on free cores |",
        "|---|---|---|---|",
        f"| a process each | {apart:.1f} | 2 | {2 * apart:.1f} |",
        f"| one process | {shared:.1f} | 1 | {shared:.1f} |",
        "",
        f"On one core the shared process makes {shared / apart:.2f} of the samples of processes of their own. But its"
        " steps wait for each other, so that it uses one core where two processes use two; whether a GPU behaves as one"
        " core or as two for small models is *not measured*.",
        "",
        "**Rule**: kept as a feature only if memory per further trial falls by more than half and the sum of samples a"
        f" second does not fall. {'Both hold' if kept else 'Not kept'}: memory falls by {less:.0%}, the sum of samples"
        f" a second is {sums:.2f} of that of processes.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Runs the experiment and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, help="default: %(default)s")
    parser.add_argument("--measure", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        measure(chosen.measure)
        return 0
    apart, shared = speed(2, 1), speed(1, 2)
    reserved = {count: traced_bytes(count) for count in (1, 4)}
    write_text(chosen.output, page(largest_difference(), reserved, apart, shared))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
