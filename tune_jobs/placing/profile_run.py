"""One real training step and one generation of a run, measured on the device at hand. Imports torch inside functions.

Random weights and random tokens of the longest lengths: bytes and times do not depend on their values.
"""

import dataclasses
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

from cluster.estimator.gpu_profile import GpuProfile, find_gpu, gpu_of_size
from cluster.estimator.request import MemoryRequest
from dialsum.config import RunConfig
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

STEPS = 2  # the first makes the optimizer's states and warms up; the last is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredPhase:
    """A part of a run.

    Attributes:
        name: data, forward, backward, optimizer, evaluate or generate.
        seconds: How long it took; for training in the last step, all its micro-steps together.
        allocated_bytes: Peak of torch's allocator in it; None on a CPU.
    """

    name: str
    seconds: float
    allocated_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What was seen.

    Attributes:
        device: For a person.
        phases: In the order in which they ran.
        train_allocated_bytes: Peak of training; None on a CPU, as all bytes below.
        train_reserved_bytes: Reserved at the end of training.
        generate_allocated_bytes: Peak of the generation.
        reserved_bytes: Most that was reserved.
        host_rss_bytes: Peak of host memory of this process, everything included.
        fits: Whether the device had enough memory; where not, what was seen until then.
    """

    device: str
    phases: tuple[MeasuredPhase, ...]
    train_allocated_bytes: int | None
    train_reserved_bytes: int | None
    generate_allocated_bytes: int | None
    reserved_bytes: int | None
    host_rss_bytes: int
    fits: bool = True


def card_here(name: str | None) -> GpuProfile:
    """Returns the profile of this process's card by torch's name for it; of a usual card where there is none."""
    if name is None:
        return gpu_of_size("24GiB")
    import torch

    try:
        return find_gpu(name)
    except RequestError:  # a model that is not in the table: its size is known all the same
        return gpu_of_size(torch.cuda.get_device_properties(0).total_memory)


def measure_run(
    config: RunConfig,
    request: MemoryRequest,
    *,
    clock: Callable[[], float] = time.perf_counter,
    show: Callable[[str], None] = lambda phase: None,
) -> Measured:
    """Runs two optimizer steps, one evaluation batch and one generation batch.

    Args:
        config: The run.
        request: The same run as the estimator sees it.
        clock: Seconds; those of this process's CPU where a machine is busy with other things.
        show: Takes the name of each phase as it begins for the first time.

    Returns:
        Times everywhere, bytes on a GPU.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(config.cpu_threads)
    torch.manual_seed(config.seed)
    meter = _Meter(device, clock, show)
    fits = True
    try:
        _run(config, request, device, meter)
    except torch.cuda.OutOfMemoryError:
        fits = False
    training = [phase for phase in meter.phases if phase.name not in ("evaluate", "generate")]
    generating = [phase for phase in meter.phases if phase.name == "generate"]
    return Measured(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        phases=tuple(meter.phases),
        train_allocated_bytes=_largest(training),
        train_reserved_bytes=meter.train_reserved_bytes,
        generate_allocated_bytes=_largest(generating),
        reserved_bytes=meter.reserved_bytes,
        host_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        fits=fits,
    )


class _Meter:
    """Times phases and reads torch's peaks at their ends."""

    def __init__(self, device: "torch.device", clock: Callable[[], float], show: Callable[[str], None]) -> None:
        self._clock, self._show = clock, show
        self.phases: list[MeasuredPhase] = []
        self.train_reserved_bytes: int | None = None
        self._cuda = device.type == "cuda"
        self._reserved_bytes = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        import torch

        if all(phase.name != name for phase in self.phases):
            self._show(name)
        if self._cuda:
            torch.cuda.synchronize()
            self._reserved_bytes = max(self._reserved_bytes, torch.cuda.max_memory_reserved())
            torch.cuda.reset_peak_memory_stats()
        start = self._clock()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        seconds = self._clock() - start
        self._add(MeasuredPhase(name=name, seconds=seconds, allocated_bytes=_peak_bytes() if self._cuda else None))

    def forget_times(self) -> None:
        """Drops the times of the steps so far; their peaks stay."""
        self.phases = [dataclasses.replace(phase, seconds=0.0) for phase in self.phases]

    def training_ended(self) -> None:
        """Notes what training reserved; a generation may add to it."""
        self.train_reserved_bytes = self.reserved_bytes

    @property
    def reserved_bytes(self) -> int | None:
        """Most that torch reserved so far; None on a CPU."""
        import torch

        return max(self._reserved_bytes, torch.cuda.max_memory_reserved()) if self._cuda else None

    def _add(self, phase: MeasuredPhase) -> None:
        for index, earlier in enumerate(self.phases):
            if earlier.name == phase.name:
                seconds = phase.seconds + earlier.seconds
                self.phases[index] = MeasuredPhase(
                    name=phase.name, seconds=seconds, allocated_bytes=_largest([phase, earlier])
                )
                return
        self.phases.append(phase)


def _run(config: RunConfig, request: MemoryRequest, device: "torch.device", meter: _Meter) -> None:
    import torch

    from dialsum.generate import generate_ids
    from dialsum.step import forward_loss

    causal = request.model.kind == "causal"
    model, optimizer = _build(config, request, device)
    scaler = torch.amp.GradScaler(device.type, enabled=request.precision == "fp16")
    pieces = request.gradient_accumulation_steps
    for step in range(STEPS):
        if step == STEPS - 1:
            meter.forget_times()
        for _ in range(pieces):
            with meter.phase("data"):
                batch = _batch(request, request.micro_batch, device)
            with meter.phase("forward"):
                loss = forward_loss(model, batch, label_smoothing=config.label_smoothing, causal=causal)
            with meter.phase("backward"):
                scaler.scale(loss / pieces).backward()  # type: ignore[no-untyped-call]
            del loss, batch
        with meter.phase("optimizer"):
            scaler.unscale_(optimizer)
            if config.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
    meter.training_ended()
    model.eval()
    with meter.phase("evaluate"), torch.no_grad():
        forward_loss(model, _batch(request, request.loss_batch, device), label_smoothing=0.0, causal=causal)
    model.generation_config.eos_token_id = None  # no summary ends early: the longest is measured
    with meter.phase("generate"):
        inputs = _tokens(request, request.generation_batch_size, request.encoder_max_len).to(device)
        generate_ids(model, inputs, torch.ones_like(inputs), config, pad_id=0)


def _build(config: RunConfig, request: MemoryRequest, device: "torch.device") -> "tuple[PreTrainedModel, Optimizer]":
    import torch

    from dialsum.workload import summarizer_workload

    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(request.precision)

    def autocast() -> "AbstractContextManager[object]":
        return torch.autocast(device.type, dtype=half) if half is not None else nullcontext()

    workload = summarizer_workload(
        model_config=request.model.config, untied=request.model.untied, precision=request.precision,
        optimizer=config.optimizer, attention=config.attention, gradient_checkpointing=config.gradient_checkpointing,
        dropout=config.dropout, label_smoothing=config.label_smoothing,
    )  # fmt: skip
    with torch.device(device):
        model = workload.build_model(autocast, nullcontext)
    return cast("PreTrainedModel", model.to(device)), workload.build_optimizer(model)


def _batch(request: MemoryRequest, rows: int, device: "torch.device") -> "dict[str, Tensor]":
    """A batch of the longest lengths, made on the host and moved as a loader does."""
    import torch

    from dialsum.step import IGNORED_LABEL, counted_positions

    encoder_len, decoder_len = request.padded_lengths
    causal = request.model.kind == "causal"
    if causal:
        inputs = _tokens(request, rows, encoder_len + decoder_len)
        labels = inputs.clone()
        labels[:, :encoder_len] = IGNORED_LABEL
    else:
        inputs, labels = _tokens(request, rows, encoder_len), _tokens(request, rows, decoder_len)
    mask = torch.ones_like(inputs)
    mask[0, -max(1, inputs.shape[1] // 4) :] = 0  # one row is padded, as in almost every real batch
    positions = counted_positions(labels, causal=causal)
    made = {"input_ids": inputs, "attention_mask": mask, "labels": labels, "positions": positions}
    return {name: tensor.to(device) for name, tensor in made.items()}


def _tokens(request: MemoryRequest, rows: int, length: int) -> "Tensor":
    import torch

    return torch.randint(0, request.model.vocab_size, (rows, length))


def _peak_bytes() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated())


def _largest(phases: Sequence[MeasuredPhase]) -> int | None:
    return max((phase.allocated_bytes for phase in phases if phase.allocated_bytes is not None), default=None)
