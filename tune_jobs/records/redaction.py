"""Removes secrets from text before it is stored: command lines, diffs, paths. Pure.

It prefers to hide too much, and counts what it hides: a diff with a hidden part is still useful, a leaked key cannot be
called back.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

HIDDEN = "<hidden>"
_SHORTEST = 8  # shorter values of secret variables ("1", "admin") would hide half of any text
_SECRET_WORDS = (
    r"(?:api[_-]?key|access[_-]?key|secret|token|passw(?:or)?d|passphrase|credentials?|auth(?![a-z])|private[_-]?key)"
)
_SECRET_NAME = re.compile(_SECRET_WORDS + "|(?:^|_)key$", re.IGNORECASE)
_NOT_SECRET = re.compile(  # names that only look like one, and values that cannot be one
    r"(?:max|num|n|pad|eos|bos|sep|unk|mask|new|min|special|extra|decoder_start)[_-]?tokens?", re.IGNORECASE
)
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\b(?:hf|gh[pousr]|glpat|npm|pypi|xox[abprs]|sk|rk|pk|wandb_v\d)[_-][A-Za-z0-9_-]{16,}"),
    re.compile(r"\bgithub_pat_[A-Za-z0-9_]{20,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\bAIza[A-Za-z0-9_-]{30,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON web tokens
    re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])"),  # keys of W&B; commits look the same
)
_USER_OF_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@")
_BEARER = re.compile(r"(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<head>(?P<name>[\w.-]*{_SECRET_WORDS}[\w.-]*|\b\w+_key|\bkey)['\"]?(?P<sign>\s*[=:]\s*|\s+))"
    r"(?P<value>'[^'\n]*'|\"[^\"\n]*\"|[^\s'\",;)\]}]+)",
    re.IGNORECASE,
)
_SECRET_FILES = re.compile(
    r"(?:^\.env(?:\..*)?$|^\.netrc$|^_netrc$|^\.pypirc$|^\.npmrc$|^id_(?:rsa|dsa|ecdsa|ed25519)$|\.(?:pem|key|p12|pfx)$"
    r"|^auth_token$|credential|secret)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Redactor:
    """Hides secrets in text.

    Attributes:
        values: Known secrets, for example of environment variables; hidden everywhere.

    >>> redactor = Redactor(values=("correct-horse",))
    >>> redactor.hide("run --note correct-horse --api-key abc1 https://me:pw@host/x num_tokens=5")
    'run --note <hidden> --api-key <hidden> https://<hidden>@host/x num_tokens=5'
    """

    values: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Redactor":
        """Returns a redactor of the values of all variables with secret names."""
        found = {
            value.strip()
            for name, value in environment.items()
            if _SECRET_NAME.search(name) and len(value.strip()) >= _SHORTEST and not value.startswith(("/", "~"))
        }
        return cls(values=tuple(sorted(found, key=lambda value: (-len(value), value))))

    def hide(self, text: str) -> str:
        """Returns the text with every secret replaced."""
        for value in self.values:
            text = text.replace(value, HIDDEN)
        for pattern in _PATTERNS:
            text = pattern.sub(HIDDEN, text)
        text = _USER_OF_URL.sub(rf"\g<scheme>{HIDDEN}@", text)
        text = _BEARER.sub(rf"\g<head>{HIDDEN}", text)
        return _ASSIGNED.sub(_without_value, text)

    def hide_all(self, value: object) -> object:
        """Hides secrets in every text of plain data, and the values of keys with secret names."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {
                self.hide(str(key)): HIDDEN
                if item and isinstance(item, str) and is_secret_name(str(key))
                else self.hide_all(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.hide_all(item) for item in value]
        return value


def is_secret_name(name: str) -> bool:
    """Returns whether the name of a variable suggests a secret.

    >>> [is_secret_name(name) for name in ("WANDB_API_KEY", "HF_TOKEN", "max_new_tokens", "tokenizer", "cache_key")]
    [True, True, False, False, True]
    """
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name) and "tokeni" not in name.lower()


def is_secret_file(path: str) -> bool:
    """Returns whether the name of a file suggests secrets.

    >>> is_secret_file("deploy/.env"), is_secret_file("dialsum/tokenizers.py")
    (True, False)
    """
    return bool(_SECRET_FILES.search(PurePosixPath(path).name))


def _without_value(match: "re.Match[str]") -> str:
    head, sign, value = match.group("head"), match.group("sign"), match.group("value")
    quote = value[0] if value[0] in "'\"" else ""
    is_secret = is_secret_name(match.group("name")) or match.group("name").lower() == "key"
    if not is_secret or _is_harmless(match.group("name").lower(), sign, value.strip("'\""), is_text=bool(quote)):
        return match.group(0)
    return f"{head}{quote}{HIDDEN}{quote}"


def _is_harmless(name: str, sign: str, value: str, *, is_text: bool) -> bool:
    """Returns whether a value is ordinary code: types, calls, attributes and numbers stay readable."""
    if name == "key":  # also a sort key or a mapping's key: hide only values that look like real keys
        return not (is_text and len(value) >= 10 and re.search(r"\d", value) and re.fullmatch(r"[\w-]+", value))
    if sign.isspace():
        return not name.startswith("-")  # prose, except a flag and its value
    if is_text:
        return not value
    if value in (HIDDEN, "None", "null", "True", "False", "true", "false", "str", "=") or value.startswith(("$", "{")):
        return True
    called = re.fullmatch(r"[A-Za-z_][\w.]*[(\[].*|[\d.]+", value) is not None
    return called or (sign.startswith(" ") and re.fullmatch(r"[A-Za-z_.]+", value) is not None)
