"""The `daybreak` command. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

import daybreak

if TYPE_CHECKING:
    from rich.console import Console

OK, FAILED, BAD_CONFIG, HELD = 0, 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 published or unchanged, 1 the run failed, 2 bad usage or configuration, "
    "3 held for approval."
)

BACKFILL_EXIT_CODES = (
    "Exit codes: 0 every partition that was to run is published, 1 one is not or failed after, "
    "2 bad usage or configuration, nothing was run, 3 the others are held for approval, "
    "130 stopped by Ctrl-C."
)

ROLLBACK_EXIT_CODES = (
    "Exit codes: 0 every partition that was meant is rolled back, 1 one could not be, 2 bad usage."
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
Day = Annotated[
    dt.date,
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
    date: Day,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the versions of a partition, the oldest first: who, when, of what, and their state."""
    with _told(as_json, debug):
        from daybreak.versions import table_of, versions_json, versions_of, versions_table

        table = table_of(name)
        as_of = table.as_of(date)
        found = versions_of(table.store, as_of)
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


@app.command(epilog=ROLLBACK_EXIT_CODES)
def rollback(
    name: Name,
    date: Date = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="This version; the one before if left."),
    ] = None,
    model_version: Annotated[
        str | None,
        typer.Option(
            "--model-version", metavar="V", help="Every partition that this model version made."
        ),
    ] = None,
    since: Annotated[
        dt.date | None,
        typer.Option(metavar="DATE", parser=_date, help="With --model-version: the first day."),
    ] = None,
    until: Annotated[
        dt.date | None,
        typer.Option(metavar="DATE", parser=_date, help="With --model-version: the last day."),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decided it; this user if left.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be rolled back, and change nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show readers an older version again: of one partition, or of all of a model version.

    Every file of the older version is verified before. The version that is
    left does not come back when its run is repeated; name it with --to for that.
    """
    with _told(as_json, debug):
        from daybreak.rollback import rollback_command
        from include.settings import current_user

        who, shown = by or current_user(), None if as_json else _console()
        value, code = rollback_command(
            name, date, to, since, until, model_version, who, reason, dry_run, shown
        )
        if as_json:
            _json(value)
        raise typer.Exit(code)


@app.command()
def diff(
    name: Name,
    before: Annotated[str, typer.Argument(metavar="V1", help="The version to compare with.")],
    date: Day,
    after: Annotated[
        str | None, typer.Argument(metavar="V2", help="The other one; the current one if left.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two versions of a partition: rows by key, scores, and the other columns."""
    with _told(as_json, debug):
        from daybreak.diff import diff_command

        value = diff_command(name, date, before, after, None if as_json else _console())
        if as_json:
            _json(value)


@app.command(epilog="Exit codes: 0 the same bit for bit, 1 not the same or not found, 2 bad usage.")
def why(
    name: Name,
    date: Day,
    key: Annotated[
        list[str],
        typer.Option("--key", metavar="NAME=VALUE", help="A column of the key; once for each."),
    ],
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="The current one if left.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Replay one published prediction, and show its features and where all of it comes from.

    The model that was pinned scores the stored features again.
    """
    with _told(as_json, debug):
        from daybreak.why import why_command

        value, code = why_command(name, date, key, version, None if as_json else _console())
        if as_json:
            _json(value)
        raise typer.Exit(code)


@app.command()
def expire(
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete what the pipeline's retention no longer keeps, and tidy its table.

    What readers see is never deleted. Killed at any moment, running it again
    finishes it. Airflow's DAG daybreak_upkeep does it daily.
    """
    with _told(as_json, debug):
        from daybreak.expire import expire_command

        value = expire_command(name, dry_run, None if as_json else _console())
        if as_json:
            _json(value)


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


@app.command(epilog=BACKFILL_EXIT_CODES)
def backfill(
    name: Name,
    first: Annotated[
        dt.date, typer.Option("--from", metavar="DATE", parser=_date, help="The first day.")
    ],
    last: Annotated[
        dt.date, typer.Option("--to", metavar="DATE", parser=_date, help="The last day, included.")
    ],
    only: Annotated[
        Literal["missing", "stale", "all"],
        typer.Option(
            help="missing: partitions without a version; stale: those, and those that a run would "
            "make anew; all."
        ),
    ] = "missing",
    via: Annotated[
        Literal["local", "airflow"],
        typer.Option(help="Processes of this machine, or the backfills of an Airflow."),
    ] = "local",
    parallel: Annotated[
        int, typer.Option("--parallel", "-n", metavar="N", min=1, help="Partitions at a time.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run and why, and run nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the partitions of a range of days, and publish each.

    Days are local to the pipeline and inclusive; each stands for the
    partition that contains it. Running it again does what is left.
    """
    with _told(as_json, debug):
        from daybreak.backfill_command import backfill_command

        out, err, now = _console(), _console(stderr=True), dt.datetime.now(dt.UTC)
        shown = None if as_json else out
        value, code = backfill_command(
            name, first, last, only, via, parallel, dry_run, now, shown, err
        )
        if as_json:
            _json(value)
        raise typer.Exit(code)


@app.command()
def status(
    name: Name,
    first: Annotated[
        dt.date | None,
        typer.Option(
            "--from", metavar="DATE", parser=_date, help="The first day; a screen of them if left."
        ),
    ] = None,
    last: Annotated[
        dt.date | None,
        typer.Option(
            "--to", metavar="DATE", parser=_date, help="The last day; the newest possible if left."
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave out the registry: quick, without its model.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what readers have of each partition, as a calendar, and why not the rest."""
    with _told(as_json, debug):
        from daybreak.status import print_status, status_json, status_of
        from include.settings import silence_telemetry

        silence_telemetry()
        with _console(stderr=True).status("Looking …"):
            found = status_of(name, first, last, dt.datetime.now(dt.UTC), offline)
        if as_json:
            _json(status_json(found))
        else:
            print_status(_console(), found)


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
