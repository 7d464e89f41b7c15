"""Sample dialogues: the same from the same seed, grammatical particles, disjoint sets, enough variety."""

import argparse
import dataclasses
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from dialsum.cleaning import PLACEHOLDER, PLACEHOLDER_NAMES, clean_text
from dialsum.data import Example, fingerprint, load_examples
from dialsum.sample_data import command
from dialsum.sample_data.generate import draw_dialogue, generate
from dialsum.sample_data.particles import WITHOUT_FINAL, with_particle
from dialsum.sample_data.scenes import FOLDER, Ending, Scene, load_common, load_scenes, parse_script, pool_of
from tuning_common.errors import RequestError

SCENES = {scene.topic: scene for scene in load_scenes()}
PARTICLES = sorted({*WITHOUT_FINAL, *WITHOUT_FINAL.values()}, key=len, reverse=True)


@pytest.fixture(scope="module")
def sets() -> tuple[list[Example], list[Example]]:
    return generate(seed=0)


def test_the_sets_have_their_sizes_topics_and_lengths(sets: tuple[list[Example], list[Example]]) -> None:
    train, dev = sets
    assert (len(train), len(dev)) == (480, 80)
    assert {example.topic for example in train} == {example.topic for example in dev} == set(SCENES)
    assert len(SCENES) == 38
    turns = Counter(example.dialogue.count("\n") + 1 for example in train + dev)
    assert min(turns) >= 6
    assert max(turns) <= 12
    assert len(turns) >= 5
    assert 200 < sum(len(example.dialogue) for example in train) / 480 < 300


def test_no_dialogue_comes_twice_and_no_dev_summary_was_trained(sets: tuple[list[Example], list[Example]]) -> None:
    train, dev = sets
    assert len({example.dialogue for example in train + dev}) == 560
    assert not {example.summaries for example in train} & {example.summaries for example in dev}


def test_one_seed_gives_one_set_on_every_machine(sets: tuple[list[Example], list[Example]]) -> None:
    assert generate(seed=0) == sets
    assert generate(seed=1)[0] != sets[0]
    assert fingerprint(sets[0])[:16] == "6b8f2921a50207de"
    assert fingerprint(sets[1])[:16] == "13ca0b93fb4e2c6d"


def test_speakers_are_numbered_in_the_order_in_which_they_speak(sets: tuple[list[Example], list[Example]]) -> None:
    counts = Counter[int]()
    for example in sets[0]:
        speakers = [line.split(": ", 1)[0] for line in example.dialogue.split("\n")]
        order = list(dict.fromkeys(speakers))
        assert order == [f"#Person{n}#" for n in range(1, len(order) + 1)]
        assert all(first != second for first, second in itertools.pairwise(speakers))
        counts[len(order)] += 1
    assert set(counts) == {2, 3}


def test_summaries_name_only_what_the_dialogue_holds(sets: tuple[list[Example], list[Example]]) -> None:
    for example in sets[0] + sets[1]:
        [summary] = example.summaries
        assert set(PLACEHOLDER.findall(summary)) <= set(PLACEHOLDER.findall(example.dialogue))
        assert summary.endswith("다.")
        assert clean_text(example.dialogue) == example.dialogue
        assert "{" not in example.dialogue + summary


def test_many_kinds_of_placeholders_occur(sets: tuple[list[Example], list[Example]]) -> None:
    found = {name for example in sets[0] for name in PLACEHOLDER.findall(example.dialogue)}
    assert {"#PhoneNumber#", "#Address#", "#CardNumber#", "#PassportNumber#", "#CarNumber#", "#Email#"} <= found
    assert {re.sub(r"\d", "", name.strip("#")) for name in found} <= set(PLACEHOLDER_NAMES)


def test_the_summary_depends_on_the_dialogue() -> None:
    """Same topic, other ending or values: another summary. Same story in other words: the same summary by roles."""
    drawn = random.Random(5)
    told = [draw_dialogue(SCENES["병원 예약"], drawn) for _ in range(200)]
    by_story = Counter(story for _, _, story in told)
    assert len(by_story) > 80
    assert len({dialogue for dialogue, _, _ in told}) > 190


@pytest.mark.parametrize(
    ("word", "particle", "result"),
    [
        ("병원", "은", "병원은"),
        ("학교", "은", "학교는"),
        ("택배", "이", "택배가"),
        ("서울", "으로", "서울로"),
        ("부산", "으로", "부산으로"),
        ("강릉", "과", "강릉과"),
        ("경주", "과", "경주와"),
        ("두 명", "이에요", "두 명이에요"),
        ("방 세 개", "이에요", "방 세 개예요"),
        ("#Person1#", "은", "#Person1#은"),
        ("#Person2#", "은", "#Person2#는"),
        ("#Person3#", "을", "#Person3#을"),
        ("#PhoneNumber#", "으로", "#PhoneNumber#로"),
        ("#Email#", "으로", "#Email#로"),
        ("2026", "이", "2026이"),
        ("2025", "이", "2025가"),
    ],
)
def test_particles_follow_the_last_sound(word: str, particle: str, result: str) -> None:
    assert with_particle(word, particle) == result


def test_unknown_particles_and_sounds_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown particle '는'"):
        with_particle("집", "는")
    with pytest.raises(ValueError, match="cannot tell the last sound of 'bus'"):
        with_particle("bus", "은")


def test_scenes_leave_particles_to_the_program() -> None:
    """A particle written behind braces would be wrong for half of the values."""
    fixed = re.compile(r"\{\w+\}(" + "|".join(PARTICLES) + r")(?![가-힣])")
    for path in sorted(FOLDER.glob("*.yaml")):
        assert [found.group() for found in fixed.finditer(path.read_text(encoding="utf-8"))] == [], path.name


@pytest.mark.parametrize("topic", sorted(SCENES))
def test_every_ending_of_every_scene_can_be_told(topic: str) -> None:
    scene = SCENES[topic]
    drawn = random.Random(topic)
    assert len(scene.endings) >= 2
    for ending in scene.endings:
        only = dataclasses.replace(scene, endings=(ending,))
        turns = {draw_dialogue(only, drawn)[0].count("\n") + 1 for _ in range(100)}
        assert min(turns) >= 6
        assert max(turns) <= 12


@pytest.mark.parametrize("topic", sorted(SCENES))
def test_slot_values_of_a_summary_stand_in_its_dialogue(topic: str) -> None:
    scene = SCENES[topic]
    pools = {value for slot in scene.slots for value in pool_of(scene, slot)}
    drawn = random.Random(topic)
    for _ in range(100):
        dialogue, summary, _ = draw_dialogue(scene, drawn)
        assert [value for value in pools if value in summary and value not in dialogue] == []


@pytest.mark.parametrize("topic", sorted(SCENES))
def test_every_value_of_a_scene_is_used_and_known(topic: str) -> None:
    scene = SCENES[topic]
    text = scene.dialogue + "".join(ending.dialogue + ending.summary for ending in scene.endings)
    used = set(re.findall(r"\{(\w+)", text)) - set("ABC")
    known = set(scene.slots) | {key for row in scene.rows for key in row}
    assert used == known
    assert len({frozenset(row) for row in scene.rows}) == 1
    assert not set(scene.slots) & set(scene.rows[0])
    assert set(scene.pools) <= set(scene.slots.values())
    assert all(len(pool_of(scene, slot)) >= 3 for slot in scene.slots)


def test_pools_hold_no_value_twice() -> None:
    pools = [*load_common().pools.values(), *(pool for scene in SCENES.values() for pool in scene.pools.values())]
    assert all(len(set(pool)) == len(pool) for pool in pools)
    assert set(load_common().pools) == {
        pool for scene in SCENES.values() for pool in scene.slots.values() if pool not in scene.pools
    }


def test_a_line_that_is_no_script_is_refused() -> None:
    with pytest.raises(ValueError, match="no script line: 'D 안녕'"):
        parse_script("A 안녕\nD 안녕")


def arguments(folder: Path, **changes: object) -> argparse.Namespace:
    usual: dict[str, object] = {"output": folder, "seed": 0, "train_count": 76, "dev_count": 38, "format": "json"}
    return argparse.Namespace(**(usual | changes))


def test_the_command_writes_files_that_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments(tmp_path)) == 0
    written = json.loads(capsys.readouterr().out)
    train = load_examples(tmp_path / "train.jsonl")
    assert (written["train_count"], written["dev_count"]) == (76, 38)
    assert written["train_sha256"] == fingerprint(train)
    assert written["train_file"] == str(tmp_path / "train.jsonl")
    assert [example.fname for example in load_examples(tmp_path / "dev.jsonl")][:2] == ["dev_0", "dev_1"]


def test_impossible_counts_are_refused_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError) as caught:
        command.run(arguments(tmp_path, train_count=0, dev_count=-1))
    assert len(caught.value.problems) == 2
    ending = Ending(dialogue="B 네. | 응.", summary="{A:은} 인사한다.")
    small = Scene(topic="인사", register="polite", dialogue="A 안녕?\n", endings=(ending,))
    monkeypatch.setattr("dialsum.sample_data.generate.load_scenes", lambda: (small,))
    with pytest.raises(RequestError, match="topic '인사' has no new dialogue after 2 of 76 for train"):
        command.run(arguments(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_scene_is_plain_data() -> None:
    scene = SCENES["환불"]
    assert isinstance(scene, Scene)
    assert scene.register == "polite"
    assert [step.optional for step in parse_script(scene.dialogue)][:2] == [True, False]
