"""README.md runs as printed: programs accept every line, the quick ones run, and `make long` runs all in order."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster.__main__
import dialsum.__main__
import tune_jobs.__main__
from tests.cluster.machine import Machine, missing
from tests.test_documents import PAGES, ROOT
from tuning_common import cli

PROGRAMS = {"tune_jobs": tune_jobs.__main__, "cluster": cluster.__main__, "dialsum": dialsum.__main__}
INSTALLED = {"tune-jobs": "tune_jobs", "dialsum-cluster": "cluster", "dialsum": "dialsum"}
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", flags=re.DOTALL)
QUICK = (  # those of README.md that need neither Ray nor a training, in its order
    "python -m tune_jobs estimate --model kobart --batch-size 8 --encoder-max-len 512 --decoder-max-len 128"
    " --precision bf16",
    "python -m tune_jobs templates",
    "python -m cluster gpus",
    "python -m cluster token",
    "python -m cluster monitor --output monitoring",
    "python -m dialsum sample-data --output outputs/sample_data",
)
STANDS_FOR = {  # what cannot run here -> the nearest that can; everything else runs as printed
    "make test": "make --dry-run test",
    # no network: the environment at hand, and this tree's packages installed beside it
    "python3 -m venv ~/tuning && . ~/tuning/bin/activate": ". .venv/bin/activate",
    "pip install .": "pip install --no-index --no-deps --no-build-isolation --target ~/tuning ."
    ' && export PATH="$HOME/tuning/bin:$PATH" PYTHONPATH="$HOME/tuning"',
    # several machines: tests/cluster/test_ray_up.py runs it over SSH
    "ray up -y ray_cluster.yaml": "true",
    # no GPU: simulated cards, and on the loopback
    "python -m cluster start --head --state-dir ~/dialogue-summarizers/gcs-state": "python -m cluster start --head"
    " --state-dir ~/dialogue-summarizers/gcs-state --ip 127.0.0.1 --simulate 1x24GiB",
    "torchrun --nproc-per-node 2 -m dialsum train --config configs/kobart.yaml --output outputs/two_gpus": "torchrun"
    " --nproc-per-node 2 -m dialsum train --config configs/tiny.yaml --output outputs/two_gpus",
    # minutes on a CPU
    "python -m tune_jobs profile --model kobart --batch-size 8": "python -m tune_jobs profile --model tiny-bart",
    # a name that only the sweep knows
    "python -m tune_jobs reproduce outputs/experiments/NAME": "python -m tune_jobs reproduce"
    ' "$(ls -d outputs/experiments/sample_* | head -n 1)"',
}
SHORTER = {"max_train_samples": 64, "max_eval_samples": 8, "num_epochs": 2, "decoder_max_len": 16}  # configs/tiny.yaml
READY = "READY: "


def lines_of(page: Path, language: str = "bash") -> list[str]:
    """Lists the command lines of a page, without comments."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for kind, text in found if kind == language for line in text.splitlines()]
    return [" ".join(shlex.split(line, comments=True, posix=False)) for line in lines if line.strip()]


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the package and the arguments of each line that runs one of our programs."""
    for line in lines_of(page):
        for one in re.split(r" -- |&&|;|\|(?= )", line):
            words = shlex.split(one.partition(" > ")[0])
            if words[:2] == ["python", "-m"] and words[2] in PROGRAMS:
                yield words[2], words[3:]
            elif words and words[0] in INSTALLED:
                yield INSTALLED[words[0]], words[1:]
            elif "-m" in words and words[0] == "torchrun":
                yield words[words.index("-m") + 1], words[words.index("-m") + 2 :]


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_the_programs_accept_each_line_of_a_page(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for program, arguments in commands_of(ROOT / page):
        try:
            PROGRAMS[program].make_parser().parse_args(arguments)
        except SystemExit:
            refused.append((arguments, capsys.readouterr().err.splitlines()[-1]))
    assert refused == []


def test_the_quick_lines_of_the_readme_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    printed = lines_of(ROOT / "README.md")
    for line in QUICK:
        assert line in printed
        program, arguments = line.split()[2], line.split()[3:]
        code = cli.run(PROGRAMS[program].main, arguments)
        assert code == 0, (line, capsys.readouterr())


def test_another_python_is_told_what_to_do() -> None:
    lonely = [sys.executable, "-I", "-S", "-c"]  # without site-packages
    for program, arguments in {"tune_jobs": ["check", "x"], "cluster": ["check"], "dialsum": ["train"]}.items():
        script = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = {['x', *arguments]!r};"
        script += f"runpy.run_module({program!r}, run_name='__main__')"
        done = subprocess.run([*lonely, script], capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert "has no package" in done.stderr
        assert ". .venv/bin/activate" in done.stderr


def script_of(page: Path) -> str:
    """Returns one shell script of all blocks of a page in their order, with what stands for lines that cannot run."""
    script = ["set -eo pipefail"]
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            script.append(f"echo '{READY}the Python block'\npython - <<'END'\n{text}END")
            continue
        for line in filter(str.strip, text.splitlines()):
            script += [f"echo {shlex.quote(READY + line)}", STANDS_FOR.get(line, line)]
    return "\n".join(script)


def copy_of_the_tree(folder: Path) -> Path:
    """Copies what a clone has, with short trainings, and with this environment as the one that `make` has built."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "outputs", "tests", "benchmarks"))
    shutil.copyfile(ROOT / ".gitignore", tree / ".gitignore")
    environment = tree / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    for name in (".runtime", ".development"):
        (environment / name).touch()
    config = tree / "configs" / "tiny.yaml"
    kept = [line for line in config.read_text().splitlines() if line.partition(":")[0] not in SHORTER]
    config.write_text("\n".join([*kept, *(f"{name}: {value}" for name, value in SHORTER.items())]) + "\n")
    return tree


REASON = missing("make")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(5400)
@pytest.mark.skipif(bool(REASON), reason=REASON)
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="`. .venv/bin/activate` needs a virtual environment")
def test_every_block_of_the_readme_runs_in_order(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path)
    machine = Machine(tmp_path / "m")
    machine.environment |= {"PATH": machine.environment["PATH"].partition(":")[2]}  # no environment is active
    del machine.environment["RAY_AUTH_MODE"]
    log = tmp_path / "log.txt"
    try:
        done = machine.run("bash", "-c", f"exec &> {log}\n{script_of(ROOT / 'README.md')}", cwd=tree, timeout_s=5000)
        printed = log.read_text(encoding="utf-8")
        started = [line.removeprefix(READY) for line in printed.splitlines() if line.startswith(READY)]
        assert done.returncode == 0, f"{started[-1]}\n{printed[-6000:]}"
        assert set(STANDS_FOR) <= set(started)
    finally:
        machine.stop()
