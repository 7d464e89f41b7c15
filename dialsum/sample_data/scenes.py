"""Scenes of dialogues, with several wordings and endings, from `scenes/*.yaml`.

A script is text with one turn per line:

    A 안녕하세요. | 어서 오세요.      speaker A says one of the wordings
    ?B 네, 처음이에요.               may be left out; neighbouring `?` lines stay or go together
    ~ A B                           may be filled by small talk: A begins, B answers

Words in braces are replaced: `{때}` by its value, `{때:은}` by its value and the right form of the particle,
`{A}` by the placeholder of speaker A. Values come from one row of `rows` and, for `slots`, from the named pool; slots
of one pool get different values.
"""

import dataclasses
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from tuning_common.strict import from_mapping, load_yaml

FOLDER = Path(__file__).parent / "scenes"
COMMON = "common.yaml"
Register = Literal["polite", "phone", "casual"]
_LINE = re.compile(r"(?P<optional>\??)(?P<speaker>[ABC]) (?P<text>.+)|~ (?P<first>[ABC]) (?P<second>[ABC])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """One ending of a scene, and its summary."""

    dialogue: str
    summary: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One topic. `slots` maps a slot to its pool; each of `rows` gives several slots values that belong together."""

    topic: str
    register: Register
    dialogue: str
    endings: tuple[Ending, ...]
    slots: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: tuple[dict[str, str], ...] = ({},)
    pools: dict[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SceneFile:
    scenes: list[Scene]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Pools of values, and small talk by register: one exchange per line, its two parts separated by `|`."""

    pools: dict[str, list[str]]
    small_talk: dict[Register, str]

    def exchanges(self, register: Register) -> list[tuple[str, str]]:
        """Returns the small talk of a register as pairs of remark and answer."""
        pairs = (line.split(" | ") for line in self.small_talk[register].splitlines())
        return [(first, second) for first, second in pairs]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a speaker, in several wordings."""

    speaker: str
    wordings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """Turns that are kept or left out together; without wordings, small talk fills them."""

    turns: tuple[Turn, ...]
    optional: bool = False

    @property
    def is_small_talk(self) -> bool:
        """Whether the wording comes from the register's small talk."""
        return not self.turns[0].wordings


@cache
def parse_script(text: str) -> tuple[Step, ...]:
    """Parses a script; see this module's docstring.

    >>> [(len(step.turns), step.optional) for step in parse_script("A 안녕. | 야.\\n?B 응.\\n?A 왜?\\n~ A B\\nB 그래.")]
    [(1, False), (2, True), (2, True), (1, False)]
    """
    steps: list[Step] = []
    in_block = False
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"no script line: {line!r}")
        if found["first"]:
            steps.append(Step((Turn(found["first"], ()), Turn(found["second"], ())), optional=True))
            in_block = False
            continue
        turn = Turn(found["speaker"], tuple(found["text"].split(" | ")))
        if found["optional"] and in_block:
            steps[-1] = Step((*steps[-1].turns, turn), optional=True)
        else:
            steps.append(Step((turn,), optional=bool(found["optional"])))
        in_block = bool(found["optional"])
    return tuple(steps)


@cache
def load_scenes() -> tuple[Scene, ...]:
    """Reads every scene of the package, in the order of the files' names."""
    files = sorted(path for path in FOLDER.glob("*.yaml") if path.name != COMMON)
    return tuple(scene for path in files for scene in _read(path))


@cache
def load_common() -> Common:
    """Reads the pools and the small talk that scenes share."""
    located = load_yaml(FOLDER / COMMON)
    return from_mapping(Common, located.mapping(), located=located)


def pool_of(scene: Scene, slot: str) -> Sequence[str]:
    """Returns the values that a slot may take: of the scene's own pool, else of the shared one."""
    name = scene.slots[slot]
    return scene.pools.get(name) or load_common().pools[name]


def _read(path: Path) -> list[Scene]:
    located = load_yaml(path)
    return from_mapping(_SceneFile, located.mapping(), located=located).scenes
