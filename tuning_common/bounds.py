"""Keeps what a program removes and writes inside one folder, whatever paths a file names."""

import itertools
import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)


def lies_inside(path: Path, root: Path) -> bool:
    """Returns whether a path lies in a folder and no part of it below the folder is a link.

    The folder itself may be a link. A path that contains `..` counts as outside.
    """
    absolute = path.absolute()
    for base in (root.absolute(), root.resolve()):
        if absolute.is_relative_to(base):
            steps = absolute.relative_to(base).parts
            parents = itertools.accumulate(steps, os.path.join, initial=str(base))
            return (
                bool(steps) and ".." not in steps and not any(map(os.path.islink, itertools.islice(parents, 1, None)))
            )
    return False


def remove_folder(path: Path, root: Path) -> None:
    """Removes a folder if it lies inside another one; else leaves it alone and logs a warning.

    Args:
        path: The folder; one that does not exist, or cannot be removed, is ignored.
        root: See lies_inside.
    """
    if lies_inside(path, root):
        shutil.rmtree(path, ignore_errors=True)  # it follows no link inside
    elif path.exists() or path.is_symlink():
        logger.warning("%s is not removed: it is or lies behind a link, or outside of %s", path, root)
