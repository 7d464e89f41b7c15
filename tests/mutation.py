"""Mutation tests: small faults in the deciding code, one at a time; each that no test tells apart is printed.

`python -m tests.mutation SUBJECT [SAMPLE]`, where SUBJECT is a key of `SUBJECTS` and SAMPLE a number of faults a file.
The tests are collected once. Each fault runs in a child process, which puts the changed code into the functions that
exist already and runs the tests that reach the changed statement, the quickest first. Not tried: code outside
functions, defaults of arguments, texts, and what follows `raise`.
"""

import ast
import gc
import os
import pickle
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

import coverage
import pytest

SUBJECTS = {  # name -> what is changed, and the tests that must notice
    "scheduling": "cluster/scheduling/*.py tests/cluster/scheduling tests/properties/test_share_properties.py",
    "memory": "cluster/estimator/memory_plan.py tests/cluster/estimator/test_memory_plan.py",
    "space": "tune_jobs/config/space.py tests/tune_jobs/test_space.py tests/properties/test_space_properties.py",
    "phases": "tune_jobs/search/phase_decisions.py tests/tune_jobs/test_phase_decisions.py",
    "rules": "tune_jobs/config/rules.py tests/tune_jobs/test_rules.py tests/properties/test_rules_properties.py",
}
LIMIT_S = 120.0
PAIRS = "Lt LtE,Gt GtE,Eq NotEq,In NotIn,Is IsNot,Add Sub,Mult Div,And Or"
SWAPS = {one: other for pair in PAIRS.split(",") for one, other in (pair.split(), pair.split()[::-1])}
Change = tuple[str, Callable[[], None]]


def places(tree: ast.AST, statement: ast.stmt | None = None) -> Iterator[tuple[ast.stmt, ast.AST, Change]]:
    """What can be changed inside functions: the statement, the node, the change."""
    for name, value in ast.iter_fields(tree):
        if name == "annotation" or (isinstance(tree, ast.FunctionDef) and name != "body"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
                continue
            is_inside = isinstance(node, ast.FunctionDef) or statement is not None
            inner = node if is_inside and isinstance(node, ast.stmt) else statement
            if inner is not None:
                yield from ((inner, node, change) for change in changes(node))
            yield from places(node, inner)


def changes(node: ast.AST) -> Iterator[Change]:
    """The changes of one node."""
    if isinstance(node, ast.Compare):
        old = type(node.ops[0]).__name__
        yield f"{old} -> {SWAPS[old]}", lambda: node.ops.__setitem__(0, getattr(ast, SWAPS[old])())
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op).__name__ in SWAPS:
        new = SWAPS[type(node.op).__name__]
        yield f"{type(node.op).__name__} -> {new}", lambda: setattr(node, "op", getattr(ast, new)())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        twice = ast.copy_location(ast.UnaryOp(ast.Not(), node.operand), node)
        yield "without not", lambda: setattr(node, "operand", twice)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} + 1", lambda: setattr(node, "value", node.value + 1)
    elif isinstance(node, ast.Name) and node.id in ("min", "max"):
        yield "min <-> max", lambda: setattr(node, "id", {"min": "max", "max": "min"}[node.id])


def in_child(work: Callable[[], object], limit_s: float) -> object:
    """What `work` returns in a child process; None where it dies or takes longer than `limit_s` seconds."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            with os.fdopen(write_end, "wb") as pipe:
                pickle.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        content = pipe.read() if select.select([pipe], [], [], limit_s)[0] else b""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pickle.loads(content) if content else None  # noqa: S301 - what our own child wrote


class Mutation:
    """A plug-in of pytest: runs the collected tests once to see what they reach, then those for each fault."""

    def __init__(self, paths: list[Path], sample: int) -> None:
        self._paths, self._sample = paths, sample

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Prints of each file how many faults were noticed, and the others."""
        gc.unfreeze()
        seconds, reached = in_child(lambda: look(session, self._paths), 3600.0)  # type: ignore[misc]
        for path in self._paths:
            source, survivors, late = path.read_text(encoding="utf-8"), [], 0
            numbers = range(len(list(places(ast.parse(source)))))
            chosen = sorted(random.Random(path.name).sample(numbers, min(self._sample, len(numbers))))
            for number in chosen:
                tree = ast.parse(source)
                statement, node, (words, change) = list(places(tree))[number]
                change()
                lines = range(statement.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
                found = {test for line in lines for test in reached.get((str(path.resolve()), line), [])}
                tests = sorted(found & seconds.keys(), key=seconds.__getitem__)
                code = compile(ast.fix_missing_locations(tree), str(path.resolve()), "exec")
                outcome = in_child(lambda: put(code) or passes(session, tests), LIMIT_S) if tests else True  # noqa: B023
                late += outcome is None
                if outcome is True:
                    survivors.append(f"{path}:{lines[-1]}: {words}: {source.splitlines()[lines[-1] - 1].strip()}")
            killed = f"{path}: {len(chosen) - len(survivors)} of {len(chosen)} noticed, {late} of these by the limit"
            os.write(1, "\n  ".join([killed, *survivors]).encode() + b"\n")
        return True


def look(session: pytest.Session, paths: list[Path]) -> tuple[dict[int, float], dict[tuple[str, int], list[int]]]:
    """Seconds of each test that passes, by its number; and the tests that reach a line of a file."""
    watch = coverage.Coverage(config_file=False, data_file=None, include=[str(path) for path in paths])
    seconds: dict[int, float] = {}
    watch.start()
    for number in range(len(session.items)):
        begun = time.perf_counter()
        watch.switch_context(str(number))
        if passes(session, [number]):
            seconds[number] = time.perf_counter() - begun
    watch.stop()
    data = watch.get_data()
    lines = {file: data.contexts_by_lineno(file) for file in data.measured_files()}
    return seconds, {
        (file, line): [int(one) for one in tests if one] for file in lines for line, tests in lines[file].items()
    }


def passes(session: pytest.Session, tests: list[int]) -> bool:
    """Whether tests pass, up to the first that does not."""
    items = [session.items[number] for number in tests]
    for item, following in zip(items, [*items[1:], None], strict=True):
        failed = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed > failed:
            return False
    return True


def put(code: CodeType) -> None:
    """Puts the code of a changed module into its functions."""

    def inner(outer: CodeType) -> Iterator[CodeType]:
        for one in outer.co_consts:
            if isinstance(one, CodeType):
                yield from (one, *inner(one))

    new = {(one.co_qualname, one.co_firstlineno): one for one in inner(code)}
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == code.co_filename:
            old = function.__code__
            function.__code__ = new.get((old.co_qualname, old.co_firstlineno), old)


if __name__ == "__main__":
    pattern, *tests = SUBJECTS[sys.argv[1]].split()
    sample = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    chosen = ["-q", "-s", "-p", "no:cacheprovider", "-m", "not ray and not gpu and not long and not slow", *tests]
    sys.exit(pytest.main(chosen, plugins=[Mutation(sorted(Path().glob(pattern)), sample)]))
