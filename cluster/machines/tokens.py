"""The cluster's token. Its owner can run code on every machine, so its file must be private."""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from tuning_common.errors import RequestError

AUTH_MODE = "RAY_AUTH_MODE"  # Ray reads it on import
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # the token itself, before any file; KubeRay sets it from a Secret
_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
_SHORTEST = 32  # characters; Ray's own have 64


def token_path(environment: Mapping[str, str], home: Path) -> Path:
    """Returns the path from which Ray reads the token.

    >>> token_path({}, Path("/home/a")).as_posix(), token_path({"RAY_AUTH_TOKEN_PATH": "/etc/t"}, Path("/")).as_posix()
    ('/home/a/.ray/auth_token', '/etc/t')
    """
    chosen = environment.get(_PATH_VARIABLE)
    return Path(chosen) if chosen else home / ".ray" / "auth_token"


def token_problem(environment: Mapping[str, str], home: Path) -> str | None:
    """Returns the problem of the token that Ray uses with its remedy, or None. Never shows the token."""
    given = environment.get(TOKEN_VARIABLE)
    if given:
        return _too_short(TOKEN_VARIABLE, len(given))
    path = token_path(environment, home)
    try:
        found = path.stat()
        length = len(path.read_text(encoding="utf-8", errors="replace").strip())
    except FileNotFoundError:
        return f"{path}: no token; make one with `python -m cluster token`, and put the same one on every machine"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}); it must belong to the user who starts Ray"
    if found.st_uid != os.geteuid():
        return f"{path}: belongs to another user (uid {found.st_uid}); it must be your own"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"{path}: others may read it (mode {stat.S_IMODE(found.st_mode):o}); chmod 600 {path}"
    return _too_short(str(path), length)


def _too_short(source: str, length: int) -> str | None:
    if length >= _SHORTEST:
        return None
    return f"{source}: {length} characters are too few for a token; make one with `python -m cluster token`"


def make_token(path: Path) -> None:
    """Writes a new random token that only its owner may read.

    Raises:
        RequestError: When the file exists: a new token would lock out the machines that share the old one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise RequestError(
            f"{path}: there is a token already; a new one would lock out every machine that has the old one",
            [f"to replace it everywhere: end the cluster, remove {path} on every machine, and make one"],
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(secrets.token_hex(32))
        stream.flush()
        os.fsync(stream.fileno())
