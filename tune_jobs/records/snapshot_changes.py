"""Differences between the snapshot of an experiment and the current state. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tune_jobs.records.redaction import HIDDEN
from tune_jobs.records.snapshot import FileState, Snapshot
from tuning_common.units import format_bytes

# Packages whose versions may change numbers; they are listed first.
_NUMERIC = frozenset(
    [
        *("torch", "transformers", "tokenizers", "accelerate", "numpy", "safetensors", "sentencepiece", "bitsandbytes"),
        *("triton", "kiwipiepy", "kiwipiepy-model", "rouge-score", "nltk"),
    ]
)
_ABSENT = "not there"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference.

    Attributes:
        what: Description for people, for example "package torch".
        before: Value in the snapshot.
        now: Current value.
        matters: Whether it may change the numbers of a training.
    """

    what: str
    before: str
    now: str
    matters: bool


def find_changes(before: Snapshot, now: Snapshot) -> tuple[Change, ...]:
    """Compares two snapshots; changes that may affect numbers come first.

    >>> from dataclasses import replace
    >>> from tune_jobs.records.surroundings import Surroundings
    >>> here = Snapshot(taken_at=0.0, surroundings=Surroundings(python="3.11.7", cards=["A100"]))
    >>> there = replace(here, surroundings=replace(here.surroundings, cards=["RTX 3090", "RTX 3090"]))
    >>> find_changes(here, there)
    (Change(what='GPUs', before='1 x A100', now='2 x RTX 3090', matters=True),)
    """
    found = [*_data(before, now), *_code(before, now), *_machine(before, now), *_packages(before, now)]
    return tuple(sorted(found, key=lambda change: not change.matters))


def find_edits(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[Change, ...]:
    """Compares the configuration at the start of an experiment with that in its folder; skips hidden values.

    They differ where a user edited the file, and where the trial continued with another memory plan after an
    out-of-memory.

    >>> find_edits({"seed": 0, "model": "t5"}, {"seed": 1, "model": "t5"})
    (Change(what='setting seed', before='0', now='1', matters=True),)
    """
    pairs = {f"setting {name}": (before.get(name), now.get(name)) for name in {**before, **now}}
    shown = {what: pair for what, pair in pairs.items() if HIDDEN not in str(pair[0])}
    return tuple(_pairs(shown, matters=True))


def _data(before: Snapshot, now: Snapshot) -> Iterator[Change]:
    for name, state in before.data.items():
        other = now.data.get(name)
        if other is None or other.sha256 != state.sha256:
            yield Change(what=f"data of {name}", before=_file(state), now=_file(other), matters=True)
    if before.model is not None and (now.model is None or now.model.sha256 != before.model.sha256):
        yield Change(what="the model to start from", before=_file(before.model), now=_file(now.model), matters=True)
    yield from _pairs({"revision of the model": (before.model_revision, now.model_revision)}, matters=True)


def _code(before: Snapshot, now: Snapshot) -> Iterator[Change]:
    one, other = before.code, now.code
    if one.commit is None or other.commit is None:
        if one.commit != other.commit:
            yield Change(
                what="commit",
                before=one.commit or f"not known: {one.reason}",
                now=other.commit or f"not known: {other.reason}",
                matters=True,
            )
        return
    yield from _pairs({"commit": (one.commit[:12], other.commit[:12])}, matters=True)
    yield from _pairs({"branch": (one.branch, other.branch)}, matters=False)
    if one.diff_sha256 != other.diff_sha256:
        yield Change(what="changes since the commit", before=_files(one.dirty), now=_files(other.dirty), matters=True)
    names = [name for name in {**one.untracked, **other.untracked} if name.endswith((".py", ".yaml", ".yml"))]
    changed = [name for name in names if one.untracked.get(name) != other.untracked.get(name)]
    if changed:
        then, here = ([name for name in changed if name in state.untracked] for state in (one, other))
        what = "files that git does not know"
        yield Change(what=what, before=_files(tuple(then)), now=_files(tuple(here)), matters=True)


def _machine(before: Snapshot, now: Snapshot) -> Iterator[Change]:
    one, other = before.surroundings, now.surroundings
    yield from _pairs(
        {
            "Python": (one.python, other.python),
            "torch build": (one.torch, other.torch),
            "CUDA of torch": (one.cuda, other.cuda),
            "cuDNN": (one.cudnn, other.cudnn),
            "GPUs": (_cards(one.cards), _cards(other.cards)),
            "NVIDIA driver": (one.driver, other.driver),
            "vector instructions": (one.cpu_capability, other.cpu_capability),
        },
        matters=True,
    )
    yield from _pairs({"processor": (one.cpu, other.cpu), "system": (one.platform, other.platform)}, matters=False)
    names = {**one.variables, **other.variables}
    yield from _pairs(
        {f"variable {name}": (one.variables.get(name), other.variables.get(name)) for name in names}, matters=False
    )


def _packages(before: Snapshot, now: Snapshot) -> Iterator[Change]:
    one, other = before.surroundings.packages, now.surroundings.packages
    for name in sorted({**one, **other}):
        if one.get(name) != other.get(name):
            here = (one.get(name) or _ABSENT, other.get(name) or _ABSENT)
            yield Change(what=f"package {name}", before=here[0], now=here[1], matters=name in _NUMERIC)


def _pairs(pairs: Mapping[str, tuple[object, object]], *, matters: bool) -> Iterator[Change]:
    for what, (before, now) in pairs.items():
        if before != now:
            yield Change(what=what, before=_text(before), now=_text(now), matters=matters)


def _text(value: object) -> str:
    return _ABSENT if value is None else "empty" if value == "" else str(value)


def _file(state: FileState | None) -> str:
    return _ABSENT if state is None else f"{state.sha256[:12]}, {format_bytes(state.size_bytes)}"


def _files(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "") if names else "none"


def _cards(cards: list[str]) -> str:
    counts = {name: cards.count(name) for name in cards}
    return ", ".join(f"{count} x {name}" for name, count in counts.items())
