"""Cleaning: the noise that real files hold, and nothing else."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialsum.cleaning import PLACEHOLDER, PLACEHOLDER_NAMES, clean_text, find_placeholders


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        (r"#Person1#: 안녕.\n#Person2#: 응.", "#Person1#: 안녕.\n#Person2#: 응."),
        ("가<br>나<BR/>다<br />라", "가\n나\n다\n라"),
        ("첫 줄\r\n\r\n둘째  줄 \t끝\r", "첫 줄\n둘째 줄 끝"),
        ("#PErson2#은 # Person 1 #에게 ＃phonenumber＃를 준다.", "#Person2#은 #Person1#에게 #PhoneNumber#를 준다."),
        ("#Person#과 #PersonN#", "#Person#과 #PersonN#"),
        ("회사 # 그리고 # 지점", "회사 # 그리고 # 지점"),
        ("보\u200b이지 않는\ufeff 글자\u00a0없음", "보이지 않는 글자 없음"),
        (unicodedata.normalize("NFD", "한글은 한 글자로"), "한글은 한 글자로"),
        ("3 < 5 이고 a\\b", "3 < 5 이고 a\\b"),
        (" \n ", ""),
    ],
)
def test_noise_is_removed(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@pytest.mark.parametrize("name", PLACEHOLDER_NAMES)
def test_placeholders_stay_whole(name: str) -> None:
    text = f"#Person1#: #{name}#로 보내 주세요."
    assert clean_text(text) == text
    assert PLACEHOLDER.findall(text) == ["#Person1#", f"#{name}#"]


pieces = st.lists(
    st.sampled_from(
        ["#", "Person", "person", "1", " ", "\\n", "\\", "n", "<br>", "<", "br", ">", "\r", "\n", "\u200b", "가", "은"]
    )
)


@settings(max_examples=1000)
@given(pieces)
def test_cleaning_twice_changes_nothing_more(parts: list[str]) -> None:
    once = clean_text("".join(parts))
    assert clean_text(once) == once


def test_placeholders_are_found_once_and_sorted() -> None:
    assert find_placeholders(["#Person2# #Person1#", "#Email# #Person2# 3 # 4"]) == (
        "#Email#",
        "#Person1#",
        "#Person2#",
    )
