"""Translates a run configuration that was written for another trainer; see aliases for the names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dialsum.aliases import QLORA, SECTIONS, Ignored, Part, Piece, Refused, To, find_alias, our_metric
from tuning_common.strict import KeyPath, Located, dump_yaml

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
_FILES: Mapping[str, Part] = {"train": "train_file", "dev": "dev_file", "test": "test_file"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting of the file.

    Attributes:
        name: Its name there, with sections.
        path: Its keys in the document.
        value: Its value.
    """

    name: str
    path: KeyPath
    value: object

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.value)}"


@dataclass(kw_only=True, slots=True)
class Translation:
    """A translated configuration.

    Attributes:
        values: Our fields and their values; unknown keys as they are, for the reader to refuse.
        sources: Field -> the settings that gave it.
        ignored: Reason -> the names of settings without a meaning.
        problems: Settings that are refused or contradict, each with file and line.
    """

    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, tuple[Setting, ...]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was translated."""
        return bool(self.ignored or self.problems) or any(
            len(found) > 1 or not is_ours(found[0].name, name) for name, found in self.sources.items()
        )

    def located(self, document: Located) -> Located:
        """Returns the translated document; each value has the line of its source."""
        lines = {path: line for path, line in document.lines.items() if path and path[0] in self.values}
        lines |= {(name,): document.lines.get(found[0].path, 1) for name, found in self.sources.items()}
        return Located(data=self.values, lines={(): 1} | lines, source=document.source)

    def notes(self, source: str) -> tuple[str, ...]:
        """Returns one line on what was renamed, and one for each reason why something is ignored."""
        if not self.changed:
            return ()
        plain, others = [], []
        for name, found in self.sources.items():
            if len(found) == 1 and found[0].value == self.values[name]:
                same = found[0].name.split(".")[-1] == name or is_ours(found[0].name, name)
                plain += [] if same else [f"{found[0].name} -> {name}"]
            else:
                others.append(f"{' and '.join(map(str, found))} -> {name}: {_shown(self.values[name])}")
        texts = [f"{source}: read as ours: {', '.join(plain)}"] if plain else []
        texts += [f"{source}: {text}" for text in others]
        return (*texts, *(f"{source}: {', '.join(names)} ignored: {why}" for why, names in self.ignored.items()))


def as_file(found: Translation, source: str) -> str:
    """Returns a translated configuration as a file with our names, with a comment for each translation.

    >>> from tuning_common.strict import parse_yaml
    >>> document = parse_yaml("training: {num_train_epochs: 3, do_train: true}", "theirs.yaml")
    >>> print(as_file(translate(document, ("num_epochs",)), "theirs.yaml"), end="")
    # Translated from theirs.yaml.
    num_epochs: 3  # training.num_train_epochs: 3
    # no meaning here: training.do_train (every evaluation writes summaries and scores them)
    """
    lines = [f"# Translated from {source}."]
    for name, value in found.values.items():
        theirs = " and ".join(map(str, found.sources[name]))
        same = theirs == f"{name}: {_shown(value)}"
        lines.append(dump_yaml({name: value}, flow=True).strip()[1:-1] + ("" if same else f"  # {theirs}"))
    lines += [f"# no meaning here: {', '.join(names)} ({why})" for why, names in found.ignored.items()]
    return "\n".join(lines) + "\n"


def translate(document: Located, fields: tuple[str, ...]) -> Translation:
    """Translates a document to our fields.

    Args:
        document: A run configuration with our names or another trainer's, in sections or flat.
        fields: The names of our fields.

    >>> from tuning_common.strict import parse_yaml
    >>> text = "training: {per_device_train_batch_size: 8, gradient_accumulation_steps: 2, logging_steps: 10}"
    >>> found = translate(parse_yaml(text, "a.yaml"), ("batch_size", "gradient_accumulation_steps"))
    >>> found.values
    {'gradient_accumulation_steps': 2, 'batch_size': 16}
    """
    return translate_settings(flatten(document.mapping()), document, fields)


def translate_settings(settings: Iterable[Setting], document: Located, fields: tuple[str, ...]) -> Translation:
    """Translates settings of a document; see translate."""
    translator = _Translator(document, fields)
    given = list(settings)
    known = {setting.name: setting.value for setting in given}
    for setting in given:
        translator.take(replace(setting, value=_filled(setting.value, known)))
    translator.put_together()
    return translator.found


def flatten(values: Mapping[str, object], path: KeyPath = ()) -> Iterator[Setting]:
    """Yields the settings inside sections, with dotted names; other mappings are values."""
    for key, value in values.items():
        inner = (*path, key)
        name = ".".join(str(part) for part in inner)
        if isinstance(value, dict) and value and name.split(".")[0] in SECTIONS and key != "columns":
            yield from flatten({str(one): item for one, item in value.items()}, inner)
        else:
            yield Setting(name=name, path=inner, value=value)


def _filled(value: object, known: Mapping[str, object]) -> object:
    """Returns a value with `${section.name}` replaced, as OmegaConf and Hydra write it.

    >>> _filled("${paths.data_dir}/train.csv", {"paths.data_dir": "data"}), _filled("${oc.env:HOME}", {})
    ('data/train.csv', '${oc.env:HOME}')
    """
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole and whole[1] in known:
        return known[whole[1]]
    return _REFERENCE.sub(lambda found: str(known.get(found[1], found[0])), value)


class _Translator:
    def __init__(self, document: Located, fields: tuple[str, ...]) -> None:
        self._document, self._fields = document, fields
        self._weak: dict[str, Setting] = {}
        self._pieces: dict[Part, Setting] = {}
        self.found = Translation()

    def take(self, setting: Setting) -> None:
        """Translates one setting, or keeps it for put_together."""
        alias, bare = find_alias(setting.name), setting.name.split(".")[-1]
        if bare == "columns" and isinstance(setting.value, dict):
            self._give("columns", [f"{ours}={theirs}" for ours, theirs in setting.value.items()], setting)
            return
        if setting.name in self._fields and not (isinstance(alias, To) and alias.field == setting.name):
            self._give(setting.name, setting.value, setting)
            return
        if alias is None and "." in setting.name and bare in self._fields and setting.name.split(".")[0] in SECTIONS:
            alias = To(field=bare)
        if alias is None:
            self._give(setting.name, setting.value, setting)  # the reader refuses it
        elif setting.value is None and setting.name not in self._fields and not isinstance(alias, Ignored):
            self._ignore(setting, "null sets nothing")
        elif isinstance(alias, To):
            value = alias.ours(setting.value)
            if alias.gives_way:
                self._weak[alias.field] = Setting(name=setting.name, path=setting.path, value=value)
            else:
                self._give(alias.field, value, setting)
        elif isinstance(alias, Piece):
            self._pieces[alias.part] = setting
        elif isinstance(alias, Ignored) or setting.value in alias.unless:
            self._ignore(setting, alias.reason)
        else:
            self._refuse(setting, alias)

    def put_together(self) -> None:
        """Adds the fields that several settings give together."""
        for name, setting in self._weak.items():
            if name not in self.found.values or self.found.values[name] == setting.value:
                self._give(name, setting.value, setting)
            else:
                stronger = self.found.sources[name][0]
                self._ignore(setting, f"{stronger} decides")
        self._adapter()
        self._batch()
        self._precision()
        self._rhythm()
        self._metric()
        self._data()
        named = {"dialogue": self._pieces.get("text_column"), "summary": self._pieces.get("summary_column")}
        columns = {ours: one for ours, one in named.items() if one is not None}
        if columns:
            self._give("columns", [f"{ours}={one.value}" for ours, one in columns.items()], *columns.values())
        stops, subset = self._pieces.get("stops_early"), self._pieces.get("subset")
        if stops is not None and not stops.value:
            self.found.values.pop("early_stopping_patience", None)
            self._give("early_stopping_patience", None, stops, *self.found.sources.pop("early_stopping_patience", ()))
        elif stops is not None:
            self._ignore(stops, "early_stopping_patience alone decides")
        size = self._pieces.get("subset_size")
        if subset is not None and subset.value and size is not None:
            self._give("max_train_samples", size.value, subset, size)
        else:
            for one in filter(None, (subset, size)):
                self._ignore(one, "all dialogues are used")

    def _adapter(self) -> None:
        given = [found[0] for name, found in self.found.sources.items() if name.startswith("adapter_")]
        if self.found.values.get("adapter_type") == "qlora":
            del self.found.values["adapter_type"]
            self._refuse(self.found.sources.pop("adapter_type")[0], Refused(reason=QLORA))
        elif given and "adapter_type" not in self.found.values:
            self._give("adapter_type", "lora", given[0])  # the only type

    def _batch(self) -> None:
        micro = self._pieces.get("micro_batch")
        if micro is None:
            return
        pieces = self.found.values.get("gradient_accumulation_steps", 1)
        if not isinstance(micro.value, int) or not isinstance(pieces, int):
            self._give("batch_size", micro.value, micro)  # the reader refuses what is no number
            return
        self._give(
            "batch_size", micro.value * pieces, micro, *self.found.sources.get("gradient_accumulation_steps", ())
        )

    def _precision(self) -> None:
        half, brain = self._pieces.get("fp16"), self._pieces.get("bf16")
        given = [one for one in (half, brain) if one is not None]
        if not given:
            return
        if all(one.value for one in given) and len(given) == 2:
            self._contradict(given[0], given[1])
        chosen = next((one for one in given if one.value), None)
        self._give("precision", "fp32" if chosen is None else chosen.name.split(".")[-1], *given)

    def _rhythm(self) -> None:
        rhythm, steps = self._pieces.get("rhythm"), self._pieces.get("eval_steps")
        own = self.found.sources.get("eval_steps", ())
        if rhythm is not None and rhythm.value == "no":
            self._ignore(rhythm, "without evaluations there would be no best model: each epoch is evaluated")
        if rhythm is None or rhythm.value == "steps":
            if steps is not None:
                self._give("eval_steps", steps.value, *filter(None, (rhythm, steps)))
            elif rhythm is not None and not own:
                self._give("eval_steps", 500, rhythm)  # transformers' own
            return
        for one in filter(None, (steps, *own)):
            self._ignore(one, "each epoch is evaluated")
        for store in (self.found.values, self.found.sources):
            store.pop("eval_steps", None)
        if rhythm.value != "no":
            self._give("eval_steps", None, rhythm)

    def _metric(self) -> None:
        named = self._pieces.get("best_metric")
        if named is None:
            return
        ours = our_metric(str(named.value))
        if ours is None:
            self._give("metric", named.value, named)  # the reader refuses it, with the known ones
            return
        metric, weights = ours
        self._give("metric", metric, named)
        if metric == "eval/loss":
            self._give("goal", "minimize", named)
        if weights is not None:
            self._give("rouge_weights", list(weights), named)

    def _data(self) -> None:
        folder = self._pieces.get("folder")
        base = Path(str(folder.value)) if folder is not None else Path()
        named = any(part in self._pieces or part in self.found.values for part in _FILES.values())
        for stem, part in _FILES.items():
            file = self._pieces.get(part)
            if file is not None:
                name = Path(str(file.value))
                joined = base / name if folder is not None and name.parent == Path() else name
                self._give(part, str(joined), *filter(None, (folder if joined != name else None, file)))
            elif folder is not None and not named:
                path = next((one for one in (base / f"{stem}{end}" for end in _SUFFIXES) if one.exists()), None)
                if path is not None or stem != "test":
                    self._give(part, str(path or base / f"{stem}.csv"), folder)
        if folder is not None and not any(folder in found for found in self.found.sources.values()):
            self._ignore(folder, "the data files are named")

    def _give(self, name: str, value: object, *settings: Setting) -> None:
        if name in self.found.values and self.found.values[name] != value:
            self._contradict(self.found.sources[name][0], settings[0])
            return
        self.found.values[name] = value
        before = self.found.sources.get(name, ())
        self.found.sources[name] = (*before, *(one for one in settings if one not in before))

    def _ignore(self, setting: Setting, reason: str) -> None:
        self.found.ignored.setdefault(reason, []).append(setting.name)

    def _refuse(self, setting: Setting, alias: Refused) -> None:
        where = self._document.where(*setting.path)
        self.found.problems.append(f"{where}: {setting} is refused: {alias.reason}")

    def _contradict(self, one: Setting, other: Setting) -> None:
        where = self._document.where(*other.path)
        self.found.problems.append(f"{where}: {other} contradicts {one} ({self._document.where(*one.path)})")


def is_ours(name: str, target: str) -> bool:
    """Returns whether a name in the file is that of a field, also with the field's own section: `adapter: {r: 8}`."""
    return name.replace("adapter.", "adapter_") == target


def _shown(value: object) -> str:
    """Returns a value as in a file."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
