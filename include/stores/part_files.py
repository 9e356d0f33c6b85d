"""A stored version's Parquet parts: their bytes, held against the receipts of those who scored."""

from __future__ import annotations

import hashlib

from include import storage
from include.errors import CorruptData
from include.run import Receipt
from include.stores import VersionManifest

GONE, CHANGED = "is gone", "is not the file that was scored"
_AGAIN = "run the partition again with the same model, which scores that part anew"
_DO = {
    GONE: f"{_AGAIN}, or choose another version",
    CHANGED: f"delete that file and {_AGAIN}, or choose another version",
}


def damaged(part: str, fault: str, uri: str, do: str = "") -> CorruptData:
    """The error for a part, as `part` names it, that is GONE or CHANGED."""
    return CorruptData(f"{part} {fault}", where=uri, do=do or _DO[fault])


def intact(manifest: VersionManifest, receipt: Receipt, do: str = "") -> bytes:
    """The bytes of a part, which are those that were scored.

    Raises CorruptData where it is gone, or where its SHA-256 is not that of the receipt.
    """
    content, fault = examine(receipt)
    if fault is not None:
        part = f"part {receipt.part} of version {manifest.version} of {manifest.as_of}"
        raise damaged(part, fault, receipt.uri, do)
    return content


def examine(receipt: Receipt) -> tuple[bytes, str | None]:
    """The bytes of a part and what is wrong with them, if anything: GONE or CHANGED."""
    try:
        content = storage.read(receipt.uri)
    except FileNotFoundError:
        return b"", GONE
    same = hashlib.sha256(content).hexdigest() == receipt.digest
    return content, None if same else CHANGED
