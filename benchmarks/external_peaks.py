"""Compares the estimator with published GPU peaks; replays each measured program.

`python -m benchmarks.external_peaks` writes external_peaks.md from external_peaks.json (published facts, each with its
source) in some ten minutes of one quiet core, no GPU. Rows are replayed with the transformers that was measured, where
it can be installed (into .cache/libraries, by pip), and with the installed one. Answers are kept in
.cache/external_peaks.jsonl, so that a run that was ended goes on where it was.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.external_runs import Answer, Run, Source, read_sources
from cluster.estimator.calibration import DEFAULT_MARGIN
from tuning_common import cli
from tuning_common.errors import WorkError
from tuning_common.files import append_jsonl, read_jsonl, write_text

ROOT = Path(__file__).resolve().parent.parent
FACTS = Path(__file__).with_suffix(".json")
LIBRARIES = ROOT / ".cache" / "libraries"
ANSWERS = ROOT / ".cache" / "external_peaks.jsonl"
PROGRAMS = sorted(FACTS.parent.glob("external_*.py"))
CODE = [
    *(ROOT / "cluster" / "estimator" / f"{name}.py" for name in (
        "allocator", "cuda_imitation", "gpu_profile", "trace", "trace_recorder",
    )),
    FACTS.parent / "external_programs.py",
]  # fmt: skip
INSTALLED = ""  # means the installed transformers
# What an older transformers needs beside itself; torch is the installed one.
COMPANIONS = {
    "4.42.4": ("tokenizers==0.19.1", "huggingface_hub==0.26.5", "numpy==1.26.4"),
    "4.46.3": ("tokenizers==0.20.3", "huggingface_hub==0.26.5", "numpy==1.26.4"),
}
GIGABYTES_A_SAMPLE = 0.6  # a constant table's entry for a base model at length 512
BYTES_A_PARAMETER = 16
EVERY = 8  # of these rows one is replayed with the installed transformers too
NOTABLE = 0.02  # an error that is shown row by row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """One row with its estimates.

    Attributes:
        run: The run.
        measured_bytes: Bytes that the GPU reported.
        then: Replay with the original transformers; None where it is not available.
        now: Replay with the installed one; None where it cannot build the model.
        parameters: Number of the model's parameters.
    """

    run: Run
    measured_bytes: int
    then: int | None
    now: int | None
    parameters: int

    @property
    def estimate_bytes(self) -> int | None:
        """The replay with the original transformers, else with the installed one."""
        return self.then if self.then is not None else self.now

    @property
    def error(self) -> float | None:
        """Estimate against measurement; negative where the estimate is under it."""
        found = self.estimate_bytes
        return None if found is None else found / self.measured_bytes - 1


Habit = Callable[[Compared], float]


def by_parameters(compared: Compared) -> float:
    """Returns the bytes by a constant per parameter, for any batch."""
    return compared.parameters * BYTES_A_PARAMETER


def by_accelerate(compared: Compared) -> float:
    """Returns the bytes by `accelerate estimate-memory` for training with Adam."""
    from accelerate.commands.estimate import estimate_training_usage

    dtype = compared.run.row.dtype
    return float(max(estimate_training_usage(compared.parameters * 4, dtype).values()))


def by_constant(compared: Compared) -> float:
    """Returns the bytes by a constant per sample, proportional to the length."""
    return GIGABYTES_A_SAMPLE * 1e9 * compared.run.row.batch * compared.run.row.length / 512


HABITS: dict[str, Habit] = {
    "16 bytes a parameter": by_parameters, "accelerate": by_accelerate, "0.6 GB a sample": by_constant,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Replays every row and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FACTS.with_suffix(".md"), help="default: %(default)s")
    parser.add_argument("--source", default="", metavar="NAME", help="only tables whose name begins so")
    chosen = parser.parse_args(arguments)
    found = []
    for source in read_sources(FACTS):
        if source.name.startswith(chosen.source):
            cli.note(f"{source.name}: {len(source.runs)} rows")
            found.append((source, compared_rows(source)))
    write_text(chosen.output, page(found))
    return 0


def compared_rows(source: Source) -> list[Compared]:
    """Replays the rows of a source with both libraries."""
    then = replay(source.runs, source.transformers) if source.transformers else {}
    missing = [index for index in range(len(source.runs)) if index not in then or index % EVERY == 0]
    now = dict(zip(missing, replay([source.runs[index] for index in missing], INSTALLED).values(), strict=True))
    return [
        Compared(
            run=run,
            measured_bytes=source.measured_bytes[index],
            then=then[index].estimate_bytes if index in then else None,
            now=now[index].estimate_bytes if index in now else None,
            parameters=max(answers[index].parameters for answers in (then, now) if index in answers),
        )
        for index, run in enumerate(source.runs)
    ]


def replay(runs: Sequence[Run], transformers: str) -> dict[int, Answer]:
    """Replays runs in a separate process, except for those with a stored answer.

    Args:
        runs: Runs of one source.
        transformers: Version, or INSTALLED.

    Returns:
        Answers by index; empty where that version is not available.

    Raises:
        WorkError: When the process ends before it has answered.
    """
    library = _library(transformers) if transformers != INSTALLED else None
    if transformers != INSTALLED and library is None:
        return {}
    stored = {str(row.pop("key")): row for row in read_jsonl(ANSWERS)[0]}
    keys = [_key(run, transformers) for run in runs]
    missing = [index for index, key in enumerate(keys) if key not in stored]
    if missing:
        stored |= _replayed([runs[index] for index in missing], [keys[index] for index in missing], library)
    answers = {index: Answer.from_dict(stored[key]) for index, key in enumerate(keys)}
    for problem in sorted({answer.problem for answer in answers.values() if answer.problem}):
        cli.note(f"transformers {transformers or 'installed'}: {problem}")
    return answers


def _replayed(runs: Sequence[Run], keys: Sequence[str], library: Path | None) -> dict[str, dict[str, object]]:
    """Replays runs and stores each answer as it comes, so that a later start goes on behind it."""
    paths = filter(None, [str(library or ""), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    answers: dict[str, dict[str, object]] = {}
    command = [sys.executable, "-m", "benchmarks.external_replay"]
    with tempfile.TemporaryFile("w+") as job, tempfile.TemporaryFile("w+") as problems:
        json.dump([dataclasses.asdict(run) for run in runs], job)
        job.seek(0)
        process = subprocess.Popen(
            command, stdin=job, stdout=subprocess.PIPE, stderr=problems, text=True, cwd=ROOT, env=environment
        )
        assert process.stdout is not None
        for key, text in zip(keys, process.stdout, strict=False):
            answers[key] = json.loads(text)
            append_jsonl(ANSWERS, {"key": key} | answers[key])
        process.wait()
        problems.seek(0)
        words = problems.read().strip().splitlines()[-6:]
    if len(answers) < len(runs):
        raise WorkError("the replay failed:\n" + "\n".join(words))
    return answers


def _key(run: Run, transformers: str) -> str:
    """Names what an answer depends on: the run, versions, and the code that replays it."""
    program = next(path for path in PROGRAMS if f"class {run.program}" in path.read_text(encoding="utf-8"))
    code = b"".join(path.read_bytes() for path in [*CODE, program])
    versions = [transformers or metadata.version("transformers"), metadata.version("torch"), metadata.version("peft")]
    content = json.dumps([dataclasses.asdict(run), *versions, hashlib.sha256(code).hexdigest()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _library(version: str) -> Path | None:
    """Returns the folder of an older transformers, installs it where needed; None where pip cannot."""
    folder = LIBRARIES / f"transformers-{version}"
    if (folder / "transformers").is_dir():
        return folder
    cli.note(f"installing transformers {version} into {folder}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    wanted = (f"transformers=={version}", *COMPANIONS[version])
    if subprocess.run([*command, *wanted], check=False, capture_output=True).returncode:
        cli.note(f"transformers {version} cannot be installed here: its rows are replayed with the installed one alone")
        return None
    return folder


def page(found: Sequence[tuple[Source, Sequence[Compared]]]) -> str:
    """Writes the page."""
    everything = [row for _, rows in found for row in rows]
    lines = [
        "# The estimator beside published peaks",
        "",
        "Made by `python -m benchmarks.external_peaks` from `external_peaks.json`, without a GPU. Each program is in"
        " `external_*.py` as it ran: what it keeps alive, how it zeroes gradients, its loss, its optimizer. It is"
        " replayed on meta tensors with the transformers of then, some rows with the installed one too (*now*),"
        " with torch 2.13's operators and its native allocator. Errors are estimate against measurement; *above"
        f" upper* counts rows that needed more than the estimate and the default margin of {DEFAULT_MARGIN:.0%}.",
        "",
        "| table | rows | median error | worst under | worst over | above upper | median error, now |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_summary(f"[{source.name}]({source.url})", rows) for source, rows in found]
    lines += [_summary("**all**", everything), "", "The habits of today on the rows of whole models:", ""]
    lines += ["| habit | median error | worst under | worst over | above it |", "|---|---|---|---|---|"]
    models = [row for row in everything if row.run.row.model]
    lines += [_habit(name, habit, models) for name, habit in HABITS.items() if models]
    lines += [
        "",
        "## Where each table is from",
        "",
        "| table | GPU | torch | transformers | note |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {s.name} | {s.gpu} | {s.torch} | {s.transformers or '-'} | {s.note} |" for s, _ in found]
    lines += ["", f"## Rows with an error above {NOTABLE:.0%}", "", *_notable(found)]
    return "\n".join(lines) + "\n" + NOTES


def _summary(name: str, rows: Sequence[Compared]) -> str:
    errors = [row.error for row in rows if row.error is not None]
    now = [abs(row.now / row.measured_bytes - 1) for row in rows if row.now is not None]
    above = sum(error < 0 and (1 + error) * (1 + DEFAULT_MARGIN) < 1 for error in errors)
    median = statistics.median(abs(error) for error in errors)
    later = f"{statistics.median(now):.2%}" if now else "not built"
    return (
        f"| {name} | {len(errors)} | {median:.2%} | {min(0.0, *errors):.1%} | {max(0.0, *errors):+.1%} | {above} |"
        f" {later} |"
    )


def _habit(name: str, habit: Habit, rows: Sequence[Compared]) -> str:
    errors = [habit(row) / row.measured_bytes - 1 for row in rows]
    median = statistics.median(abs(error) for error in errors)
    above = sum(error < 0 for error in errors)
    return f"| {name} | {median:.0%} | {min(errors):.0%} | {max(errors):+.0%} | {above} of {len(rows)} |"


def _notable(found: Sequence[tuple[Source, Sequence[Compared]]]) -> list[str]:
    lines = ["| table | run | measured MB | estimate MB | error |", "|---|---|---|---|---|"]
    for source, rows in found:
        for row in rows:
            if row.error is not None and row.estimate_bytes is not None and abs(row.error) > NOTABLE:
                own = {**row.run.row.options} if len({str(run.row.options) for run in source.runs}) > 1 else {}
                words = [row.run.row.attention, f"{row.run.row.batch} x {row.run.row.length}", *map(str, own.values())]
                lines.append(
                    f"| {source.name} | {' '.join(filter(None, words))} | {row.measured_bytes / 1e6:,.0f} |"
                    f" {row.estimate_bytes / 1e6:,.0f} | {row.error:+.1%} |"
                )
    return lines


NOTES = """
Explained: with another transformers than the measured one a row can be far off (older models held causal masks of 2,048
x 2,048 as buffers, or computed attention otherwise), which is why the version of then is replayed. The one output head
that a replay of Liger-Kernel's benchmark lacked was the other implementation's, which its script builds first. litgpt
rotates queries and keys in fp32 and raises its logits to fp32, and only its first micro-batch holds the longest sample.

Hypotheses that were not checked: OPT with SDPA is under by one fp16 copy of the hidden states in each layer (24 x
2,048 bytes a token). Its batches have no padding, so the GPU ran flash attention, whose output is copied once more; the
tracer takes every batch for a padded one, and traced the memory-efficient kernel. Llama-2 by litgpt is under by two
bf16 hidden states in each layer, or by what 126 more tokens would need; litgpt's two other families are not.

Unexplained, and standing so: masked-language models (BERT, DistilBERT, ALBERT) were measured as if their head were not
tied; GPT-2 large is 0.1 to 1 % under, the same at all sizes; the old fp16 trainer at batch 4 is under, and Adafactor
with checkpointing over; ALBERT's forward pass is over at 16 x 512; greedy generation is over.

Not in the table, because no published row with exact settings was found: T5, mT5, BART and Pegasus in training, bf16
autocast, whole models on Hopper, beam search, adapters of encoder-decoder models. Not taken, because lengths or
batches are not published: LoRA tables of torchtune, unsloth, LLaMA-Factory and axolotl, fms-acceleration's LoRA rows,
issues of peft. Context, expandable segments and cuDNN's choice: see [gpu_peaks.md](gpu_peaks.md).
"""

if __name__ == "__main__":
    sys.exit(cli.run(main))
