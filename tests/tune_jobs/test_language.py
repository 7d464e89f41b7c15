"""Reports and terminal in Korean: every message is translated, and the numbers are those of the English ones."""

import ast
import html
import re
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import Environment
from jinja2.ext import extract_from_ast

import tune_jobs
from tests.tune_jobs.synthetic import sweep_record, wide_ledger, write
from tune_jobs.__main__ import main
from tune_jobs.config.language import korean, tr, use_language

PACKAGE = Path(tune_jobs.__file__).parent


def messages() -> set[str]:
    """Lists the messages that the code and the templates pass to `tr`."""
    found = {"{count} trials"}  # the example of `tr`
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{path}:{node.lineno}: the message is no literal"
                found.add(str(first.value))
    for path in PACKAGE.rglob("*.html"):
        source = Environment(extensions=["jinja2.ext.i18n"]).parse(path.read_text(encoding="utf-8"))
        for _, _, message in extract_from_ast(source, gettext_functions=("tr",)):
            found.add(str(message if isinstance(message, str) else message[0]))
    return found


def values_of(message: str) -> set[tuple[str, str]]:
    return {(name, form or "") for _, name, form, _ in Formatter().parse(message) if name is not None}


def test_every_message_has_a_korean_one_and_no_other_is_kept() -> None:
    assert messages() ^ set(korean()) == set()


def test_korean_messages_show_the_same_values_in_the_same_form() -> None:
    assert [one for one, other in korean().items() if values_of(one) != values_of(other)] == []


def test_a_language_ends_with_its_block() -> None:
    with use_language("ko"):
        assert tr("best") == "최고"
    assert tr("best") == "best"


def numbers(text: str) -> list[str]:
    """Lists all numbers of a text; Korean puts units and particles behind them without a space."""
    shown = re.sub(r"[^<>\n]*fonts-noto-cjk.*?[<\n]", "<", text)  # how many characters have no font depends on the text
    shown = re.sub(r"<(style|script)>.*?</\1>|<svg.*?</svg>|<[^>]*>", " ", shown, flags=re.DOTALL)
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", html.unescape(shown)))


@pytest.mark.parametrize("command", ["report", "review"])
def test_numbers_are_the_same_in_both_languages(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, wide_ledger(12))
    texts = {}
    for language in ("en", "ko"):
        assert main([command, str(folder.path), "--language", language]) == 0
        shown = [folder.review] if command == "review" else [folder.report_html, folder.report_markdown]
        texts[language] = [path.read_text(encoding="utf-8").rsplit("\n<!--", 1)[0] for path in shown]
        texts[language].append(capsys.readouterr().out)
    for english, other in zip(texts["en"], texts["ko"], strict=True):
        assert re.search("[가-힣]", other)
        assert numbers(english) == numbers(other)


def test_the_sweep_file_decides_where_no_option_does(tmp_path: Path) -> None:
    folder = write(tmp_path, wide_ledger(12), sweep_record(language="ko"))
    assert main(["report", str(folder.path)]) == 0
    assert '<html lang="ko">' in folder.report_html.read_text(encoding="utf-8")
    assert main(["report", str(folder.path), "--language", "en"]) == 0
    assert '<html lang="en">' in folder.report_html.read_text(encoding="utf-8")
