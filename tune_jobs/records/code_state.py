"""The code that a sweep runs: commit, branch, changes and untracked files. The only module that calls git."""

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tune_jobs.records.redaction import HIDDEN, Redactor, is_secret_file

_ANSWER_S = 20.0
_MOST_DIFF_CHARS = 5_000_000
_MOST_UNTRACKED = 1000
_HASHED_BYTES = 1_000_000  # larger untracked files are data: no hash


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """The code in one working folder.

    Attributes:
        commit: Full hash; None where there is no git, no repository or no commit.
        branch: None on a detached head.
        dirty: Files that differ from the commit.
        diff: The diff without secrets; binary files are only named.
        diff_sha256: Hash of the full diff: two states differ by it although parts are hidden.
        hidden: Number of secrets that were removed from the diff; a whole file counts as one.
        untracked: Files that git neither tracks nor ignores, with the first 16 digits of their SHA-256; "" for large
            files and for files whose names suggest secrets.
        reason: Why there is no commit; empty where there is one.
    """

    commit: str | None = None
    branch: str | None = None
    dirty: tuple[str, ...] = ()
    diff: str = field(default="", repr=False)
    diff_sha256: str = ""
    hidden: int = 0
    untracked: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def read_code(folder: Path, redactor: Redactor) -> CodeState:
    """Reads the state of a folder's repository; never fails, as a sweep also runs from an archive."""
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        commit = _git(root, "rev-parse", "HEAD").strip()
        branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD").strip()
        raw = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color", "--no-textconv")
        changed = _git(root, "diff", "HEAD", "--name-only", "-z").split("\0")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    except FileNotFoundError:
        return CodeState(reason="git is not installed")
    except subprocess.TimeoutExpired:
        return CodeState(reason=f"git did not answer within {_ANSWER_S:g} s")
    except subprocess.CalledProcessError as error:
        return CodeState(reason=_reason(str(error.stderr)))
    diff = clean_diff(raw, redactor)
    names = sorted(name for name in untracked if name)
    known = {redactor.hide(name): _digest(root / name) for name in names[:_MOST_UNTRACKED]}
    if len(names) > _MOST_UNTRACKED:
        known[f"... and {len(names) - _MOST_UNTRACKED} more"] = ""
    return CodeState(
        commit=commit,
        branch=None if branch == "HEAD" else redactor.hide(branch),
        dirty=tuple(redactor.hide(name) for name in changed if name),
        diff=diff,
        diff_sha256=hashlib.sha256(raw.encode()).hexdigest() if raw else "",
        hidden=max(0, diff.count(HIDDEN) - raw.count(HIDDEN)),
        untracked=known,
    )


def clean_diff(diff: str, redactor: Redactor) -> str:
    """Removes secrets from a diff, and all lines of files whose names suggest secrets.

    >>> text = "diff --git a/.env b/.env\\n+A=b\\ndiff --git a/x.py b/x.py\\n+password = 'hunter2'\\n"
    >>> print(clean_diff(text, Redactor()))
    diff --git a/.env b/.env
    <hidden>
    diff --git a/x.py b/x.py
    +password = '<hidden>'
    <BLANKLINE>
    """
    files = [part for part in ("\n" + diff).split("\ndiff --git ") if part]
    cleaned = "".join(f"diff --git {_clean_file(part, redactor)}\n" for part in files)
    cleaned = cleaned.rstrip("\n") + "\n" if files else ""
    if len(cleaned) > _MOST_DIFF_CHARS:
        cut = len(cleaned) - _MOST_DIFF_CHARS
        cleaned = f"{cleaned[:_MOST_DIFF_CHARS]}\n... {cut} further characters are not kept\n"
    return cleaned


def _clean_file(part: str, redactor: Redactor) -> str:
    header, _, body = part.partition("\n")
    names = header.replace('"', "").split(" b/")
    if any(is_secret_file(name) for name in names):
        return f"{redactor.hide(header)}\n{HIDDEN}"
    # `Subproject commit <hash>` and `index <hash>..<hash>` are not secrets, though they match a pattern.
    lines = [line if line.startswith(("index ", "+Subproject", "-Subproject")) else None for line in body.split("\n")]
    hidden = redactor.hide(body).split("\n")
    if len(hidden) != len(lines):  # a secret over several lines was hidden, so lines no longer pair up
        return redactor.hide(part)
    return "\n".join([redactor.hide(header), *(kept or line for kept, line in zip(lines, hidden, strict=True))])


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        timeout=_ANSWER_S,
        check=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def _digest(path: Path) -> str:
    """Returns the first digits of a small file's hash; "" for a file that may hold secrets."""
    try:
        if is_secret_file(path.name) or path.is_symlink() or path.stat().st_size > _HASHED_BYTES:
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _reason(message: str) -> str:
    lines: Sequence[str] = [line.strip() for line in message.splitlines() if line.strip()]
    if "not a git repository" in message:
        return "not a git repository"
    if "unknown revision" in message or "ambiguous argument" in message:
        return "the repository has no commit yet"
    return lines[-1][:200] if lines else "git failed"
