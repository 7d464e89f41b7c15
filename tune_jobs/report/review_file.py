"""Writes review.md and never overwrites a review that a person has edited."""

import hashlib
import re
from pathlib import Path

from tune_jobs.report.findings import Findings
from tune_jobs.report.review import build_review
from tuning_common.files import write_text

_SIGNATURE = re.compile(r"\n<!-- written by tune_jobs, sha256 (?P<digest>[0-9a-f]{64}) -->\n\Z")


def write_review(findings: Findings, *, overwrite: bool = False) -> Path | None:
    """Writes the review unless a person has edited the existing one.

    Args:
        findings: The findings of the sweep.
        overwrite: Whether to write it in any case.

    Returns:
        Its path; None if an edited review was left alone.
    """
    path = findings.sweep.review
    if is_edited(path) and not overwrite:
        return None
    text = build_review(findings)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"{text}\n<!-- written by tune_jobs, sha256 {digest} -->\n")
    return path


def is_edited(path: Path) -> bool:
    """Returns whether a review differs from what the program wrote; an absent one is not edited."""
    if not path.exists():
        return False
    content = path.read_text(encoding="utf-8")
    signature = _SIGNATURE.search(content)
    return signature is None or hashlib.sha256(content[: signature.start()].encode()).hexdigest() != signature["digest"]
