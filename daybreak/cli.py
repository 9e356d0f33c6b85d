"""The `daybreak` command. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import daybreak

if TYPE_CHECKING:
    from rich.console import Console

OK, FAILED, BAD_CONFIG, HELD = 0, 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 published or unchanged, 1 the run failed, 2 bad usage or configuration, "
    "3 held for approval."
)

app = typer.Typer(
    name="daybreak",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Scheduled batch inference: every night a complete, audited, versioned prediction table.",
    epilog="Settings come from DAYBREAK_HOME, DAYBREAK_WORKSPACE, DAYBREAK_REGISTRY and "
    "DAYBREAK_PIPELINES; see README.md.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"daybreak {daybreak.__version__}")
        raise typer.Exit


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write it as 2013-10-01") from None


Name = Annotated[str, typer.Argument(metavar="NAME", help="The pipeline: its folder's name.")]
Date = Annotated[
    dt.date | None,
    typer.Option("--date", "-d", metavar="DATE", parser=_date, help="Any day of the partition."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log one JSON line a step to stderr.")
]


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None: ...


@app.command(epilog=EXIT_CODES)
def run(
    name: Name,
    date: Date = None,
    model_version: Annotated[
        str | None,
        typer.Option("--model-version", metavar="V", help="Use this version, not the alias's."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score one partition on this machine, and publish it.

    Without --date it is the partition that the schedule would take now.
    Running it again is safe: finished work is not redone, and the same inputs
    give the same version.
    """
    with _told(as_json, debug):
        from daybreak.progress import progress_on, sentence
        from daybreak.run import new_request, run_steps
        from daybreak.summary import load_report, print_summary, summary_json
        from include.pipeline import load_named
        from include.settings import settings, silence_telemetry

        load_named(settings().pipelines, name)  # a misspelt name leaves nothing in the workspace
        silence_telemetry()
        err = _console(stderr=True)
        _log(verbose)
        request = new_request(name, dt.datetime.now(dt.UTC), date, model_version)
        err.print(f"Running [bold]{name}[/], run {request.invocation.id}", highlight=False)
        with progress_on(err, plain=verbose) as progress:
            outcome = run_steps(request, progress)
        code = _exit_code(outcome.report.state if outcome.report else None, outcome.failed_step)
        if outcome.error is not None:
            code = HELD if code == HELD else _code_of(outcome.error, outcome.failed_step)
            err.print()
            _say(err, f"{outcome.failed_step} failed", sentence(outcome.error), code == HELD)
            if debug:
                _traceback(err, outcome.error)
        if outcome.report is None:
            if as_json:
                _json(
                    {
                        "schema_version": 1,
                        "run_id": outcome.run_id,
                        "exit_code": code,
                        "state": "failed",
                        "error": sentence(outcome.error or Exception()),
                    }
                )
        elif as_json:
            _json(summary_json(load_report(outcome.report), outcome.report, code))
        else:
            print_summary(_console(), outcome.report)
        raise typer.Exit(code)


@app.command(epilog="Exit codes: 0 nothing is wrong, 2 something is.")
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Pipelines; all of them where none is named."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave out the registry and the connections.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check pipeline folders without running them.

    YAML against the schema, the query, the suite, the model and its inputs,
    the connection: every problem of every folder, with its file and line.
    """
    with _told(as_json, debug):
        from daybreak.check import check_all, checked_json, print_checked
        from include.settings import settings, silence_telemetry

        silence_telemetry()
        err = _console(stderr=True)
        with err.status("Checking …") as status:
            checked = check_all(
                settings().pipelines,
                names or (),
                offline,
                lambda name: status.update(f"Checking {name} …"),
            )
        if as_json:
            _json(checked_json(checked, offline))
        else:
            print_checked(_console(), checked, offline)
        raise typer.Exit(OK if all(one.ok for one in checked) else BAD_CONFIG)


@app.command()
def versions(
    name: Name,
    date: Annotated[
        dt.date,
        typer.Option(
            "--date", "-d", metavar="DATE", parser=_date, help="Any day of the partition."
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the committed versions of a partition, the oldest first."""
    with _told(as_json, debug):
        from daybreak.versions import table_of, versions_json, versions_table

        table = table_of(name)
        as_of = table.as_of(date)
        found = table.store.versions(as_of)
        if as_json:
            _json(versions_json(name, as_of, found))
        elif found:
            out = _console()
            out.print(versions_table(found))
            out.print(
                f"Read one: daybreak.read({name!r}, as_of='{as_of}', version='…')",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        else:
            _console().print(f"{name} has no version of {as_of}.", highlight=False)


@app.command()
def report(
    name: Name,
    date: Date = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show where the latest run's report is, of any partition or of one."""
    with _told(as_json, debug):
        from daybreak.reports import latest_report
        from daybreak.summary import shown, summary_json

        found, content = latest_report(name, date)
        if as_json:
            code = _exit_code(content.state, None)
            _json(summary_json(content, found, code))
        else:
            # The path alone, so that `$(daybreak report NAME)` is it.
            typer.echo(shown(found.html))
        if open_it:
            typer.launch(found.html)


@app.command()
def demo(
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Load a year of flights, train a model, and run its pipeline in Airflow for 2013-10-01.

    It needs the package index once, for the data. A second run is quick and
    changes nothing.
    """
    with _told(False, debug):
        from daybreak.demo import run_demo

        raise typer.Exit(run_demo(_console(), verbose))


def main() -> None:
    """The entry point: one clear message for an error, and its exit code."""
    app(prog_name="daybreak")


@contextmanager
def _told(as_json: bool, debug: bool) -> Iterator[None]:
    """Turn an error of a command into one message on stderr, and into JSON where that is wanted."""
    try:
        yield
    except (typer.Exit, typer.BadParameter, typer.Abort):
        raise
    except KeyboardInterrupt:
        typer.echo("\nStopped. What is finished stays; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        _leave_quietly()
    except Exception as error:  # noqa: BLE001 - nobody above could say it better
        from daybreak.progress import sentence
        from include.errors import DaybreakError

        err = _console(stderr=True)
        known = isinstance(error, DaybreakError)
        _say(err, "Error" if known else "Unexpected error", sentence(error))
        if debug:
            _traceback(err, error)
        elif not known:
            err.print("Run it again with --debug to see where.", style="dim")
        if as_json:
            fields = (
                error.fields()
                if isinstance(error, DaybreakError)
                else {"error": type(error).__name__, "found": str(error)}
            )
            _json({"schema_version": 1, "exit_code": _code_of(error, None), "error": fields})
        raise typer.Exit(_code_of(error, None)) from None


def _exit_code(state: str | None, failed_step: str | None) -> int:
    """Of a run that ended in `state`; a step that failed after publishing makes it fail too."""
    if state == "held":
        return HELD
    return OK if state in ("published", "unchanged") and failed_step is None else FAILED


def _code_of(error: Exception, step: str | None) -> int:
    from include.errors import BadConfig

    # Later steps meet bad configuration too, but only what stops a plan has run nothing.
    return BAD_CONFIG if isinstance(error, BadConfig) and step in (None, "plan") else FAILED


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _say(err: Console, title: str, message: str, held: bool = False) -> None:
    from rich.text import Text

    style = "bold yellow" if held else "bold red"
    err.print(Text.assemble((f"{title}: ", style), message), soft_wrap=not err.is_terminal)


def _traceback(err: Console, error: BaseException) -> None:
    import traceback

    for line in traceback.format_exception(error):
        err.out(line.rstrip("\n"), style="dim", highlight=False)


def _json(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _log(verbose: bool) -> None:
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


def _leave_quietly() -> NoReturn:
    """The reader of our output, such as `head`, has gone: there is nobody to tell."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(OK) from None
