"""The shell completes commands, options, their values and files, as bash itself answers."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import cluster.__main__
import dialsum.__main__
import tune_jobs.__main__

Main = Callable[[Sequence[str]], int]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, whose answer is tested")
FOLDER = Path(__file__).parent


@pytest.mark.parametrize(
    ("main", "typed", "offered"),
    [
        (tune_jobs.__main__.main, "tune-jobs es", ["estimate"]),
        (tune_jobs.__main__.main, "tune-jobs jobs st", ["status", "stop"]),
        (tune_jobs.__main__.main, "tune-jobs schema ", ["sweep", "run", "team"]),
        (tune_jobs.__main__.main, "tune-jobs run sweep.yaml --res", ["--resume", "--restart"]),
        (tune_jobs.__main__.main, "tune-jobs estimate --precision b", ["bf16", "bf16_pure"]),
        (tune_jobs.__main__.main, "tune-jobs run test_com", ["test_completion.py"]),
        (dialsum.__main__.main, "dialsum tr", ["train"]),
        (dialsum.__main__.main, "dialsum train --config test_com", ["test_completion.py"]),
        (cluster.__main__.main, "dialsum-cluster sim", ["simulate"]),
    ],
)
def test_bash_offers_what_can_follow(
    main: Main, typed: str, offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code in (0, None)
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    function = "_shtab_" + typed.split()[0].replace("-", "_")
    words = " ".join(f"'{word}'" for word in typed.split(" "))
    asked = f"source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {function}"
    lines = f'{asked}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", lines], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_for_the_installed_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune_jobs.__main__.main(["--print-completion", shell])
    assert "tune-jobs" in capsys.readouterr().out
