"""review.md is for people to tick and write in: the program never overwrites what they wrote."""

import hashlib
import re
from pathlib import Path

from common.files import write_text
from tune_jobs.report.findings import Findings
from tune_jobs.report.review import build_review

_MARK = re.compile(r"\n<!-- written by tune_jobs, sha256 (?P<digest>[0-9a-f]{64}) -->\n\Z")


def write_review(findings: Findings, *, overwrite: bool = False) -> Path | None:
    """Writes the review unless a person has edited the one that is there.

    Args:
        findings: Of the sweep.
        overwrite: Write it in any case.

    Returns:
        Where it is; None where an edited one was left alone.
    """
    path = findings.sweep.review
    if is_edited(path) and not overwrite:
        return None
    text = build_review(findings)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"{text}\n<!-- written by tune_jobs, sha256 {digest} -->\n")
    return path


def is_edited(path: Path) -> bool:
    """Whether a review is not as the program wrote it; an absent one is not edited."""
    if not path.exists():
        return False
    content = path.read_text(encoding="utf-8")
    mark = _MARK.search(content)
    return mark is None or hashlib.sha256(content[: mark.start()].encode()).hexdigest() != mark["digest"]
