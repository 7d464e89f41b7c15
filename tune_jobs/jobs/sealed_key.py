"""The member's W&B key on its way to the cluster: a file in the package that only the cluster's token opens.

A job's arguments, metadata and environment are kept in the head's state and shown by Ray's tools, and files of a
package are readable for every user of a node. So the key travels encrypted, and is opened in the memory of the
driver, whose mirror speaks to W&B.
"""

import base64
import netrc
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cluster.machines.tokens import token_path
from common.errors import RequestError

FILE = ".wandb_key.sealed"
KEY = "WANDB_API_KEY"
_PURPOSE = b"dialogue-summarizer-tuning: W&B key of a submitted sweep"


def own_key(environment: Mapping[str, str], home: Path) -> str | None:
    """Finds the key of the person who submits: WANDB_API_KEY, else what `wandb login` left in ~/.netrc."""
    if environment.get(KEY):
        return environment[KEY]
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split(":")[0].rstrip("/")
    try:
        found = netrc.netrc(str(home / ".netrc")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def seal(key: str, token: str) -> bytes:
    """Encrypts a key so that only who has the cluster's token can read it.

    >>> opened(seal("a" * 40, "secret token"), "secret token") == "a" * 40
    True
    """
    return _box(token).encrypt(key.encode("utf-8"))


def opened(sealed: bytes, token: str) -> str:
    """Decrypts.

    Raises:
        RequestError: When it was sealed with another token, or changed on the way.
    """
    try:
        return _box(token).decrypt(sealed).decode("utf-8")
    except InvalidToken:
        raise RequestError(
            f"{FILE}: this machine's token does not open the W&B key; every machine needs the same token"
        ) from None


def take_key(package: Path, environment: MutableMapping[str, str], home: Path) -> str | None:
    """Opens the key in a submitted package for this process and those that it starts.

    Args:
        package: Where the code of the job lies.
        environment: Gets WANDB_API_KEY, unless it has one.
        home: Of the user who runs Ray.

    Returns:
        Why it could not be opened; None where it was, or where there is none.
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
    return environment.get("RAY_AUTH_TOKEN") or token_path(environment, home).read_text(encoding="utf-8").strip()


def package_root() -> Path:
    """The folder that this code runs from: of a submitted job, its package."""
    return Path(__file__).resolve().parents[2]


def take_own_key() -> str | None:
    """take_key for this process."""
    return take_key(package_root(), os.environ, Path.home())


def _box(token: str) -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(token.encode("utf-8"))
    return Fernet(base64.urlsafe_b64encode(derived))
