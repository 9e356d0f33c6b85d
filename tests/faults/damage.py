"""What happens to files behind a command's back, at a point of its way: see nursery.py."""

from __future__ import annotations

import resource
import shutil
import signal
from pathlib import Path
from typing import Any


def _only(pattern: str) -> Path:
    (path,) = Path("/").glob(pattern.lstrip("/"))
    return path


def cut(pattern: str) -> None:
    """The file's second half is lost."""
    path = _only(pattern)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(pattern: str) -> None:
    """One bit in the middle of the file is another."""
    path = _only(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(pattern: str) -> None:
    """The file is gone, or the folder with all that it held."""
    path = _only(pattern)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def replace(pattern: str, by: str) -> None:
    """Another file lies in its place."""
    path = Path("/") / pattern.lstrip("/") if "*" not in pattern else _only(pattern)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_only(by), path)


def limit_files(size: int) -> None:
    """From now on no object that is written may grow beyond `size` bytes; the log still may."""
    from include import storage

    real = storage._put
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limited(*args: Any, **options: Any) -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            return real(*args, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    storage._put = limited
