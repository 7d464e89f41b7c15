"""Measures the memory of each process of a sharded model; writes sharded_peaks.md in its own folder.

`python -m benchmarks.sharded_peaks` lets one process of 1, 2, 4 and 8 make two optimizer steps of some models on a CPU
and asks torch's profiler for the most that its allocator held. The others are imagined (torch's fake process group,
which exchanges nothing), so that what is counted is fully_shard's own: gloo would copy what it gathers once more, which
NCCL does not. Kernels of a CPU hold other temporaries than those of a GPU, so savings are compared: what the estimate
takes off for a divided model against what is gone. Two minutes on one core. With GPUs and NCCL it was not measured.
"""

import argparse
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import distributed

from benchmarks.pages import page_parser
from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import MemoryRequest, Precision
from dialsum.device import autocast
from dialsum.optimizers import build_optimizer
from dialsum.sharding import shard
from dialsum.step import IGNORED_LABEL, counted_positions, forward_loss
from dialsum.workload import empty_model
from tune_jobs.placing.memory_requests import sharding_of
from tune_jobs.placing.memory_templates import template_finder
from tuning_common.cli import emit, note
from tuning_common.files import write_text
from tuning_common.units import format_bytes

PROCESSES = (1, 2, 4, 8)
STEPS = 2
LIMIT_S = 600


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its micro-batch.

    Attributes:
        name: For the table.
        values: Values as in config.json.
        micro_batch: Dialogues of one process.
        encoder_len: Tokens of a dialogue.
        decoder_len: Tokens of a summary.
        precision: fp32 or bf16.
        gradient_checkpointing: Whether activations are computed again.
    """

    name: str
    values: Mapping[str, object]
    micro_batch: int = 2
    encoder_len: int = 128
    decoder_len: int = 32
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False


_T5 = {
    "model_type": "t5", "is_encoder_decoder": True, "vocab_size": 8000, "d_model": 512, "d_kv": 64, "d_ff": 2048,
    "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8, "decoder_start_token_id": 0, "pad_token_id": 0,
    "eos_token_id": 1, "tie_word_embeddings": True,
}  # fmt: skip
_BART = {
    "model_type": "bart", "is_encoder_decoder": True, "vocab_size": 30000, "d_model": 512, "encoder_layers": 6,
    "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048, "max_position_embeddings": 512,
}  # fmt: skip
_GPT2 = {
    "model_type": "gpt2", "vocab_size": 20000, "n_embd": 640, "n_layer": 12, "n_head": 10, "n_positions": 512,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CASES = (
    Case(name="T5, 48 million", values=_T5),
    Case(name="T5, 48 million, bf16, checkpointing", values=_T5, precision="bf16", gradient_checkpointing=True),
    Case(name="BART, 60 million", values=_BART),
    Case(name="GPT-2, 72 million", values=_GPT2, micro_batch=1),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case on some processes.

    Attributes:
        case: The case.
        processes: Number of processes.
        measured_bytes: Peak bytes of one process.
        estimated_bytes: Tensor bytes of the estimate for a GPU.
    """

    case: Case
    processes: int
    measured_bytes: int
    estimated_bytes: int


def main() -> None:
    """Measures everything and writes the table; as a child, measures one process."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--child", nargs=2, type=int, metavar=("CASE", "PROCESSES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        case, processes = chosen.child
        emit(str(peak_bytes(CASES[case], processes)))
        return
    rows = []
    for index, case in enumerate(CASES):
        for processes in PROCESSES:
            rows.append(measured(index, processes))
            note(f"{case.name}, {processes} processes: {format_bytes(rows[-1].measured_bytes)}")
    write_text(chosen.output, as_markdown(rows))
    note(f"written: {chosen.output}")


def measured(index: int, processes: int) -> Row:
    """Measures a case in a separate process and estimates it."""
    command = [sys.executable, "-m", "benchmarks.sharded_peaks", "--child", str(index), str(processes)]
    done = subprocess.run(command, check=True, timeout=LIMIT_S, stdout=subprocess.PIPE, text=True)
    estimate = estimated_bytes(CASES[index], processes)
    return Row(case=CASES[index], processes=processes, measured_bytes=int(done.stdout), estimated_bytes=estimate)


def estimated_bytes(case: Case, processes: int) -> int:
    """Returns the estimated peak of tensors in training, without cuBLAS."""
    facts = model_facts(case.name, case.values)
    gpu = find_gpu("L4")
    request = MemoryRequest(
        model=facts,
        gpu=gpu,
        batch_size=case.micro_batch * processes,
        ranks=processes,
        sharding=sharding_of(facts) if processes > 1 else None,
        encoder_max_len=case.encoder_len,
        decoder_max_len=case.decoder_len,
        precision=case.precision,
        gradient_checkpointing=case.gradient_checkpointing,
        generation_batch_size=1,
    )
    return Estimator(template_finder(note)).estimate(request).train_allocated_bytes - gpu.workspace_bytes


def peak_bytes(case: Case, processes: int) -> int:
    """Runs optimizer steps as one of several processes and returns the peak of torch's CPU allocator."""
    torch.set_num_threads(1)
    if processes > 1:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        model = _model(case)
        if processes > 1:
            shard(model, "cpu", case.precision)
        with torch.profiler.record_function(_READY):
            pass
        optimizer = build_optimizer(model, name="adamw_fused", learning_rate=1e-4, weight_decay=0.0)
        for _ in range(STEPS):
            with autocast(case.precision):
                loss = forward_loss(model, _batch(case), label_smoothing=0.0, causal=_is_causal(case))
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
            optimizer.step()
            optimizer.zero_grad()
    return _most_bytes(profiler)


_READY = "model is ready"


def _model(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    model = empty_model(case.values, untied=False).to_empty(device="cpu")
    model.tie_weights()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    if case.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained: torch.nn.Module = model.train()
    return trained


def _is_causal(case: Case) -> bool:
    return not case.values.get("is_encoder_decoder")


def _batch(case: Case) -> dict[str, torch.Tensor]:
    vocabulary = case.values["vocab_size"]
    assert isinstance(vocabulary, int)
    causal = _is_causal(case)
    length = case.encoder_len + case.decoder_len if causal else case.encoder_len
    labels = torch.randint(5, vocabulary, (case.micro_batch, length if causal else case.decoder_len))
    if causal:
        labels[:, : case.encoder_len] = IGNORED_LABEL
    return {
        "input_ids": torch.randint(5, vocabulary, (case.micro_batch, length)),
        "attention_mask": torch.ones(case.micro_batch, length, dtype=torch.int64),
        "labels": labels,
        "positions": counted_positions(labels, causal=causal),
    }


def _most_bytes(profiler: torch.profiler.profile) -> int:
    """Returns the highest count of allocated bytes after the _READY event."""
    ready, counts = 0, list[tuple[int, int]]()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.name == _READY:
            ready = event.start_time_ns
        elif event.name == "[memory]":
            counts.append((event.start_time_ns, int(getattr(event.extra_fields, "total_allocated"))))  # noqa: B009
    return max(total for at, total in counts if at >= ready)


def as_markdown(rows: list[Row]) -> str:
    """Returns the report."""
    alone = {row.case.name: row for row in rows if row.processes == 1}
    lines = [
        "# What each process holds of a divided model",
        "",
        "Written by `python -m benchmarks.sharded_peaks`: two optimizer steps on a CPU, the most that torch's",
        "allocator held in one of so many processes (the others imagined: nothing is exchanged), and what the estimate",
        "says of the same step on a GPU (tensors only). The last column predicts a divided process from the measured",
        "whole one and the estimate's saving: from 1 on the estimate is a bound. With GPUs and NCCL it was *not",
        "measured*.",
        f"torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        "| model | processes | measured | estimate | measured saving | estimated saving | predicted / measured |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        whole = alone[row.case.name]
        cells = [row.case.name, str(row.processes), format_bytes(row.measured_bytes), format_bytes(row.estimated_bytes)]
        if row.processes > 1:
            saved = whole.measured_bytes - row.measured_bytes
            expected = whole.estimated_bytes - row.estimated_bytes
            ratio = (whole.measured_bytes - expected) / row.measured_bytes
            cells += [format_bytes(saved), format_bytes(expected), f"{ratio:.2f}"]
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
