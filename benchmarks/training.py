"""Compares this product's training loop with transformers' plain trainer on DialogSum; writes training.md.

`python -m benchmarks.training` trains three small models on the first dialogues of DialogSum for the same number of
updates with both, one after the other in one process, and with torch's profiler once each. Results are kept in
outputs/benchmarks/training.jsonl: what is there is not run again, and `--page` writes the page from it alone. Reads
../shared/data/dialogsum, which is not a part of this project. About fifteen minutes on a quiet core.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.pages import page_parser, table
from benchmarks.training_run import (
    DATA,
    ROOT,
    Measured,
    Purpose,
    System,
    TrainingRun,
    machine,
    read_results,
    start_missing,
)
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import write_text

RESULTS = ROOT / "outputs/benchmarks/training.jsonl"
FAMILIES = ("tiny-bart", "tiny-gpt2", "tiny-t5")
VARIANTS: Mapping[str, tuple[System, Mapping[str, object]]] = {
    "plain": ("plain", {}),
    "`dialsum`": ("dialsum", {}),
    "`dialsum`, the model's own loss": ("own_loss", {}),
    "plain, padded": ("plain_padded", {}),
}
COMPARED = tuple(VARIANTS)[1:3]
SEEDS = (0, 1, 2)
STEPS = 10
BATCH = 16
KINDS: Mapping[str, tuple[str, ...]] = {  # of operations in a profile, by parts of their names; the first that fits
    "matrix products": ("mm", "linear", "matmul"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "loss over the vocabulary": ("log_softmax", "nll_loss", "amax", "exp_", "sub_", "scatter_add", "CrossEntropy"),
    "optimizer and clipping": ("adam", "foreach", "norm_", "linalg_vector_norm"),
    "copies and fills": ("copy_", "fill_", "zero_", "cat", "embedding"),
    "other element-wise operations": ("",),
}


def run_of(family: str, variant: str, seed: int, *, purpose: Purpose = "time") -> TrainingRun:
    """Returns a run: one pass over the first dialogues."""
    system, changes = VARIANTS[variant]
    config = {
        "model": family, "language": "en", "train_file": str(DATA / "dialogsum.train.jsonl"),
        "dev_file": str(DATA / "dialogsum.dev.jsonl"), "max_train_samples": STEPS * BATCH, "max_eval_samples": 64,
        "batch_size": BATCH, "max_steps": STEPS, "eval_steps": 10**6, "tiny_hidden_size": 128, "tiny_layers": 2,
        "tiny_vocab_size": 8000, "encoder_max_len": 512, "decoder_max_len": 128, "seed": seed, "precision": "fp32",
    } | dict(changes)  # fmt: skip
    return TrainingRun(system=system, config=config, purpose=purpose)


def groups() -> list[list[TrainingRun]]:
    """Lists what is run, the variants of a family in one process, each seed in another order."""
    names = ["plain", *COMPARED]
    found = [
        [run_of(family, names[(seed + place) % len(names)], seed) for place in range(len(names))]
        for seed, family in itertools.product(SEEDS, FAMILIES)
    ]
    found += [[run_of(family, name, 0, purpose="profile") for name in names] for family in FAMILIES]
    return found + [[run_of(family, "plain, padded", 0)] for family in FAMILIES]


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--page", action="store_true", help="write the page from the results so far")
    chosen = parser.parse_args()
    if not (ROOT / DATA).exists():
        raise RequestError(f"needs DialogSum in {ROOT / DATA}; see --help")
    found = read_results(RESULTS) if chosen.page else start_missing(groups(), RESULTS)
    write_text(chosen.output, page(found))
    note(f"written to {chosen.output}")


def page(found: Mapping[str, Measured]) -> str:
    """Returns the page."""
    keys = [run.key for group in groups() for run in group]
    missing = sum(key not in found for key in keys)
    gaps = f" **{missing} of {len(keys)} runs are missing.**" if missing else ""
    rows = list(itertools.product(FAMILIES, COMPARED))
    ratios, losses = (
        table(head, [row(found, *one) for one in rows]) for head, row in ((_HEAD, _row), (_LOSS_HEAD, _loss_row))
    )
    profiled = _profile_rows(found)
    profile = table(["model", "system", *KINDS, "outside"], profiled) if profiled else "The runs are missing."
    return f"""# Training: samples per CPU second beside the plain trainer

Made by `python -m benchmarks.training` on {machine()}. GPUs are *not measured*.{gaps}

Both train the same {STEPS * BATCH} dialogues of DialogSum once, in {STEPS} updates of {BATCH}, from the same
weights, in fp32, with the same peak learning rate, warm-up, weight decay, clipping and dropout: models of 2 layers
(of encoder and decoder each), width 128 and a vocabulary of up to 8,000. *plain* is `Seq2SeqTrainer` with its
defaults and `DataCollatorForSeq2Seq`: random order, each batch padded to its own longest. *padded* is the same on
data padded to 512 and 128 tokens, as many examples do. Times are from the first step's begin to the last one's end,
without evaluation and saving.

{ratios}

*CPU*, *user*, *wall*: seconds of plain / seconds of `dialsum`, the median over seeds (smallest to largest). *with
imports*: CPU of the whole process. *padded tokens*: positions of all batches, likewise. Goal: 1.5 in *CPU*.

## Equal losses

The order of dialogues differs, so losses cannot be equal bit by bit. The table has the dev loss (64 dialogues, the
model's own loss, mean over tokens) after the same number of samples. *equal*: the mean difference is within the
spread between plain's own seeds. At one and the same batch loss and gradient are equal within fp32's rounding
(`tests/dialsum/test_step.py`).

{losses}

## Where the time goes

Self time of operations in torch's profiler, seconds over the whole run, seed 0. *outside* is the rest of an
unprofiled run's CPU: Python, data, trainer. It can be negative, as the profiler itself slows operations down.

{profile}
"""


_HEAD = ["model", "system", "CPU", "user", "wall", "with imports", "padded tokens", "CPU, plain on padded data"]
_LOSS_HEAD = ["model", "system", "plain", "spread of its seeds", "this", "difference", "equal"]


def _pairs(found: Mapping[str, Measured], family: str, variant: str) -> list[tuple[Measured, Measured]]:
    keys = [(run_of(family, "plain", seed).key, run_of(family, variant, seed).key) for seed in SEEDS]
    return [(found[plain], found[ours]) for plain, ours in keys if plain in found and ours in found]


def _row(found: Mapping[str, Measured], family: str, variant: str) -> list[str]:
    pairs = _pairs(found, family, variant)
    if not pairs:
        return [family, variant, *["missing"] * (len(_HEAD) - 2)]
    parts: Sequence[Callable[[Measured], float]] = (
        lambda run: run.train_cpu_s,
        lambda run: run.train_user_s,
        lambda run: run.train_wall_s,
        lambda run: run.import_cpu_s + run.prepare_cpu_s + run.train_cpu_s,
        lambda run: run.padded_tokens,
    )
    padded = found.get(run_of(family, "plain, padded", 0).key)
    against = f"{padded.train_cpu_s / pairs[0][1].train_cpu_s:.2f}" if padded else "missing"
    return [family, variant, *(_ratio([part(plain) / part(ours) for plain, ours in pairs]) for part in parts), against]


def _ratio(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed)"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _loss_row(found: Mapping[str, Measured], family: str, variant: str) -> list[str]:
    pairs = _pairs(found, family, variant)
    if not pairs:
        return [family, variant, *["missing"] * (len(_LOSS_HEAD) - 2)]
    plain, ours = ([pair[side].dev_loss for pair in pairs] for side in (0, 1))
    spread, difference = max(plain) - min(plain), statistics.mean(ours) - statistics.mean(plain)
    equal = "yes" if abs(difference) <= spread else "no" if difference > 0 else "lower"
    means = [f"{statistics.mean(plain):.4f}", f"{spread:.4f}", f"{statistics.mean(ours):.4f}"]
    if len(pairs) == 1:
        means[1] = equal = "missing"
    return [family, variant, *means, f"{difference:+.4f}", equal]


def _profile_rows(found: Mapping[str, Measured]) -> list[list[str]]:
    rows = []
    for family, variant in itertools.product(FAMILIES, ("plain", *COMPARED)):
        profiled = found.get(run_of(family, variant, 0, purpose="profile").key)
        timed = found.get(run_of(family, variant, 0).key)
        if profiled is None or timed is None:
            continue
        sums = dict.fromkeys(KINDS, 0.0)
        for name, seconds in profiled.operations.items():
            sums[next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))] += seconds
        rest_s = timed.train_cpu_s - sum(sums.values())
        rows.append([family, variant, *(f"{seconds:.2f}" for seconds in sums.values()), f"{rest_s:.2f}"])
    return rows


if __name__ == "__main__":
    main()
