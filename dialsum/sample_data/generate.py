"""Draws dialogues and their summaries from the scenes: the same seed gives the same examples on every machine."""

import random
import re
from collections.abc import Iterator, Mapping
from itertools import cycle

from dialsum.data import Example
from dialsum.sample_data.particles import with_particle
from dialsum.sample_data.scenes import Ending, Scene, Step, Turn, load_common, load_scenes, parse_script, pool_of
from tuning_common.errors import RequestError

TRAIN_COUNT = 480
DEV_COUNT = 80
OPTIONAL_CHANCE = 0.5
SMALL_TALK_CHANCE = 0.35
MAX_TRIES = 400  # draws without a new dialogue after which a scene is exhausted
_BRACES = re.compile(r"\{(\w+)(?::(\w+))?\}")


def generate(
    *, seed: int, train_count: int = TRAIN_COUNT, dev_count: int = DEV_COUNT
) -> tuple[list[Example], list[Example]]:
    """Draws a training and a development set.

    Both have every topic equally often. No dialogue repeats, and no development dialogue has the story of a training
    dialogue (same topic, ending and values), so copying a known summary does not help.

    Args:
        seed: Seed of all draws.
        train_count: Training dialogues.
        dev_count: Development dialogues.

    Raises:
        RequestError: When the scenes do not have enough different dialogues.
    """
    drawn = random.Random(f"sample-data {seed}")  # a text seed gives the same numbers everywhere
    dialogues: set[str] = set()
    train_stories: set[str] = set()
    train = _draw_set(drawn, "train", train_count, dialogues, set(), train_stories)
    dev = _draw_set(drawn, "dev", dev_count, dialogues, train_stories, set())
    return train, dev


def _draw_set(
    drawn: random.Random, name: str, count: int, dialogues: set[str], avoided: set[str], stories: set[str]
) -> list[Example]:
    examples = []
    for number, scene in zip(range(count), _in_turn(drawn), strict=False):
        for _ in range(MAX_TRIES):
            dialogue, summary, story = draw_dialogue(scene, drawn)
            if dialogue not in dialogues and story not in avoided:
                break
        else:
            remedy = "ask for fewer dialogues, or add rows and endings to dialsum/sample_data/scenes"
            raise RequestError(
                f"topic {scene.topic!r} has no new dialogue after {number} of {count} for {name}; {remedy}"
            )
        dialogues.add(dialogue)
        stories.add(story)
        examples.append(Example(fname=f"{name}_{number}", dialogue=dialogue, summaries=(summary,), topic=scene.topic))
    return examples


def _in_turn(drawn: random.Random) -> Iterator[Scene]:
    scenes = list(load_scenes())
    drawn.shuffle(scenes)
    return cycle(scenes)


def draw_dialogue(scene: Scene, drawn: random.Random) -> tuple[str, str, str]:
    """Draws one dialogue of a scene.

    Returns:
        The dialogue, one turn per line; its summary; and the story: the summary with speakers by role, equal where two
        dialogues have the same content in other words.
    """
    values = _draw_values(scene, drawn)
    ending = drawn.choice(scene.endings)
    turns = list(_draw_turns(scene, ending, drawn))
    speakers: dict[str, str] = {}
    for turn in turns:  # #Person1# is the first speaker
        speakers.setdefault(turn.speaker, f"#Person{len(speakers) + 1}#")
    lines: list[tuple[str, str]] = []
    for turn in turns:
        text = fill(turn.wordings[0], values | speakers)
        if lines and lines[-1][0] == turn.speaker:  # an optional turn between was left out: merge the two
            lines[-1] = (turn.speaker, f"{lines[-1][1]} {text}")
        else:
            lines.append((turn.speaker, text))
    dialogue = "\n".join(f"{speakers[speaker]}: {text}" for speaker, text in lines)
    story = fill(ending.summary, values | {role: f"#Person{number}#" for number, role in enumerate("ABC", start=1)})
    return dialogue, fill(ending.summary, values | speakers), f"{scene.topic}: {story}"


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replaces words in braces by their values, with the right particle.

    >>> fill("{A:은} {곳:으로} {때} 떠난다.", {"A": "#Person2#", "곳": "부산", "때": "토요일에"})
    '#Person2#는 부산으로 토요일에 떠난다.'
    """
    return _BRACES.sub(
        lambda found: with_particle(values[found[1]], found[2]) if found[2] else values[found[1]],
        text,
    )


def _draw_values(scene: Scene, drawn: random.Random) -> dict[str, str]:
    values = dict(drawn.choice(scene.rows))
    taken: set[tuple[str, str]] = set()
    for slot, pool in scene.slots.items():
        value = drawn.choice([one for one in pool_of(scene, slot) if (pool, one) not in taken])
        taken.add((pool, value))
        values[slot] = value
    return values


def _draw_turns(scene: Scene, ending: Ending, drawn: random.Random) -> Iterator[Turn]:
    for step in parse_script(scene.dialogue + ending.dialogue):
        if step.is_small_talk:
            if drawn.random() < SMALL_TALK_CHANCE:
                yield from _small_talk(scene, step, drawn)
        elif not step.optional or drawn.random() < OPTIONAL_CHANCE:
            yield from (Turn(turn.speaker, (drawn.choice(turn.wordings),)) for turn in step.turns)


def _small_talk(scene: Scene, step: Step, drawn: random.Random) -> list[Turn]:
    exchange = drawn.choice(load_common().exchanges(scene.register))
    return [Turn(turn.speaker, (text,)) for turn, text in zip(step.turns, exchange, strict=True)]
