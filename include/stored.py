"""Values as JSON in storage: what cannot be read back says which file it is and what to do."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from include import storage
from include.errors import CorruptData
from include.run import Value

V = TypeVar("V", bound=Value)


def load(kind: type[V], uri: str, what: str) -> V:
    """The value at `uri`, named `what` to people, as in "the scoring job".

    Raises FileNotFoundError where there is none, and CorruptData where other bytes are.
    """
    content = storage.read(uri)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise CorruptData(
            f"{what} holds {len(content)} bytes that are none: {error.errors()[0]['msg']}",
            where=uri,
            do="restore it from a backup, or delete it and run the partition again",
        ) from None
