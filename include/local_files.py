"""Files on a disk, written so that a name stands for whole bytes that no power cut takes back.

A file is written under another name, <name>#1, and forced to the disk before it gets its own; then
its folder is forced to the disk. So whatever names a file, a manifest or a commit, is written when
that file is safe, and a kill or a power cut leaves the name out or leaves it whole.
"""

from __future__ import annotations

import errno
import os
import re
from itertools import count
from pathlib import Path

# How a file's name ends until it is whole; obstore and delta-rs do the same.
_UNFINISHED = re.compile(r"#\d+$")

# What file systems answer that cannot force a folder, as those of some network shares.
_UNFORCEABLE = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def is_unfinished(name: str) -> bool:
    """Whether a file is no object yet, and never will be once its writer is dead."""
    return _UNFINISHED.search(name) is not None


def put(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write a file and its folders; False, and nothing changed, where it is there already and may
    not be replaced. Of many writers at once that do not replace, exactly one gets True.
    """
    make_folder(path.parent)
    unfinished = _written(path, data)
    try:
        if replace:
            unfinished.replace(path)
        else:
            path.hardlink_to(unfinished)
            unfinished.unlink()
    except FileExistsError:
        unfinished.unlink()
        force(path.parent)  # who was faster may not have come to it yet
        return False
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    force(path.parent)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which is on the disk when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    force(folder.parent)


def force(path: Path) -> None:
    """Return once the disk has a file's bytes, or the names in a folder, whoever wrote them."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNFORCEABLE or not path.is_dir():
            raise
    finally:
        os.close(file)


def _written(path: Path, data: bytes) -> Path:
    """The bytes on the disk, under the first name that no other writer has."""
    for number in count(1):
        unfinished = path.with_name(f"{path.name}#{number}")
        try:
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return unfinished
    raise AssertionError("the numbers never end")
