"""The parameters of a sweep file before they are checked: groups flattened, other trainers' names translated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dialsum.aliases import SECTIONS, Ignored, Piece, Refused, To, find_alias
from dialsum.translation import Setting, Translation, is_ours, translate_settings
from tune_jobs.config.fields import FIELDS
from tune_jobs.config.file_keys import Specification
from tuning_common.errors import Problems
from tuning_common.strict import KeyPath, Located

SPEC_KEYS = tuple(Specification.__annotations__)
_CONTEXT = ("gradient_accumulation_steps", "eval_steps", "early_stopping_patience")  # read together with theirs
_HALF = {"fp16": {True: "fp16", False: "fp32"}, "bf16": {True: "bf16", False: "fp32"}}


@dataclass(kw_only=True)
class Entry:
    """One parameter of the file, before validation.

    Attributes:
        name: Its name in the file; after translation ours.
        spec: Its keys and values.
        path: Its path in the document.
        document: The sweep file.
        problems: Collects the problems.
    """

    name: str
    spec: Mapping[str, object]
    path: KeyPath
    document: Located
    problems: Problems

    def add(self, text: str, *at: str | int) -> None:
        """Adds a problem at the line of a key."""
        self.problems.add(f"{self.document.where(*self.path, *at)}: {self.name}: {text}")


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The parameters of a file.

    Attributes:
        entries: In the order of the file.
        notes: What was translated.
        micro_batches: Whether the batch size was given by device, so that accumulation multiplies it.
    """

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    micro_batches: bool = False

    def located(self, document: Located) -> Located:
        """Returns the document, in which each parameter has its line also by our name."""
        lines: dict[KeyPath, int] = {("parameters", one.name): document.lines.get(one.path, 1) for one in self.entries}
        return replace(document, lines=lines | dict(document.lines))


def is_parameter(key: str, value: object) -> bool:
    """Returns whether a key at the top of a sweep file is a parameter, or a section with some.

    >>> is_parameter("learning_rate", [1e-5]), is_parameter("training", {"fp16": True}), is_parameter("metod", "grid")
    (True, True, False)
    """
    return key in FIELDS or (key in SECTIONS and isinstance(value, dict)) or find_alias(key) is not None


def read_entries(document: Located, top: tuple[str, ...], problems: Problems) -> Entries:
    """Reads `parameters` and the parameters at the top of the file.

    Args:
        document: The sweep file.
        top: The keys at the top that are parameters.
        problems: Collects the problems.
    """
    raw, whole_file = document.mapping().get("parameters"), document.mapping()
    found: list[Entry] = []
    if isinstance(raw, dict) and raw:
        found += _flat({str(key): spec for key, spec in raw.items()}, ("parameters",), "", document, problems)
    elif not top:
        problems.add(
            f"{document.where('parameters')}: parameters must name at least one parameter, for example "
            "`parameters: {learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-4}}`"
        )
    found += _flat({key: whole_file[key] for key in top}, (), "", document, problems)
    return _translated(found, document, problems)


def _flat(
    raw: Mapping[str, object], path: KeyPath, section: str, document: Located, problems: Problems
) -> Iterator[Entry]:
    """Yields the parameters of a group; groups that are sections of other trainers become part of the name."""
    for key, spec in raw.items():
        name, inner = f"{section}{key}", (*path, key)
        entry = Entry(name=name, spec={}, path=inner, document=document, problems=problems)
        known = section or key.split(".")[0] in SECTIONS
        if isinstance(spec, list):
            yield replace(entry, spec={"values": spec})
        elif not isinstance(spec, dict):
            yield replace(entry, spec={"value": spec})
        elif isinstance(spec.get("parameters"), dict):
            if len(spec) > 1:
                entry.add("a group has `parameters` and nothing else")
            group = {str(one): item for one, item in spec["parameters"].items()}
            yield from _flat(group, (*inner, "parameters"), f"{name}." if known else "", document, problems)
        elif known and not set(spec) & set(SPEC_KEYS):
            group = {str(one): item for one, item in spec.items()}
            yield from _flat(group, inner, f"{name}.", document, problems)
        else:
            yield replace(entry, spec={str(one): value for one, value in spec.items()})


def _translated(found: list[Entry], document: Located, problems: Problems) -> Entries:
    ours, constants, searched = [], [], []
    for entry in found:
        alias = find_alias(entry.name)
        if alias is None or (entry.name in FIELDS and not isinstance(alias, To)):
            bare = entry.name.split(".")[-1]
            ours.append(replace(entry, name=bare if bare in FIELDS else entry.name))
        elif set(entry.spec) == {"value"}:
            constants.append(entry)
        else:
            searched.append(entry)
    order = {one.path: number for number, one in enumerate(found)}
    notes = [f"{one.name} -> {now.name}" for one, now in _renamed(found, ours)]
    left_out: list[str] = []
    micro_batches = any(
        one.name == "training.gradient_accumulation_steps" and set(one.spec) != {"value"} for one in found
    )
    for entry in searched:
        alias = find_alias(entry.name)
        micro_batches = micro_batches or (isinstance(alias, Piece) and alias.part == "micro_batch")
        target = _searched(entry, alias, problems)
        if target is not None:
            ours.append(target)
            notes += [] if is_ours(entry.name, target.name) else [f"{entry.name} -> {target.name}"]
            half = [one for one in constants if target.name == "precision" and one.name.endswith(("fp16", "bf16"))]
            constants = [one for one in constants if one not in half or one.spec["value"]]
        elif isinstance(alias, Ignored):
            left_out.append(f"{document.source}: {entry.name} is not searched: {alias.reason}")
    context = [one for one in ours if one.name in _CONTEXT and set(one.spec) == {"value"}]
    found_values = translate_settings([_setting(one) for one in (*context, *constants)], document, FIELDS)
    problems.extend(found_values.problems)
    ours += list(_constants(found_values, {one.name for one in context}, document, problems))
    ours, given_up = _without_weaker(ours, {one.path: one.name for one in found})
    left_out += [f"{document.source}: {text}" for text in given_up]
    texts = [*([f"{document.source}: read as ours: {', '.join(notes)}"] if notes else []), *left_out]
    texts += [text for text in found_values.notes(document.source) if constants]
    ours.sort(key=lambda one: order[one.path])
    return Entries(entries=tuple(ours), notes=tuple(texts), micro_batches=micro_batches)


def _without_weaker(ours: list[Entry], theirs: Mapping[KeyPath, str]) -> tuple[list[Entry], list[str]]:
    """Leaves out names that give way to another name of the same field; returns notes on them."""
    weak = [one for one in ours if getattr(find_alias(theirs[one.path]), "gives_way", False)]
    notes, kept = [], []
    for entry in ours:
        stronger = [one for one in ours if one.name == entry.name and one not in weak]
        if entry in weak and stronger:
            notes.append(f"{theirs[entry.path]} gives way to {theirs[stronger[0].path]}")
        else:
            kept.append(entry)
    return kept, notes


def _renamed(found: list[Entry], ours: list[Entry]) -> Iterator[tuple[Entry, Entry]]:
    by_path = {one.path: one for one in ours}
    for one in found:
        if one.path in by_path and by_path[one.path].name != one.name:
            yield one, by_path[one.path]


def _searched(entry: Entry, alias: object, problems: Problems) -> Entry | None:
    """Returns a searched parameter with our name and values; None where it is none of ours."""
    listed = entry.spec.get("values")
    if isinstance(alias, To):
        spec = {**entry.spec, "values": [alias.ours(value) for value in listed]} if isinstance(listed, list) else {}
        return replace(entry, name=alias.field, spec=spec or entry.spec)
    if isinstance(alias, Piece) and alias.part in ("micro_batch", "eval_steps"):
        return replace(entry, name="batch_size" if alias.part == "micro_batch" else "eval_steps")
    if isinstance(alias, Piece) and alias.part in _HALF and isinstance(listed, list):
        values = [_HALF[alias.part].get(value, value) for value in listed]
        return replace(entry, name="precision", spec={**entry.spec, "values": values})
    if isinstance(alias, Refused):
        entry.add(f"is refused: {alias.reason}")
    elif isinstance(alias, Piece):
        entry.add("cannot be searched; fix it with `value`, or leave it out")
    return None


def _constants(found: Translation, known: set[str], document: Located, problems: Problems) -> Iterator[Entry]:
    for name, value in found.values.items():
        sources = found.sources[name]
        if name not in known or any(one.name != name for one in sources):
            path = sources[0].path
            yield Entry(name=name, spec={"value": value}, path=path, document=document, problems=problems)


def _setting(entry: Entry) -> Setting:
    return Setting(name=entry.name, path=entry.path, value=entry.spec["value"])
