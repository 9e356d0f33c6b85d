"""A run that ends before any work: a dry run, or one with nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.run import Request

if TYPE_CHECKING:
    from rich.console import Console


def previewed(request: Request, out: Console | None) -> dict[str, Any] | None:
    """What `--json` prints of a run that ends here, or None where it goes on.

    The sentence is printed to `out`, where there is one.
    """
    from tasks.preview import preview

    found = preview(request)
    if not found.ends_here:
        return None
    if out is not None:
        sentence = str(found)
        out.print(f"{request.pipeline}: {sentence}.", soft_wrap=True, markup=False, highlight=False)
    return {
        "schema_version": 1,
        "state": "not run",
        "exit_code": 0,
        "partition": str(found.partition),
        "preview": found.model_dump(mode="json"),
    }
