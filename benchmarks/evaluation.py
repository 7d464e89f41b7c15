"""Times an evaluation beside Seq2SeqTrainer's `predict_with_generate`, on this machine's CPU; writes evaluation.md.

`python -m benchmarks.evaluation` has a small BART, T5 and GPT-2 summarize and score the same dev dialogues of DialogSum
with both evaluations, in turns, with one beam and with four. The other one is the trainer with its defaults (batches of
8 in the data's order) and `rouge_score` as people call it. The models have random weights, so that every summary is as
long as allowed. The dev loss is left out of both. Reads ../shared/data/dialogsum, which is not a part of this project.
What is measured stays below outputs/, and is not measured again.
"""

import cProfile
import inspect
import logging
import platform
import pstats
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import torch
from rouge_score.rouge_scorer import RougeScorer as PlainScorer
from transformers import Cache, LogitsProcessorList, Seq2SeqTrainer, Seq2SeqTrainingArguments

from benchmarks.pages import page_parser, table
from dialsum.config import RunConfig, load_run_config
from dialsum.encoding import pad
from dialsum.generate import generate_ids, summarize
from dialsum.metrics import RougeScorer
from dialsum.preparation import Prepared, prepare
from dialsum.tokenizers import decode
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import json_object, write_json, write_text
from tuning_common.strict import from_mapping

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data/dialogsum"
OUTPUT = ROOT / "outputs/benchmarks/evaluation"
CACHE = ROOT / ".cache/dialsum"
FAMILIES = ("tiny-bart", "tiny-t5", "tiny-gpt2")
BEAMS = (1, 4)
DIALOGUES = 96
ROUNDS = 1
KINDS = ("rouge1", "rouge2", "rougeL")
ITEMS = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation.

    Attributes:
        cpu_s: CPU seconds of generation and scoring.
        wall_s: Seconds.
        scoring_s: CPU seconds of the scoring.
        texts: Summaries in the order of the data.
        scores: Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 100.
    """

    cpu_s: float
    wall_s: float
    scoring_s: float
    texts: list[str]
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One model and its evaluations, in turns.

    Attributes:
        family: Of the model.
        beams: Of the search.
        plain: Of transformers' trainer.
        ours: Of this project.
        unshared: Of this project, with the cache that `generate` makes by itself; none without beams.
        profile: Part of our evaluation -> fraction of its time.
    """

    family: str
    beams: int
    plain: list[Evaluated]
    ours: list[Evaluated]
    unshared: list[Evaluated]
    profile: dict[str, float]


def timed(write: Callable[[], list[str]], score: Callable[[list[str]], list[float]]) -> Evaluated:
    """Summarizes and scores once."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    texts = write()
    generated_s = time.process_time()
    scores = score(texts)
    end_s = time.process_time()
    return Evaluated(
        cpu_s=end_s - cpu_s, wall_s=time.perf_counter() - wall_s, scoring_s=end_s - generated_s,
        texts=texts, scores=scores,
    )  # fmt: skip


def plain_writer(run: Prepared, config: RunConfig) -> Callable[[], list[str]]:
    """Returns what summarizes with Seq2SeqTrainer and its defaults, at the generation settings of a run."""
    sources, left = run.dev.sources, run.kind == "causal"
    filler = int(run.tokenizer.pad_token_id)

    def collate(items: Sequence[ITEMS]) -> dict[str, torch.Tensor]:
        rows = [item["input_ids"] for item in items]
        mask = pad([[1] * len(row) for row in rows], 0, left=left)
        return {"input_ids": pad(rows, filler, left=left), "attention_mask": mask}

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(OUTPUT / "trainer"), predict_with_generate=True, report_to=[], disable_tqdm=True, use_cpu=True
    )
    trainer = Seq2SeqTrainer(model=run.model, args=arguments, data_collator=collate)
    data = [{"input_ids": list(source)} for source in sources]
    size = arguments.per_device_eval_batch_size
    widths = [max(len(row) for row in sources[i - i % size :][:size]) if left else 0 for i in range(len(sources))]

    def write() -> list[str]:
        found = trainer.predict(
            data, max_new_tokens=config.summary_max_len, num_beams=config.num_beams, do_sample=False,
            early_stopping=config.num_beams > 1, no_repeat_ngram_size=config.no_repeat_ngram_size, min_length=0,
        )  # fmt: skip
        rows = [[index for index in row if index >= 0] for row in found.predictions.tolist()]
        return [decode(run.tokenizer, row[width:]) for row, width in zip(rows, widths, strict=True)]

    return write


def unshared_writer(run: Prepared, config: RunConfig) -> Callable[[], list[str]]:
    """Returns what summarizes as we do, except for the cache that the beams of a dialogue share."""
    sources, left = run.dev.sources, run.kind == "causal"
    filler = int(run.tokenizer.pad_token_id)
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))

    def write() -> list[str]:
        texts = [""] * len(sources)
        for start in range(0, len(order), config.generation_batch):
            chosen = order[start : start + config.generation_batch]
            inputs = pad([sources[index] for index in chosen], filler, left=left)
            mask = pad([[1] * len(sources[index]) for index in chosen], 0, left=left)
            found = generate_ids(run.model.eval(), inputs, mask, config, filler).tolist()
            width = inputs.shape[1] if left else 0
            for index, row in zip(chosen, found, strict=True):
                texts[index] = decode(run.tokenizer, row[width:])
        return texts

    return write


def plain_score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Scores as people do: a new scorer, which splits every text again."""
    scorer = PlainScorer(list(KINDS), use_stemmer=True)
    pairs = zip(texts, references, strict=True)
    found = [[scorer.score(target=one, prediction=text) for one in some] for text, some in pairs]
    return [fmean(fmean(100 * score[kind].fmeasure for score in scores) for scores in found) for kind in KINDS]


def compared(family: str, beams: int, rounds: int) -> Compared:
    """Runs both evaluations in turns; then ours once more under a profiler."""
    changes = {
        "model": family, "num_beams": beams, "generation_batch_size": None, "max_train_samples": 1000,
        "max_eval_samples": DIALOGUES,
    }  # fmt: skip
    files = {name: str(DATA / f"dialogsum.{name.partition('_')[0]}.jsonl") for name in ("train_file", "dev_file")}
    config = load_run_config(ROOT / "configs/dialogsum_cpu.yaml", changes | files)
    run = prepare(config, CACHE)
    sources = run.dev.sources
    references = [example.summaries for example in run.dev_examples]
    scorer = RougeScorer(config.language)  # a trainer keeps it, with the words of the references
    scorer.score(["none"] * len(references), references)

    def write() -> list[str]:
        return summarize(run.model, run.tokenizer, sources, config, run.kind)

    def score(texts: list[str]) -> list[float]:
        found = scorer.score(texts, references)
        return [found.rouge1_f1, found.rouge2_f1, found.rougeL_f1]

    plain_write = plain_writer(run, config)
    unshared_write = unshared_writer(run, config)
    plain, ours, unshared = [], [], []
    for _ in range(rounds):
        if beams > 1:
            unshared.append(timed(unshared_write, score))
        plain.append(timed(plain_write, lambda texts: plain_score(texts, references)))
        ours.append(timed(write, score))
    profiler = cProfile.Profile()
    profiler.enable()
    timed(write, score)
    profiler.disable()
    return Compared(
        family=family, beams=beams, plain=plain, ours=ours, unshared=unshared, profile=shares(profiler, run)
    )


def kept(family: str, beams: int, rounds: int) -> Compared:
    """Returns a comparison; makes it where there is none."""
    path = OUTPUT / f"{family}_{beams}.json"
    if not path.exists():
        write_json(path, asdict(compared(family, beams, rounds)))
    return from_mapping(Compared, json_object(path.read_bytes()))


def shares(profiler: cProfile.Profile, run: Prepared) -> dict[str, float]:
    """Returns the parts of our evaluation as fractions of its time; none of these functions calls another one."""
    model = type(run.model)
    encoder = [type(run.model.get_encoder()).forward] if run.kind == "seq2seq" else []
    parts: dict[str, list[Callable[..., object]]] = {
        "encoder": encoder,
        "decoder" if encoder else "model": [model.forward],
        "arguments and masks of a step": [
            model.prepare_inputs_for_generation, model._update_model_kwargs_for_generation
        ],
        "cache in the beams' sequence": [Cache.reorder_cache],
        "choice of tokens": [
            LogitsProcessorList.__call__, model._get_top_k_continuations, model._get_running_beams_for_next_iteration,
            model._update_finished_beams, model._check_early_stop_heuristic,
        ],
        "text of tokens": [decode],
        "ROUGE": [RougeScorer.score],
    }  # fmt: skip
    stats = pstats.Stats(profiler)
    seconds = {key: values[3] for key, values in stats.stats.items()}  # type: ignore[attr-defined]
    found = {name: sum(seconds.get(_key(one), 0.0) for one in some) for name, some in parts.items()}
    found["the rest of `generate`"] = stats.total_tt - sum(found.values())  # type: ignore[attr-defined]
    return {name: part_s / stats.total_tt for name, part_s in found.items()}  # type: ignore[attr-defined]


def _key(function: Callable[..., object]) -> tuple[str, int, str]:
    code = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def page(found: Sequence[Compared]) -> str:
    """Writes the tables."""
    head = ["model", "beams", "trainer, CPU s", "ours, CPU s", "ratio", "ratio of walls", "texts", "scores differ by"]
    rows = [[one.family, str(one.beams), *_cells(one)] for one in found]
    names = list(dict.fromkeys(name for one in found for name in one.profile))
    parts = [[name, *(f"{one.profile[name]:.0%}" if name in one.profile else "" for one in found)] for name in names]
    shared = [
        [one.family, str(one.beams), f"{_cpu_s(one.unshared):.1f}", f"{_cpu_s(one.ours):.1f}",
         f"{_cpu_s(one.unshared) / _cpu_s(one.ours):.2f}", _equal(one.unshared, one.ours)]
        for one in found if one.unshared
    ]  # fmt: skip
    ratios = [_cpu_s(one.plain) / _cpu_s(one.ours) for one in found]
    return f"""# An evaluation beside `predict_with_generate`

Made by `python -m benchmarks.evaluation` on {platform.machine()} with one thread, Python {platform.python_version()},
torch {version("torch")}, transformers {version("transformers")}, on a machine that other work shared:
{DIALOGUES} dev dialogues of DialogSum, rounds in turns: {len(found[0].ours)}, the smallest CPU seconds of each. The
models of configs/dialogsum_cpu.yaml with random weights, which write 48 tokens for every dialogue. *trainer* is
`Seq2SeqTrainer.predict` with `predict_with_generate` and its defaults, at the same generation settings, and
`rouge_score` as people call it; *ours* is what an evaluation of a run does. Both without the dev loss. **On GPUs *not
measured*.**{_missing(found)}

{table(head, rows)}

Goal: 3 x. Reached in CPU seconds: {min(ratios):.1f} to {max(ratios):.1f}. The two do the same products of matrices for
every token, one row for each beam: batches by length save padding and what a step costs beside them.

## What the beams of a dialogue share

The same evaluation, CPU seconds with the cache that `generate` makes and with ours (`dialsum.generate.beam_cache`):
keys and values of a dialogue are not copied at every token, and a causal model's prompt is read once for all beams.
Both have the same batches. The trainer's are others, which may round a score otherwise: where two tokens are as good
as equal, as with random weights, another text may follow.

{table(["model", "beams", "generate's cache", "ours", "ratio", "texts"], shared)}

## Where our time goes

Fractions of the time under a profiler, which makes small functions look slower than they are.

{table(["part", *(f"{one.family}, {one.beams}" for one in found)], parts)}
"""


def _missing(found: Sequence[Compared]) -> str:
    made = {one.family for one in found}
    names = ", ".join(family for family in FAMILIES if family not in made)
    return f" **Not measured here (`--models {' '.join(made)}`): {names}.**" if names else ""


def _cpu_s(some: Sequence[Evaluated]) -> float:
    return min(done.cpu_s for done in some)


def _equal(some: Sequence[Evaluated], others: Sequence[Evaluated]) -> str:
    pairs = list(zip(some[0].texts, others[0].texts, strict=True))
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)} equal"


def _cells(one: Compared) -> list[str]:
    plain, ours = (min(some, key=lambda done: done.cpu_s) for some in (one.plain, one.ours))
    difference = max(abs(a - b) for a, b in zip(plain.scores, ours.scores, strict=True))
    walls = min(done.wall_s for done in one.plain) / min(done.wall_s for done in one.ours)
    return [
        f"{plain.cpu_s:.1f}",
        f"{ours.cpu_s:.1f}",
        f"{plain.cpu_s / ours.cpu_s:.1f}",
        f"{walls:.1f}",
        _equal(one.plain, one.ours),
        f"{difference:.0e}" if difference else "0",
    ]


def main() -> None:
    """Compares and writes the page."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="how often each evaluation runs")
    parser.add_argument("--models", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="which are compared")
    chosen = parser.parse_args()
    if not DATA.is_dir():
        raise RequestError(f"needs {DATA}; see --help")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found = []
    for family in chosen.models:
        for beams in BEAMS:
            found.append(kept(family, beams, chosen.rounds))
            note(f"{family}, {beams} beams: {' | '.join(_cells(found[-1]))}")
    write_text(chosen.output, page(found))
    note(f"written to {chosen.output}")


if __name__ == "__main__":
    main()
