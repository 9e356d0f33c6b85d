"""Commands that run partitions, and show what became of them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import typer

from daybreak.cli.options import Date, Debug, Json, Name, Verbose, date_of
from daybreak.cli.outcome import (
    code_of,
    console,
    log_to_stderr,
    print_json,
    print_traceback,
    say,
    told,
)
from daybreak.exit_codes import FAILED, HELD, OK, exit_code_of


def run(
    name: Name,
    date: Date = None,
    model_version: Annotated[
        str | None,
        typer.Option("--model-version", metavar="V", help="Use this version, not the alias's."),
    ] = None,
    model_alias: Annotated[
        str | None,
        typer.Option("--model-alias", metavar="A", help="Use the version behind this alias."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Score on local, spark or kubernetes instead."),
    ] = None,
    rescore: Annotated[
        Literal["missing", "stale", "all"],
        typer.Option(
            help="missing: only if it has no version; stale: also if a run would make it anew; all."
        ),
    ] = "all",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and why, and do nothing.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score one partition on this machine, and publish it.

    Without --date it is the partition that the schedule would take now.
    Running it again is safe: finished work is not redone, and the same inputs
    give the same version.
    """
    with told(as_json, debug):
        from daybreak.progress import progress_on, sentence
        from daybreak.run import new_request, run_steps
        from daybreak.summary import load_report, print_summary, summary_json
        from include.pipeline import load_named
        from include.settings import settings, silence_telemetry

        load_named(settings().pipelines, name)  # a misspelt name leaves nothing in the workspace
        silence_telemetry()
        err = console(stderr=True)
        log_to_stderr(verbose)
        request = new_request(
            name,
            dt.datetime.now(dt.UTC),
            date,
            model_version,
            model_alias=model_alias,
            engine=engine,
            rescore=rescore,
            dry_run=dry_run,
        )
        if request.asks_first:
            from daybreak.preview import previewed

            value = previewed(request, None if as_json else console())
            if value is not None:
                if as_json:
                    print_json(value)
                raise typer.Exit(OK)
        err.print(f"Running [bold]{name}[/], run {request.invocation.id}", highlight=False)
        with progress_on(err, plain=verbose) as progress:
            outcome = run_steps(request, progress)
        code = exit_code_of(outcome.report.state if outcome.report else None, outcome.failed_step)
        if outcome.error is not None:
            code = HELD if code == HELD else code_of(outcome.error, outcome.failed_step)
            err.print()
            say(err, f"{outcome.failed_step} failed", sentence(outcome.error), code == HELD)
            if debug:
                print_traceback(err, outcome.error)
        if outcome.report is None:
            if as_json:
                print_json(
                    {
                        "schema_version": 1,
                        "run_id": outcome.run_id,
                        "exit_code": code,
                        "state": "failed",
                        "error": sentence(outcome.error or Exception()),
                    }
                )
        elif as_json:
            print_json(summary_json(load_report(outcome.report), outcome.report, code))
        else:
            print_summary(console(), outcome.report)
        raise typer.Exit(code)


def backfill(
    name: Name,
    first: Annotated[
        dt.date, typer.Option("--from", metavar="DATE", parser=date_of, help="The first day.")
    ],
    last: Annotated[
        dt.date,
        typer.Option("--to", metavar="DATE", parser=date_of, help="The last day, included."),
    ],
    only: Annotated[
        Literal["missing", "stale", "all"],
        typer.Option(
            help="missing: partitions without a version; stale: those, and those that a run would "
            "make anew; all."
        ),
    ] = "missing",
    via: Annotated[
        Literal["local", "airflow", "prefect"],
        typer.Option(
            help="Processes of this machine, the backfills of an Airflow, or runs of a Prefect."
        ),
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
    with told(as_json, debug):
        from daybreak.backfill_command import backfill_command

        out, err, now = console(), console(stderr=True), dt.datetime.now(dt.UTC)
        shown = None if as_json else out
        value, code = backfill_command(
            name, first, last, only, via, parallel, dry_run, now, shown, err
        )
        if as_json:
            print_json(value)
        raise typer.Exit(code)


def status(
    name: Name,
    first: Annotated[
        dt.date | None,
        typer.Option(
            "--from",
            metavar="DATE",
            parser=date_of,
            help="The first day; a screen of them if left.",
        ),
    ] = None,
    last: Annotated[
        dt.date | None,
        typer.Option(
            "--to",
            metavar="DATE",
            parser=date_of,
            help="The last day; the newest possible if left.",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave out the registry: quick, without its model.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what readers have of each partition, as a calendar, and why not the rest."""
    with told(as_json, debug):
        from daybreak.status import print_status, status_json, status_of
        from include.settings import silence_telemetry

        silence_telemetry()
        with console(stderr=True).status("Looking …"):
            found = status_of(name, first, last, dt.datetime.now(dt.UTC), offline)
        if as_json:
            print_json(status_json(found))
        else:
            print_status(console(), found)


def report(
    name: Name,
    date: Date = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show where the latest run's report is, of any partition or of one."""
    with told(as_json, debug):
        from daybreak.reports import latest_report
        from daybreak.summary import shown, summary_json

        found, content = latest_report(name, date)
        # What its run came to is in `state`; the code is this command's own.
        code = OK if not open_it or typer.launch(found.html) == 0 else FAILED
        if as_json:
            print_json(summary_json(content, found, code))
        else:
            # The path alone, so that `$(daybreak report NAME)` is it.
            typer.echo(shown(found.html))
        if code != OK:
            said = f"nothing on this machine could open it; it is {shown(found.html)}"
            say(console(stderr=True), "Error", said)
        raise typer.Exit(code)
