"""Uploads a handed-over model to the Hugging Face hub, through the hub's own library."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.records.redaction import Redactor
from tuning_common.errors import ProductError, RequestError, WorkError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REFUSED = (401, 403, 404)  # the hub answers 404 where a token may not see a repository


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A model on the hub.

    Attributes:
        repo: OWNER/NAME.
        url: Its page.
        private: Whether only its owner sees it.
    """

    repo: str
    url: str
    private: bool


def hub_of(repo: str) -> "HfApi":
    """Returns the hub with this user's token: HF_TOKEN, or that of `hf auth login`. HF_ENDPOINT names another hub.

    Raises:
        RequestError: When there is no token, or the hub would not take the name.
    """
    from huggingface_hub import HfApi, get_token

    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo, re.ASCII):
        raise RequestError(f"--push {repo}: write OWNER/NAME, for example my-team/summarizer")
    token = get_token()
    if token is None:
        raise RequestError(
            "--push needs a token of the Hugging Face hub that may write",
            ["hf auth login", "or export HF_TOKEN=... in this shell; never on the command line"],
        )
    return HfApi(token=token)


def files_of(folder: Path) -> dict[str, int]:
    """Returns the files that are uploaded from a model's folder, with their bytes."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }


def push(hub: "HfApi", model: Path, repo: str, *, public: bool = False) -> Pushed:
    """Uploads a model's folder, with its card; makes the repository where it is not there.

    Args:
        hub: See hub_of.
        model: The folder.
        repo: OWNER/NAME.
        public: Whether everybody may see it.

    Raises:
        RequestError: When the token may not write there, or the repository is public and that is not wished.
        WorkError: When the upload fails.
    """
    with _hub_errors(hub, repo, model):
        made = hub.create_repo(repo, private=not public, exist_ok=True)
        is_private = bool(hub.model_info(made.repo_id).private)
        if not is_private and not public:
            raise RequestError(f"{made} is public; add --public to upload there, or give another name")
        hub.upload_folder(repo_id=made.repo_id, folder_path=model, commit_message=f"Hand over {model.parent.name}")
    return Pushed(repo=made.repo_id, url=str(made), private=is_private)


@contextmanager
def _hub_errors(hub: "HfApi", repo: str, model: Path) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    later = f"the model is complete in {model}; to send it later: hf upload {repo} {model}"
    try:
        yield
    except ProductError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _REFUSED:
            raise RequestError(
                f"{hub.endpoint} refuses to write {repo} ({status}): is the token valid, and may it write there?",
                ["hf auth whoami", later],
            ) from None
        raise WorkError(f"{hub.endpoint} answered {status} for {repo}; {later}") from None
    except Exception as error:  # no connection, and whatever the library refuses
        secrets = (hub.token,) if isinstance(hub.token, str) else ()
        reason = Redactor(values=secrets).hide(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise WorkError(f"{hub.endpoint}: the upload failed ({reason}); {later}") from None
