"""How a command ends: what it prints of its result or its error, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from daybreak.exit_codes import BAD_CONFIG, FAILED, HELD, INTERRUPTED, OK
from include.termination import RESUMABLE, Terminated, ended_by_sigterm
from include.termination import leave as end_now

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def told(as_json: bool, debug: bool) -> Iterator[None]:
    """Turn an error of a command into one message on stderr, and into JSON where that is wanted."""
    try:
        with ended_by_sigterm():
            yield
    except Terminated:
        typer.echo("Stopped by SIGTERM. What is finished stays; run it again to go on.", err=True)
        end_now(RESUMABLE)
    except (typer.Exit, typer.BadParameter, typer.Abort):
        raise
    except KeyboardInterrupt:
        typer.echo("\nStopped. What is finished stays; run it again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        leave_quietly()
    except Exception as error:  # noqa: BLE001 - nobody above could say it better
        from daybreak.progress import sentence
        from include.errors import DaybreakError

        err = console(stderr=True)
        known = isinstance(error, DaybreakError)
        held = code_of(error, None) == HELD
        say(
            err, "Held" if held else "Error" if known else "Unexpected error", sentence(error), held
        )
        if debug:
            print_traceback(err, error)
        elif not known:
            err.print("Run it again with --debug to see where.", style="dim")
        if as_json:
            fields = (
                error.fields()
                if isinstance(error, DaybreakError)
                else {"error": type(error).__name__, "found": str(error)}
            )
            print_json({"schema_version": 1, "exit_code": code_of(error, None), "error": fields})
        raise typer.Exit(code_of(error, None)) from None


def code_of(error: Exception, step: str | None) -> int:
    from include.audit import HeldForApproval
    from include.errors import BadConfig

    if isinstance(error, HeldForApproval):
        return HELD
    # Later steps meet bad configuration too, but only what stops a plan has run nothing.
    return BAD_CONFIG if isinstance(error, BadConfig) and step in (None, "plan") else FAILED


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def say(err: Console, title: str, message: str, held: bool = False) -> None:
    from rich.text import Text

    style = "bold yellow" if held else "bold red"
    err.print(Text.assemble((f"{title}: ", style), message), soft_wrap=not err.is_terminal)


def print_traceback(err: Console, error: BaseException) -> None:
    import traceback

    for line in traceback.format_exception(error):
        err.out(line.rstrip("\n"), style="dim", highlight=False)


def print_json(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def log_to_stderr(verbose: bool) -> None:
    """The logger `daybreak` to stderr with -v; without, its warnings are the board's to tell."""
    import logging
    import warnings

    log = logging.getLogger("daybreak")
    log.propagate = False
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    else:
        log.addHandler(logging.NullHandler())
        warnings.simplefilter("ignore")


def leave_quietly() -> NoReturn:
    """The reader of our output, such as `head`, has gone: there is nobody to tell."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(OK) from None
