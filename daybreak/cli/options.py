"""Arguments and options that several commands have."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer


def date_of(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write it as 2013-10-01") from None


def pipeline_names(typed: str) -> list[str]:
    """What a shell completes NAME with."""
    from include.errors import DaybreakError
    from include.pipeline import pipeline_folders
    from include.settings import settings

    try:
        folders = pipeline_folders(settings().pipelines)
    except (DaybreakError, OSError):
        return []  # in the middle of a line that somebody types; the command itself says it
    return [folder.name for folder in folders if folder.name.startswith(typed)]


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="The pipeline: its folder's name.", autocompletion=pipeline_names
    ),
]
Date = Annotated[
    dt.date | None,
    typer.Option("--date", "-d", metavar="DATE", parser=date_of, help="Any day of the partition."),
]
Day = Annotated[
    dt.date,
    typer.Option("--date", "-d", metavar="DATE", parser=date_of, help="Any day of the partition."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log one JSON line a step to stderr.")
]
