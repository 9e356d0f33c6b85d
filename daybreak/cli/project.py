"""Commands that set a project up, and say what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from daybreak.cli.options import Debug, Json, Name, Verbose
from daybreak.cli.outcome import console, log_to_stderr, print_json, told
from daybreak.exit_codes import BAD_CONFIG, FAILED, OK


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
    with told(as_json, debug):
        from daybreak.check import check_all, checked_json
        from daybreak.check_page import print_checked
        from include.settings import settings, silence_telemetry

        silence_telemetry()
        err = console(stderr=True)
        with err.status("Checking …") as status:
            checked = check_all(
                settings().pipelines,
                names or (),
                offline,
                lambda name: status.update(f"Checking {name} …"),
            )
        if as_json:
            print_json(checked_json(checked, offline))
        else:
            print_checked(console(), checked, offline)
        raise typer.Exit(OK if all(one.ok for one in checked) else BAD_CONFIG)


def init(
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the statements, and execute none.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Create the tables of a pipeline that publishes to Snowflake.

    Run it once, and again after the query has a new column; nothing else is
    changed. A Delta table needs no set-up.
    """
    with told(as_json, debug):
        from daybreak.init import init_command
        from include.settings import silence_telemetry

        silence_telemetry()
        log_to_stderr(False)
        value = init_command(name, dry_run, None if as_json else console())
        if as_json:
            print_json(value)


def demo(
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Load a year of flights, train a model, and run its pipeline in Airflow for 2013-10-01.

    It needs the package index once, for the data. A second run is quick and
    changes nothing.
    """
    with told(as_json, debug):
        from daybreak.demo import DATE, PIPELINE, run_demo

        code = run_demo(console(stderr=as_json), verbose)
        if as_json:
            from daybreak.reports import latest_report
            from daybreak.summary import summary_json

            found, content = latest_report(PIPELINE, DATE)
            print_json(summary_json(content, found, code))
        raise typer.Exit(code)


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server: no registry, no storage, no Airflow.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what this machine and its environment lack, and how to get it.

    The settings, the storage, the registry, the connections, and what the
    engines of your pipelines need. Nothing is changed.
    """
    with told(as_json, debug):
        from daybreak.doctor import doctor_json, findings, print_findings
        from include.settings import silence_telemetry

        silence_telemetry()
        with console(stderr=True).status("Looking …"):
            found = findings(offline)
        value = doctor_json(found)
        if as_json:
            print_json(value)
        else:
            print_findings(console(), found)
        raise typer.Exit(OK if value["ok"] else FAILED)
