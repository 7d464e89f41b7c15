"""Estimates the device bytes of a request: peaks of training and generation, their terms, and the upper bound.

Combines the template (tensors), the allocator's replay (segments), the GPU profile (context, cuBLAS) and the
calibration (margin). Imports numpy only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.estimator.calibration import Calibration, Layout, Margin
from cluster.estimator.gpu_profile import MIB, GpuProfile
from cluster.estimator.operations import Ints
from cluster.estimator.process import ProcessPeaks, Setting, Sizes, dynamic_batches, replay_process, usual_slack
from cluster.estimator.request import BF16_SM, MemoryRequest
from cluster.estimator.roofline import roofline_of
from cluster.estimator.sharding import Sharding, divided
from cluster.estimator.step_seconds import StepSeconds, predict_seconds
from cluster.estimator.template import ROUTINES, Routine, RoutinePeak, Template, TemplateKey

TemplateFinder = Callable[[MemoryRequest], Template]
"""Finds (or makes) the template of a request."""

COMPILE_MARGIN = 0.15  # assumed, not measured; see warnings_for
NCCL_BYTES = 512 * MIB  # buffers of NCCL outside torch's allocator; assumed, not measured


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The estimated memory of a trial on one card.

    Attributes:
        train_allocated_bytes: Peak of torch's allocated bytes in training, including cuBLAS workspaces.
        train_reserved_bytes: Peak of its reserved bytes in training.
        evaluate_allocated_bytes: Peak for the loss of a dev batch, without gradients.
        generate_allocated_bytes: Peak for the summaries of a dev batch, beside weights and optimizer.
        generate_reserved_bytes: Peak of reserved bytes in generation, without leftovers of training.
        context_bytes: Bytes outside torch's allocator.
        device_bytes: The whole process at its peak: reserved + context.
        upper_bytes: device · (1 + margin), rounded up: placed and enforced.
        margin: The margin and its basis.
        peak_phase: routine/phase of the peak, for example "train/backward".
        terms: device_bytes by purpose; the sum is device_bytes.
        model_parameters: Number of elements of all parameters, tied ones once.
        operations: Tensor operations of one forward and backward pass.
        gpu: The card that was assumed.
        gpu_fraction: upper ÷ usable bytes of the card; above 1 where the card is too small.
        template: Source of the template.
        warnings: Parts that are bounded or assumed instead of modelled.
    """

    train_allocated_bytes: int
    train_reserved_bytes: int
    evaluate_allocated_bytes: int
    generate_allocated_bytes: int
    generate_reserved_bytes: int
    context_bytes: int
    device_bytes: int
    upper_bytes: int
    margin: Margin
    peak_phase: str
    terms: dict[str, int]
    model_parameters: int
    operations: int
    gpu: GpuProfile
    gpu_fraction: float
    template: str
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the trial fits on the card at all."""
        return self.upper_bytes <= self.gpu.usable_bytes


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The model size that determines the time of a step.

    Attributes:
        parameters: Elements of all parameters, a tied one once.
        operations: Tensor operations of one forward and backward pass.
    """

    parameters: int
    operations: int


class Estimator:
    """Estimates requests; caches its replays.

    Args:
        templates: Returns a request's template.
        calibration: Measured peaks; None for none.
    """

    def __init__(self, templates: TemplateFinder, calibration: Calibration | None = None) -> None:
        self._templates = templates
        self._calibration = calibration or Calibration()
        self._replays: dict[tuple[object, ...], ProcessPeaks] = {}
        self._slacks: dict[tuple[TemplateKey, int, Setting], float] = {}
        self._divided: dict[tuple[TemplateKey, int, Sharding], Template] = {}
        self._margins: dict[tuple[str, str, str, Layout], Margin] = {}

    def estimate(self, request: MemoryRequest) -> MemoryEstimate:
        """Estimates one trial with a replay of the allocator, in tens of milliseconds the first time; deterministic."""
        template = self._template(request)
        peaks = {routine: _peak(template, request, routine) for routine in ROUTINES}
        blas_bytes, ddp_bytes = request.gpu.workspace_bytes, _ddp_bytes(request, template)
        process = self._replay(template, request, _sizes(request, "train"))
        generation = self._replay(template, request, None)
        # The loss without gradients is not replayed: use the slack of training.
        slack = max(1.0, process.train_reserved_bytes / process.train_allocated_bytes)
        evaluate_bytes = math.ceil((peaks["evaluate"].allocated_bytes + blas_bytes) * slack)
        context_bytes = _outside_bytes(request)
        # A sum of bounds can exceed an exact replay.
        tensor_bytes = max(self._alone_bytes(request), *(peak.allocated_bytes for peak in peaks.values())) + blas_bytes
        torch_bytes = max(process.reserved_bytes, evaluate_bytes, tensor_bytes) + ddp_bytes
        device_bytes = torch_bytes + context_bytes
        margin = self.margin(request)
        upper_bytes = math.ceil(device_bytes * (1 + margin.fraction))
        routine = max(ROUTINES, key=lambda name: peaks[name].allocated_bytes)
        return MemoryEstimate(
            train_allocated_bytes=peaks["train"].allocated_bytes + blas_bytes + ddp_bytes,
            train_reserved_bytes=process.train_reserved_bytes + ddp_bytes,
            evaluate_allocated_bytes=peaks["evaluate"].allocated_bytes + blas_bytes,
            generate_allocated_bytes=peaks["generate"].allocated_bytes + blas_bytes,
            generate_reserved_bytes=generation.reserved_bytes + peaks["generate"].terms["optimizer"],
            context_bytes=context_bytes,
            device_bytes=device_bytes,
            upper_bytes=upper_bytes,
            margin=margin,
            peak_phase=f"{routine}/{peaks[routine].phase}",
            terms=_terms(routine, peaks[routine], blas_bytes, ddp_bytes, context_bytes, device_bytes),
            model_parameters=template.model_parameters,
            operations=template.operations,
            gpu=request.gpu,
            gpu_fraction=upper_bytes / request.gpu.usable_bytes,
            template=template.source,
            warnings=warnings_for(request),
        )

    def upper_bytes(self, request: MemoryRequest) -> int:
        """Returns the upper bytes without a replay of this request, in tens of microseconds."""
        template = self._template(request)
        train = template.allocated_bytes(*_sizes(request, "train"))
        evaluate = template.allocated_bytes(*_sizes(request, "evaluate"), routine="evaluate")
        generate = template.allocated_bytes(*_sizes(request, "generate"), routine="generate", beams=request.num_beams)
        slope, offset = self._slope_and_offset(template, request)
        return math.ceil(max(train, evaluate, generate, self._alone_bytes(request)) * slope + offset)

    def upper_bytes_many(self, requests: Sequence[MemoryRequest]) -> Ints:
        """Estimates the upper bytes of many trials at once.

        Computes trials of one template together. The allocator's overhead is the largest in replays of that template
        at a few sizes, so the result differs from estimate by several percent and is mostly larger
        (benchmarks/estimator_allocator.md).

        Returns:
            One number per request, in their order.
        """
        groups: dict[object, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_kind(request), []).append(index)
        uppers = np.zeros(len(requests), dtype=np.int64)
        for indices in groups.values():
            uppers[indices] = self._uppers([requests[index] for index in indices])
        return uppers

    def model_size(self, request: MemoryRequest) -> ModelSize:
        """Returns the size of a request's model."""
        template = self._template(request)
        return ModelSize(parameters=template.model_parameters, operations=template.operations)

    def tensor_bytes(self, request: MemoryRequest, routine: Routine) -> int:
        """Returns the peak of a routine's tensors, without workspaces, the allocator's overhead and context."""
        beams = request.num_beams if routine == "generate" else 1
        return self._template(request).allocated_bytes(*_sizes(request, routine), routine=routine, beams=beams)

    def takes_any_size(self, request: MemoryRequest) -> bool:
        """Returns whether a request's template serves every batch, and not the request's own sizes alone."""
        return not self._templates(request).key.sizes

    def seconds(self, request: MemoryRequest, *, otherwise: str = "") -> StepSeconds | None:
        """Predicts the seconds of a run's parts on its card; of several cards without their exchange of gradients.

        Args:
            request: The run.
            otherwise: The GPU model to take where the peaks of the request's own are not known.

        Returns:
            None where those are not known either.
        """
        roofline = roofline_of(request.gpu.name) or roofline_of(otherwise)
        return None if roofline is None else predict_seconds(self._templates(request), request, roofline)

    def margin(self, request: MemoryRequest) -> Margin:
        """Returns the margin of a request; torch.compile widens it."""
        cell = (request.model.family, request.gpu.name, request.precision, request.layout)
        if cell not in self._margins:
            family, gpu, precision, layout = cell
            self._margins[cell] = self._calibration.margin(family=family, gpu=gpu, precision=precision, layout=layout)
        found = self._margins[cell]
        if not request.torch_compile:
            return found
        basis = f"{found.basis}; and {COMPILE_MARGIN:.0%} for torch.compile (assumed, not measured)"
        return Margin(fraction=found.fraction + COMPILE_MARGIN, count=found.count, basis=basis)

    def _template(self, request: MemoryRequest) -> Template:
        """Returns the template of one process of a request."""
        whole = self._templates(request)
        if request.sharding is None:
            return whole
        key = (whole.key, request.ranks, request.sharding)
        if key not in self._divided:
            self._divided[key] = divided(whole, request.ranks, request.sharding)
        return self._divided[key]

    def _alone_bytes(self, request: MemoryRequest) -> int:
        """Returns the first process's bytes for the final generation with an unsharded model; 0 without sharding."""
        if request.sharding is None:
            return 0
        whole = self._templates(request)
        sizes = _sizes(request, "generate")
        held_bytes = whole.allocated_bytes(*sizes, routine="generate", beams=request.num_beams)
        return held_bytes - whole.state_bytes

    def _uppers(self, alike: Sequence[MemoryRequest]) -> Ints:
        """Returns the upper bytes of requests of one kind."""
        first = alike[0]
        template = self._template(first)
        if template.key.sizes:  # valid only for the first of them
            return np.array([self.upper_bytes(request) for request in alike], dtype=np.int64)
        sizes: dict[Routine, Ints] = {
            routine: np.array([_sizes(request, routine) for request in alike], dtype=np.int64).T for routine in ROUTINES
        }
        train = template.allocated_bytes(*sizes["train"])
        evaluate = template.allocated_bytes(*sizes["evaluate"], routine="evaluate")
        generate = template.allocated_bytes(*sizes["generate"], routine="generate", beams=first.num_beams)
        tensors = np.maximum(np.maximum(train, evaluate), generate)
        if first.sharding is not None:
            tensors = np.maximum(tensors, [self._alone_bytes(request) for request in alike])
        slope, offset = self._slope_and_offset(template, first)
        upper: Ints = np.ceil(tensors * slope + offset).astype(np.int64)
        return upper

    def _slope_and_offset(self, template: Template, request: MemoryRequest) -> tuple[float, float]:
        """Returns slope and offset of the upper bytes for a request's kind: slope · tensor bytes + offset."""
        factor = 1 + self.margin(request).fraction
        slack = self._slack(template, request)
        beside_bytes = _ddp_bytes(request, template) + _outside_bytes(request)
        return slack * factor, (request.gpu.workspace_bytes * slack + beside_bytes) * factor

    def _slack(self, template: Template, request: MemoryRequest) -> float:
        key = (template.key, _parts(request), _setting(request))
        if key not in self._slacks:
            self._slacks[key] = usual_slack(template, _setting(request))
        return self._slacks[key]

    def _replay(self, template: Template, request: MemoryRequest, train: Sizes | None) -> ProcessPeaks:
        generate, setting = _sizes(request, "generate"), _setting(request)
        lengths = request.lengths if train is not None else ()
        key = (template.key, _parts(request), setting, train, generate, request.num_beams, lengths)
        if key not in self._replays:
            batches = dynamic_batches(lengths, request.micro_batch)
            others = [(batch, *request.padded(*longest)) for batch, *longest in batches]
            self._replays[key] = replay_process(
                template, setting, train=train, generate=generate, beams=request.num_beams, others=others
            )
        return self._replays[key]


def warnings_for(request: MemoryRequest) -> tuple[str, ...]:
    """Returns what an estimate bounds or assumes instead of modelling, for people."""
    found = []
    gpu = request.gpu
    if request.torch_compile:
        found.append(
            "torch.compile is not modelled: these are the bytes of the same step without it, which mostly holds more;"
            f" {COMPILE_MARGIN:.0%} are added to the margin (assumed, not measured)"
        )
    if request.sharding is not None:
        found.append(
            f"divided among {request.ranks} cards (FSDP): bounded, not modelled: parts of weights, gradients and"
            f" optimizer states, what is gathered of them, and {NCCL_BYTES // MIB} MiB for NCCL (assumed, not measured)"
        )
    elif request.ranks > 1:
        found.append(
            "data-parallel training is bounded, not modelled: one more copy of all gradients for DDP's buckets, and"
            f" {NCCL_BYTES // MIB} MiB for NCCL (assumed, not measured)"
        )
    if request.allocator == "native" and not request.lengths:
        found.append(
            "without the lengths of the data the longest batch alone is replayed: with native segments, batches of"
            " other lengths may reserve more; give the training data, or take expandable segments"
        )
    if request.precision in ("bf16", "bf16_pure") and gpu.sm < BF16_SM:
        found.append(f"{gpu.name} (compute capability {gpu.sm[0]}.{gpu.sm[1]}) has no bf16; fp16 or fp32 would run")
    if request.optimizer in ("adamw_8bit", "paged_adamw", "paged_adamw_8bit"):
        found.append(f"{request.optimizer} is modelled by its states; its kernels' temporaries are not traced")
    if request.optimizer.startswith("paged_"):
        found.append(
            "paged states may leave the card for the host's memory; they are counted as if they did not (not measured)"
        )
    if request.model.untied_source.startswith("assumed"):
        found.append(f"output head: {request.model.untied_source}")
    if not gpu.measured:
        found.append(f"context of {gpu.context_bytes // MIB} MiB on {gpu.name}: not measured on this project")
    return tuple(found)


def _sizes(request: MemoryRequest, routine: Routine) -> Sizes:
    """Returns the largest batch, encoder length and decoder length of a routine."""
    if routine == "generate":
        return request.generation_batch_size, request.encoder_max_len, request.new_tokens
    encoder_len, decoder_len = request.padded_lengths
    return request.micro_batch if routine == "train" else request.loss_batch, encoder_len, decoder_len


def _peak(template: Template, request: MemoryRequest, routine: Routine) -> RoutinePeak:
    return template.peak(*_sizes(request, routine), routine=routine, beams=request.num_beams)


def _setting(request: MemoryRequest) -> Setting:
    return Setting(expandable=request.allocator == "expandable", workspace_bytes=request.gpu.workspace_bytes)


def _outside_bytes(request: MemoryRequest) -> int:
    """Returns the process's bytes outside torch's allocator."""
    return request.gpu.context_bytes + (NCCL_BYTES if request.ranks > 1 else 0)


def _parts(request: MemoryRequest) -> int:
    """Returns the number of shards of the model."""
    return 1 if request.sharding is None else request.ranks


def _ddp_bytes(request: MemoryRequest, template: Template) -> int:
    """Returns the bytes of DDP's gradient buckets, a copy of all gradients."""
    return template.gradient_bytes if request.ranks > 1 and request.sharding is None else 0


def _terms(
    routine: Routine, peak: RoutinePeak, blas_bytes: int, ddp_bytes: int, context_bytes: int, device_bytes: int
) -> dict[str, int]:
    """Splits the peak into terms; the rest beyond tensors is the allocator's fragmentation."""
    held = dict(peak.terms)
    generation = 0
    if routine == "generate":
        generation = held["activations"] + held["logits"]
        held["activations"] = held["logits"] = 0
    terms = {
        "weights": held["weights"],
        "gradients": held["gradients"] + ddp_bytes,
        "optimizer": held["optimizer"],
        "activations": held["activations"],
        "logits": held["logits"],
        "generation": generation,
        "workspace": held["workspace"] + blas_bytes,
    }
    terms["fragmentation"] = device_bytes - context_bytes - sum(terms.values())
    terms["context"] = context_bytes
    return terms


def _kind(request: MemoryRequest) -> tuple[object, ...]:
    """Returns a key of requests with the same template, card, margin and beams."""
    return (
        id(request.model),
        id(request.gpu),
        request.precision,
        repr(request.adapter),
        request.optimizer,
        request.attention,
        request.gradient_checkpointing,
        request.dropout is None or request.dropout > 0,
        request.dropout is None,
        request.label_smoothing > 0,
        request.gradient_accumulation_steps > 1,
        request.num_beams,
        request.no_repeat_ngram_size > 0,
        request.allocator,
        request.torch_compile,
        request.ranks > 1,
        _parts(request),
    )
