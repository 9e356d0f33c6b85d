"""Objects by URI: every write is atomic, whole or not at all.

Parts are small enough to be held in memory (see `snapshot.part_rows`), so reading and writing
whole objects is all that Daybreak needs, and it is the same on a disk and on an object store. What
is written is safe when the call returns: an object store has answered, or the disk has the bytes.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from include import local_files, object_stores
from include.errors import BadConfig, PermanentError, TransientError


@dataclass(frozen=True)
class Entry:
    """One stored object; `size` in bytes."""

    uri: str
    size: int
    modified_at: dt.datetime


def join(uri: str, *names: str) -> str:
    """The URI of an object below `uri`; `names` are plain names or relative paths, not quoted."""
    return "/".join((uri.rstrip("/"), *(quote(name.strip("/"), safe="/=") for name in names)))


def local_path(uri: str) -> Path | None:
    """The path of a file:// URI; None for any other."""
    split = urlsplit(uri)
    return Path(unquote(split.path)) if split.scheme == "file" else None


def read(uri: str) -> bytes:
    """The whole object. Raises FileNotFoundError where there is none."""
    with _translated(uri, "read"):
        path = local_path(uri)
        if path is not None:
            return path.read_bytes()
        import obstore

        store, key = _locate(uri)
        return bytes(obstore.get(store, key).bytes())


def read_end(uri: str, length: int) -> tuple[bytes, int]:
    """The last `length` bytes of the object, or all of a shorter one, and its whole size.

    Raises FileNotFoundError where there is none.
    """
    import obstore

    store, key = _locate(uri)
    with _translated(uri, "read"):
        size = int(obstore.head(store, key)["size"])
        start = max(0, size - length)
        # A range may not be empty.
        end = bytes(obstore.get_range(store, key, start=start, end=size)) if size else b""
    return end, size


def write(uri: str, data: bytes) -> None:
    """Write the object, or replace it; readers see the old bytes or the new, never a mixture."""
    with _translated(uri, "write"):
        _put(uri, data, replace=True)


def create(uri: str, data: bytes) -> bool:
    """Write the object unless there is one already; False where there was one.

    Of many writers at once exactly one gets True. An object store may take a request and lose its
    answer: then the writer asks again, and gets False for what it wrote itself.
    """
    with _translated(uri, "write"):
        return _put(uri, data, replace=False)


def _put(uri: str, data: bytes, *, replace: bool) -> bool:
    path = local_path(uri)
    if path is not None:
        return local_files.put(path, data, replace=replace)
    import obstore
    from obstore.exceptions import AlreadyExistsError

    store, key = _locate(uri)
    try:
        if replace:
            obstore.put(store, key, data)
        else:
            obstore.put(store, key, data, mode="create")
    except AlreadyExistsError:
        return False
    return True


def exists(uri: str) -> bool:
    path = local_path(uri)
    if path is not None:
        return path.exists()
    import obstore

    store, key = _locate(uri)
    with _translated(uri, "read"):
        try:
            obstore.head(store, key)
        except FileNotFoundError:
            return False
    return True


def entries(uri: str) -> Iterator[Entry]:
    """Every object below `uri`, in the order of their names; none where nothing is there."""
    import obstore

    store, prefix = _locate(uri.rstrip("/"))
    with _translated(uri, "list"):
        found = [meta for batch in obstore.list(store, prefix) for meta in batch]
    for meta in sorted(found, key=lambda meta: meta["path"]):
        below = meta["path"][len(prefix) :].lstrip("/")
        yield Entry(join(uri, below), meta["size"], meta["last_modified"])


def unfinished(uri: str) -> Iterator[Entry]:
    """What killed writers left of objects below `uri`; on a disk only.

    There, an object is written as <name>#1 and renamed, by delta-rs too. Listings pass over such
    names. On an object store an unfinished upload is no object; its own life-cycle
    rules remove it.
    """
    root = local_path(uri)
    if root is None:
        return
    for path in sorted(root.rglob("*#*")):
        if not local_files.is_unfinished(path.name):
            continue
        try:
            found = path.stat()
        except FileNotFoundError:  # it was whole, and renamed, since it was listed
            continue
        modified_at = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC)
        yield Entry(join(uri, path.relative_to(root).as_posix()), found.st_size, modified_at)


def delete(uris: list[str]) -> None:
    """Delete these objects; one that is gone already is no error."""
    import obstore

    for uri in uris:
        path = local_path(uri)
        store, key = _locate(uri)
        with _translated(uri, "delete"):
            try:
                if path is not None and local_files.is_unfinished(path.name):
                    path.unlink()  # obstore knows no such name
                else:
                    obstore.delete(store, key)
            except FileNotFoundError:
                continue


def reach(uri: str) -> None:
    """Set up what reaches the storage of `uri`, without a request.

    Raises BadConfig where its address or what is known of its credentials allows none.
    """
    _locate(uri)


def _root(uri: str) -> tuple[str, str]:
    """Split a URI into the store's root and the key in it."""
    split = urlsplit(uri)
    if split.scheme == "file":
        return "file://", unquote(split.path).lstrip("/")
    return f"{split.scheme}://{split.netloc}", unquote(split.path).lstrip("/")


def _locate(uri: str) -> tuple[Any, str]:
    root, key = _root(uri)
    return _store(root), key


@lru_cache(maxsize=16)
def _store(root: str) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, from_url

    if root == "file://":
        return LocalStore("/")
    options = object_stores.options(root)
    client = {"allow_http": True} if options.pop("allow_http", "") else None
    try:
        return from_url(root, config=options, client_options=client)
    except (BaseError, ValueError) as error:  # nothing was asked yet
        raise BadConfig(
            f"{root} cannot be reached with what is known of it: {str(error).splitlines()[0]}",
            do="correct the URI, or the credentials in its connection or in the environment",
        ) from None


class _translated:
    """Turn a storage fault into one of our two kinds, with the URI and the operation in it."""

    def __init__(self, uri: str, operation: str) -> None:
        self.uri, self.operation = uri, operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        looked_up = self.operation in ("read", "delete")
        if kind is None or (looked_up and issubclass(kind, FileNotFoundError)):
            return
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        first_line = str(error).splitlines()[0] if str(error) else kind.__name__
        found = f"storage could not {self.operation} {self.uri}: {first_line}"
        # Of listings, and of Azure's deletions, obstore gives every refusal the same kind.
        refusal = re.search("non-2xx status code: ([0-9]+)", first_line)
        status = refusal[1] if refusal else ""
        if issubclass(kind, FileNotFoundError) or status == "404":
            raise PermanentError(found, do="create that bucket, or correct its name") from error
        denied = (PermissionDeniedError, UnauthenticatedError, PermissionError)
        if issubclass(kind, denied) or status in ("401", "403"):
            raise PermanentError(found, do="give this process access to it") from error
        if issubclass(kind, (BaseError, OSError)):
            raise TransientError(found, do="see that the storage is up and has room") from error
