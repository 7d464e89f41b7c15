"""Builds a model card as Markdown with the header that model hubs read: data, scores and scorer, settings, cost.

Pure. The caller passes the card through its redactor, because it must not contain secrets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dialsum.config import RunConfig
from dialsum.models import SPECS
from tune_jobs.report.markdown import markdown_table, plain
from tuning_common.strict import dump_yaml
from tuning_common.units import format_bytes, format_duration

_SCORES = {"rouge1_f1": "ROUGE-1", "rouge2_f1": "ROUGE-2", "rougeL_f1": "ROUGE-L", "rouge_combined_f1": "combined"}
_FILES = ("train_file", "dev_file", "test_file")
_NOT_SHOWN = (*_FILES, "cpu_threads", "dataloader_workers", "pin_memory")


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """A data file.

    Attributes:
        name: File name without its folder.
        dialogues: Number of dialogues; None if the file is gone or has changed.
        sha256: Hash of the content; empty if unknown.
        used: Number of leading dialogues that the run used; None for all.
    """

    name: str
    dialogues: int | None = None
    sha256: str = ""
    used: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCardFacts:
    """The content of a model card.

    Attributes:
        name: Name of the model.
        config: The configuration of training and generation.
        kind: "seq2seq" or "causal".
        begins: Whether the model reads a begin token before the dialogue.
        prompt: Text before and behind the dialogue of a causal model.
        adapter: Whether the folder has an adapter, without its base.
        dev: Scores of the best evaluation: `rouge1_f1` and the others, `loss`.
        test: Scores on the test data; empty where there were none.
        scorer: The scorer that computed the scores.
        data: Train, dev and test file.
        cost: Pairs of name and formatted value.
        versions: Versions of the packages that trained it.
        simulated: Whether its card was simulated.
    """

    name: str
    config: RunConfig
    kind: str
    begins: bool
    prompt: tuple[str, str] = ("", "")
    adapter: bool = False
    dev: Mapping[str, float]
    test: Mapping[str, float] = field(default_factory=dict)
    scorer: Mapping[str, str] | None = None
    data: Mapping[str, DataFacts] = field(default_factory=dict)
    cost: Sequence[tuple[str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False


def build_card(facts: ModelCardFacts) -> str:
    """Returns README.md for the folder of a model."""
    language = "Korean" if facts.config.language == "ko" else "English"
    packages = "`transformers`, `torch` and `peft`" if facts.adapter else "`transformers` and `torch`"
    sections = [
        f"---\n{dump_yaml(_header(facts))}---",
        f"# {plain(facts.name)}",
        f"Summarizes {language} dialogues. {_origin(facts.config.model)}",
        f"## Use\n\nNo other package than {packages} is needed; run this in the folder of the model:\n\n"
        f"```python\n{usage(facts)}```",
        "## Data\n\n" + _data(facts),
        "## Scores\n\n" + _scores(facts),
        "## How it was trained\n\n" + _settings(facts),
        "## Cost\n\n" + _cost(facts),
        "## Limits\n\n" + _limits(facts),
    ]
    return "\n\n".join(sections) + "\n"


def usage(facts: ModelCardFacts) -> str:
    """Returns Python that summarizes one dialogue with transformers alone, as this program does."""
    config, causal = facts.config, facts.kind == "causal"
    auto = "AutoModelForCausalLM" if causal else "AutoModelForSeq2SeqLM"
    imported = f"from transformers import {auto}, AutoTokenizer"
    if facts.adapter:  # loads its base too
        auto = auto.replace("Auto", "AutoPeft")
        imported = f"from peft import {auto}\nfrom transformers import AutoTokenizer"
    room = str(config.encoder_max_len - (0 if causal else 1) - int(facts.begins))
    ids = f"tokenizer(dialogue, add_special_tokens=False)['input_ids'][:{room}]"
    if causal:
        encoded = [f"tokenizer({text!r}, add_special_tokens=False)['input_ids']" for text in facts.prompt]
        lines = [f"prompt = {encoded[1]}"]
        before = ""
        if facts.prompt[0]:
            lines.insert(0, f"before = {encoded[0]}")
            before, room = "before + ", f"{room} - len(before)"
        cut = f"tokenizer(dialogue, add_special_tokens=False)['input_ids'][: {room} - len(prompt)]"
        lines.append(f"ids = {before}{cut} + prompt")
    else:
        begin = "[tokenizer.bos_token_id] + " if facts.begins else ""
        lines = [f"ids = {begin}{ids} + [tokenizer.eos_token_id]"]
    beams = f", num_beams={config.num_beams}, length_penalty={config.length_penalty}, early_stopping=True"
    shortest = f"min_new_tokens={config.generation_min_len}" if config.generation_min_len else "min_length=0"
    sampling = "do_sample=False"
    if config.do_sample:
        sampling = f"do_sample=True, temperature={config.temperature}, top_k={config.top_k}, top_p={config.top_p}"
    return f"""import re
import torch
{imported}

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto}.from_pretrained(folder).eval()
dialogue = "#Person1#: ...\\n#Person2#: ..."  # one turn a line; placeholders such as #Person1# stay whole
{chr(10).join(lines)}
inputs = torch.tensor([ids])
written = model.generate(
    input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens={config.summary_max_len},
    no_repeat_ngram_size={config.no_repeat_ngram_size}, {sampling}, {shortest},
    repetition_penalty={config.repetition_penalty},
    pad_token_id=tokenizer.pad_token_id{beams if config.num_beams > 1 else ", num_beams=1"},
)[0]{"[len(ids):]" if causal else ""}
# skip_special_tokens=True would drop placeholders of some tokenizers
added = tokenizer.added_tokens_decoder
pattern = re.compile(r"<[^<>\\s]+>|\\[[A-Z]+\\]")
special_ids = {{i for i, token in added.items() if token.special and pattern.fullmatch(token.content)}}
kept = [i for i in written.tolist() if i not in special_ids and i not in tokenizer.all_special_ids]
summary = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()
print(summary)
"""


def _header(facts: ModelCardFacts) -> dict[str, object]:
    header: dict[str, object] = {
        "language": facts.config.language,
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "summarization",
        "tags": ["dialogue-summarization"],
    }
    base = SPECS[facts.config.model].hub_id if facts.config.model in SPECS else facts.config.model
    if base is not None and base.count("/") == 1 and not base.startswith((".", "/")):
        header["base_model"] = base.partition("@")[0]
    return header


def _origin(model: str) -> str:
    if model in SPECS and SPECS[model].hub_id is None:
        return f"A small {SPECS[model].architecture} trained from random weights: for trying things out, not for use."
    named = SPECS[model].hub_id if model in SPECS else model.rstrip("/").rsplit("/", 1)[-1] if "/" in model else model
    return f"Fine-tuned from {plain(str(named))}."


def _data(facts: ModelCardFacts) -> str:
    rows = []
    for name, one in facts.data.items():
        count = "not known" if one.dialogues is None else f"{one.dialogues:,}"
        if one.used is not None and (one.dialogues is None or one.used < one.dialogues):
            count = f"the first {one.used:,} of {count}"
        rows.append((name.removesuffix("_file"), one.name, count, f"`{one.sha256[:16]}`" if one.sha256 else ""))
    return markdown_table(("", "File", "Dialogues", "SHA-256"), rows) if rows else "Not known."


def _scores(facts: ModelCardFacts) -> str:
    sets = [("dev, by which it was chosen", facts.dev), ("test", facts.test)]
    rows = [
        (name, *(f"{scores[key]:.2f}" if key in scores else "" for key in _SCORES)) for name, scores in sets if scores
    ]
    extreme = "lowest" if facts.config.goal == "minimize" else "highest"
    weights = " / ".join(f"{weight:g}" for weight in facts.config.rouge_weights)
    scorer = facts.scorer
    if scorer is None:
        counted = "The scorer is not recorded, so the scores cannot be compared with others."
    else:
        counted = (
            f"F1, 0 to 100, mean over references. Scorer: {scorer.get('tokenizer', '?')}"
            f" {scorer.get('tokenizer_version', '?')} ({scorer.get('tokenizer_model', '?')}), rouge_score"
            f" {scorer.get('rouge_score_version', '?')}; scores of other scorers are not comparable."
        )
        counted = plain(counted)
    combined = f"Combined: ROUGE-1 / 2 / L weighted {weights}."
    chosen = f"Of all evaluations of the training this one has the {extreme} {facts.config.metric}."
    return f"{markdown_table(('', *_SCORES.values()), rows)}\n\n{chosen} {counted} {combined}"


def _settings(facts: ModelCardFacts) -> str:
    shown = {name: value for name, value in facts.config.to_dict().items() if name not in _NOT_SHOWN}
    if facts.config.model not in SPECS or SPECS[facts.config.model].hub_id is not None:
        shown = {name: value for name, value in shown.items() if not name.startswith("tiny_")}
    if facts.config.adapter_type is None:
        shown = {name: value for name, value in shown.items() if not name.startswith("adapter_")}
    table = markdown_table(("Setting", "Value"), [(name, _exact(value)) for name, value in shown.items()])
    made = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return f"{table}\n\nMade with {plain(made)}." if made else table


def _exact(value: object) -> str:
    """Formats a setting exactly.

    >>> _exact(4.6883e-03), _exact((0.3, 0.7)), _exact(None), _exact(False)
    ('0.0046883', '0.3, 0.7', 'null', 'false')
    """
    if isinstance(value, (list, tuple)):
        return ", ".join(_exact(item) for item in value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _cost(facts: ModelCardFacts) -> str:
    if not facts.cost:
        return "Not recorded."
    table = markdown_table(("", ""), facts.cost)
    simulated = "\n\nThe card was simulated: the training ran on a CPU." if facts.simulated else ""
    return table + simulated


def _limits(facts: ModelCardFacts) -> str:
    config = facts.config
    lines = [
        f"* Reads the first {config.encoder_max_len} tokens of a dialogue and writes at most {config.summary_max_len}.",
        "* Summaries may be wrong in names, numbers and who did what: ROUGE counts words, not truth.",
        "* Licence: not stated here. The licences of the base model and of the data apply.",
    ]
    return "\n".join(lines)


def cost_rows(
    *, wall_s: float, gpu_s: float, gpu_model: str | None, share: float, peak_bytes: float | None, search: str
) -> list[tuple[str, str]]:
    """Formats the cost of a model.

    Args:
        wall_s: Seconds of its own training.
        gpu_s: GPU seconds of its own training.
        gpu_model: GPU model of its card.
        share: Share of the card that it held.
        peak_bytes: Highest device memory; None if not measured.
        search: Cost of the whole search; empty for a single run.

    >>> cost_rows(wall_s=90.0, gpu_s=45.0, gpu_model="A100", share=0.5, peak_bytes=None, search="")
    [('Training', '1 min 30 s'), ('GPU time', '0.0125 hours'), ('Card', '0.5 of A100')]
    """
    rows = [("Training", format_duration(wall_s))]
    if gpu_s:
        rows.append(("GPU time", f"{gpu_s / 3600:.3g} hours"))
    if gpu_model:
        rows.append(("Card", f"{share:g} of {gpu_model}"))
    if peak_bytes:
        rows.append(("Device memory, measured", format_bytes(peak_bytes)))
    if search:
        rows.append(("The search that found it", search))
    return rows
