"""Encrypts a member's W&B key with the cluster's token, for the package of a submitted sweep.

The head's state keeps a job's arguments, metadata and environment, and Ray's tools show them. Every user of a node can
read the files of a package. So the key is sent encrypted, and only the driver decrypts it, in memory.
"""

import base64
import netrc
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cluster.machines.tokens import TOKEN_VARIABLE, token_path
from tuning_common.errors import RequestError

FILE = ".wandb_key.sealed"
KEY = "WANDB_API_KEY"
_PURPOSE = b"dialogue-summarizer-tuning: W&B key of a submitted sweep"


def own_key(environment: Mapping[str, str], home: Path) -> str | None:
    """Returns the user's key: WANDB_API_KEY, else that of `wandb login` in ~/.netrc; None if there is none."""
    if environment.get(KEY):
        return environment[KEY]
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split(":")[0].rstrip("/")
    try:
        found = netrc.netrc(str(home / ".netrc")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def seal(key: str, token: str) -> bytes:
    """Encrypts a key; only the cluster's token decrypts it.

    >>> opened(seal("a" * 40, "secret token"), "secret token") == "a" * 40
    True
    """
    return _box(token).encrypt(key.encode("utf-8"))


def opened(sealed: bytes, token: str) -> str:
    """Decrypts a key.

    Raises:
        RequestError: When it was encrypted with another token, or was changed.
    """
    try:
        return _box(token).decrypt(sealed).decode("utf-8")
    except InvalidToken:
        raise RequestError(
            f"{FILE}: this machine's token does not open the W&B key; every machine needs the same token"
        ) from None


def take_key(package: Path, environment: MutableMapping[str, str], home: Path) -> str | None:
    """Decrypts the key in a submitted package for this process and its children.

    Args:
        package: The folder with the job's code.
        environment: Receives WANDB_API_KEY, unless it has one.
        home: Home folder of the user who runs Ray.

    Returns:
        Why the key could not be decrypted; None on success, or if there is no key.
    """
    try:
        sealed = (package / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        token = read_token(environment, home)
        environment.setdefault(KEY, opened(sealed, token))
    except (OSError, RequestError) as error:
        return f"W&B goes on offline: {error}"
    return None


def read_token(environment: Mapping[str, str], home: Path) -> str:
    """Returns the cluster's token.

    Raises:
        OSError: When it cannot be read.
    """
    return environment.get(TOKEN_VARIABLE) or token_path(environment, home).read_text(encoding="utf-8").strip()


def package_root() -> Path:
    """Returns the folder of this code: for a submitted job, its package."""
    return Path(__file__).resolve().parents[2]


def take_own_key() -> str | None:
    """Calls take_key for this process."""
    return take_key(package_root(), os.environ, Path.home())


def _box(token: str) -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(token.encode("utf-8"))
    return Fernet(base64.urlsafe_b64encode(derived))
