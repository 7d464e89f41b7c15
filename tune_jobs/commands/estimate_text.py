"""Formats an estimate as text and JSON: terms as bars, the share of the card and its reason. Pure."""

from collections.abc import Mapping

from cluster.estimator.estimate import MemoryEstimate
from cluster.estimator.gpu_profile import GpuProfile
from cluster.estimator.memory_plan import NoPlan, Plan
from cluster.estimator.request import MemoryRequest
from cluster.estimator.step_seconds import StepSeconds
from cluster.machines.hardware import Card, label_of
from cluster.scheduling.shares import UNITS, Share, share_for
from tuning_common.units import format_bytes, format_duration

BAR_WIDTH = 32
_EXPLAINED: Mapping[str, str] = {
    "weights": "parameters, their half-precision copies, buffers",
    "gradients": "of all trained parameters, as far as they live at the peak",
    "optimizer": "states of the optimizer",
    "activations": "kept for the backward pass, and temporaries",
    "logits": "scores of every token of the vocabulary, and their gradients",
    "generation": "caches and scores of all beams",
    "workspace": "cuBLAS, and temporaries inside kernels",
    "fragmentation": "reserved by torch's allocator and not in use",
    "context": "CUDA context and libraries, outside torch",
}


def share_on(found: MemoryEstimate, ranks: int = 1) -> Share | None:
    """Returns the share of the card that a trial requests; None if the card is too small.

    The share classes are those of placement; the driver's bytes are subtracted. Several cards are allocated whole.

    Args:
        found: The estimate for one card.
        ranks: Cards that the trial trains on.
    """
    gpu = found.gpu
    card = Card(model=label_of(gpu.name), total_bytes=gpu.total_bytes, used_by_others_bytes=gpu.driver_bytes)
    share = share_for(found.upper_bytes, card)
    return share if share is None or ranks == 1 else Share(units=UNITS, cards=ranks)


def as_text(
    request: MemoryRequest,
    found: MemoryEstimate,
    alternative: Plan | NoPlan | None,
    seconds: StepSeconds | None,
) -> str:
    """Formats an estimate.

    Args:
        request: The request.
        found: Its estimate.
        alternative: Plan of the same batch within the card or the given budget; None if not asked for.
        seconds: Of a step, an evaluation and a generation; None where the card's speed is not known.
    """
    placed = [_share(found, request, seconds), *([_planned(request, alternative)] if alternative is not None else [])]
    notes = [f"note: {text}" for text in (f"margin: {found.margin.basis}", *found.warnings)]
    times = _times(request, seconds)
    return "\n\n".join(
        [_asked(request, found), _bars(found), _totals(found), times, "\n".join(placed), "\n".join(notes)]
    )


def _times(request: MemoryRequest, seconds: StepSeconds | None) -> str:
    if seconds is None:
        return f"time: not known: the speed of {request.gpu.name} is not; name a GPU model with --gpu"
    step, dev = seconds.step, seconds.evaluate + seconds.generate
    thousand_s = step.total_s * 1000 / request.batch_size
    dev_thousand_s = dev.total_s * 1000 / request.generation_batch_size
    dialogues = "1,000 dialogues"
    return "\n".join(
        [
            f"step        {_short(step.total_s):>9}  {format_duration(thousand_s)} for {dialogues}; bound by"
            f" {step.bound}; keeps {seconds.busy:.0%} of the card busy",
            f"evaluation  {_short(dev.total_s):>9}  loss and summaries of {request.generation_batch_size}"
            f" dialogues; {format_duration(dev_thousand_s)} for {dialogues}; bound by {dev.bound}",
            f"seconds are those of the longest texts, predicted by a roofline ({seconds.source})",
        ]
    )


def _asked(request: MemoryRequest, found: MemoryEstimate) -> str:
    model = request.model
    head = "own output head" if model.untied else "tied output head"
    pieces = request.gradient_accumulation_steps
    batch = f"batch {request.batch_size}"
    batch += f" as {request.micro_batch} x {pieces}" if pieces > 1 or request.ranks > 1 else ""
    batch += f" on each of {request.ranks} cards" if request.ranks > 1 else ""
    batch += " that the model is divided among" if request.sharding is not None else ""
    options = [request.precision, request.optimizer, request.attention]
    if request.adapter is not None:
        options.insert(0, f"an adapter of rank up to {request.adapter['adapter_r']}, all else frozen")
    options += ["gradient checkpointing"] if request.gradient_checkpointing else []
    options += ["label smoothing"] if request.label_smoothing else []
    generation = f"dev loss of {request.loss_batch} at once, generation of {request.new_tokens} tokens for"
    generation += f" {request.generation_batch_size} at once"
    beams = f"{request.num_beams} beams" if request.num_beams > 1 else "greedy"
    data = f"replayed with the lengths of {len(request.lengths):,} dialogues" if request.lengths else ""
    return "\n".join(
        [
            f"{model.name} ({model.family}, {found.model_parameters:,} parameters, {head}) on {_card(found.gpu)}",
            f"{batch}, lengths {request.encoder_max_len} + {request.decoder_max_len}, {', '.join(options)}",
            f"{generation}, {beams}",
            *([data] if data else []),
        ]
    )


def _card(gpu: GpuProfile) -> str:
    return gpu.name if gpu.name.startswith("GPU with") else f"{gpu.name} ({format_bytes(gpu.total_bytes)})"


def _bars(found: MemoryEstimate) -> str:
    largest = max(found.terms.values())
    width = max(len(name) for name in found.terms)
    lines = []
    for name, term_bytes in found.terms.items():
        if not term_bytes:
            continue
        bar = "█" * max(1, round(BAR_WIDTH * term_bytes / largest))
        lines.append(f"{name:<{width}}  {format_bytes(term_bytes):>9}  {bar:<{BAR_WIDTH}}  {_EXPLAINED[name]}")
    return "\n".join(lines)


def _totals(found: MemoryEstimate) -> str:
    rows = [
        ("device", found.device_bytes, f"at the peak, which is in {found.peak_phase}"),
        ("upper", found.upper_bytes, f"with a margin of {found.margin.fraction:.1%}: what is placed and enforced"),
        (
            "training",
            found.train_reserved_bytes,
            f"reserved, of which {format_bytes(found.train_allocated_bytes)} in use",
        ),
        (
            "generation",
            found.generate_reserved_bytes,
            f"reserved, of which {format_bytes(found.generate_allocated_bytes)} in use",
        ),
    ]
    return "\n".join(f"{name:<10}  {format_bytes(size):>9}  {text}" for name, size, text in rows)


def _share(found: MemoryEstimate, request: MemoryRequest, seconds: StepSeconds | None) -> str:
    gpu, share = found.gpu, share_on(found, request.ranks)
    upper, usable = format_bytes(found.upper_bytes), format_bytes(gpu.usable_bytes)
    if share is None:
        missing = format_bytes(found.upper_bytes - gpu.usable_bytes)
        return f"does not fit on {gpu.name}: {upper} are {missing} more than the {usable} that a trial can use"
    if request.ranks > 1:
        filled = f"on each {upper} of the {usable} that trials can use are filled"
        has = "the whole model" if request.sharding is None else "its part of the model"
        return f"share: {share}, held whole, as each has {has}; {filled}"
    tenants = int(1 / share.gpus)
    why = f"{upper} are {found.gpu_fraction:.1%} of the {usable} that trials can use"
    if tenants > 1:
        together = f"{tenants} such trials fit beside each other"
        if seconds is not None:
            slowdown = max(1.0, tenants * seconds.busy)
            together += f" and would each take {slowdown:.1f} times as long as alone"
        return f"share: {share}, as {why}, rounded up to a class of shares that tile a card; {together}"
    return f"share: {share}, as {why}"


def _planned(request: MemoryRequest, found: Plan | NoPlan) -> str:
    if isinstance(found, NoPlan):
        return f"plan: {found}"
    how = f" on each of {request.ranks} cards" if request.ranks > 1 else ""
    how += " with gradient checkpointing" if found.gradient_checkpointing else ""
    return (
        f"plan: batch {request.batch_size} as {found.micro_batch} x {found.accumulation}{how}, upper"
        f" {format_bytes(found.upper_bytes)}; {found.reason}"
    )


def as_json(
    request: MemoryRequest,
    found: MemoryEstimate,
    alternative: Plan | NoPlan | None,
    seconds: StepSeconds | None,
) -> dict[str, object]:
    """Returns an estimate as JSON values, all sizes in bytes.

    Args:
        request: The request.
        found: Its estimate.
        alternative: As for as_text.
        seconds: As for as_text.
    """
    share = share_on(found, request.ranks)
    return {
        "model": request.model.name,
        "family": request.model.family,
        "untied_head": request.model.untied,
        "model_parameters": found.model_parameters,
        "batch_size": request.batch_size,
        "micro_batch": request.micro_batch,
        "gradient_accumulation_steps": request.gradient_accumulation_steps,
        "ranks": request.ranks,
        "layout": request.layout,
        "loss_batch": request.loss_batch,
        "generation_batch": request.generation_batch_size,
        "encoder_max_len": request.encoder_max_len,
        "decoder_max_len": request.decoder_max_len,
        "dialogues_replayed": len(request.lengths),
        "precision": request.precision,
        "train_allocated_bytes": found.train_allocated_bytes,
        "train_reserved_bytes": found.train_reserved_bytes,
        "evaluate_allocated_bytes": found.evaluate_allocated_bytes,
        "generate_allocated_bytes": found.generate_allocated_bytes,
        "generate_reserved_bytes": found.generate_reserved_bytes,
        "context_bytes": found.context_bytes,
        "device_bytes": found.device_bytes,
        "upper_bytes": found.upper_bytes,
        "margin": found.margin.fraction,
        "margin_basis": found.margin.basis,
        "margin_peaks": found.margin.count,
        "gpu": found.gpu.name,
        "gpu_total_bytes": found.gpu.total_bytes,
        "gpu_usable_bytes": found.gpu.usable_bytes,
        "gpu_fraction": round(found.gpu_fraction, 6),
        "gpu_share": share.gpus if share is not None else None,
        "fits": found.fits,
        "peak_phase": found.peak_phase,
        "terms": found.terms,
        **_seconds_json(seconds),
        "template": found.template,
        "plan": _plan_json(alternative),
        "warnings": list(found.warnings),
    }


def _plan_json(found: Plan | NoPlan | None) -> dict[str, object] | None:
    if found is None:
        return None
    if isinstance(found, NoPlan):
        return {"fits": False, "smallest_bytes": found.smallest_bytes, "remedies": list(found.remedies)}
    return {
        "fits": True,
        "micro_batch": found.micro_batch,
        "gradient_accumulation_steps": found.accumulation,
        "gradient_checkpointing": found.gradient_checkpointing,
        "upper_bytes": found.upper_bytes,
        "slowdown": round(found.slowdown, 4),
        "reason": found.reason,
    }


def _short(duration_s: float) -> str:
    return f"{duration_s * 1000:.0f} ms" if duration_s < 1 else format_duration(duration_s)


def _seconds_json(seconds: StepSeconds | None) -> dict[str, object]:
    """Returns the seconds of a step and of a dev batch; null where they are not known."""
    if seconds is None:
        names = ("step_s", "evaluation_s", "generation_s", "busy", "bound", "step_flops", "step_moved_bytes")
        return {**dict.fromkeys(names), "seconds_source": None}
    return {
        "step_s": seconds.step.total_s,
        "evaluation_s": (seconds.evaluate + seconds.generate).total_s,
        "generation_s": seconds.generate.total_s,
        "busy": seconds.busy,
        "bound": seconds.step.bound,
        "step_flops": seconds.step.flops,
        "step_moved_bytes": seconds.step.moved_bytes,
        "seconds_source": seconds.source,
    }
