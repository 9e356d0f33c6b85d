"""The `daybreak` command: one module per group of commands, registered here.

Commands import what they need when they run, so that help is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

import daybreak
from daybreak.cli import project, runs, table

RUN, TABLE, PROJECT = "Run partitions", "The prediction table", "The project"

app = typer.Typer(
    name="daybreak",
    no_args_is_help=True,
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


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None: ...


app.command(
    rich_help_panel=RUN,
    epilog="Exit codes: 0 published or unchanged, 1 the run failed, 2 bad usage or configuration, "
    "3 held for approval, 75 stopped by SIGTERM, run it again to go on.",
)(runs.run)
app.command(
    rich_help_panel=RUN,
    epilog="Exit codes: 0 every partition that was to run is published, 1 one is not or failed "
    "after, 2 bad usage or configuration, nothing was run, 3 the others are held for approval, "
    "130 stopped by Ctrl-C.",
)(runs.backfill)
app.command(
    rich_help_panel=RUN,
    epilog="Exit codes: 0 it is shown, whatever the states are, 1 it could not be found out, "
    "2 bad usage or configuration.",
)(runs.status)
app.command(
    rich_help_panel=RUN,
    epilog="Exit codes: 0 there is a report, whatever it says of its run, 1 there is none, or "
    "nothing could open it, 2 bad usage or configuration.",
)(runs.report)

app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 they are listed, none among them, 1 the table could not be read, 2 bad "
    "usage or configuration.",
)(table.versions)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 every partition that was meant is rolled back, 1 one could not be, "
    "2 bad usage.",
)(table.rollback)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 it is published, or was already, 1 it could not be: rejected, too late, "
    "not the next one any more, 2 bad usage.",
)(table.approve)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 it is rejected, or was already, 1 it could not be: approved or "
    "published, 2 bad usage.",
)(table.reject)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 they are compared, equal or not, 1 one of them is not there, 2 bad usage "
    "or configuration.",
)(table.diff)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 the same bit for bit, 1 not the same or not found, 2 bad usage.",
)(table.why)
app.command(
    rich_help_panel=TABLE,
    epilog="Exit codes: 0 nothing is left to delete, or with --dry-run it is listed, 1 it could "
    "not be finished, 2 bad usage or configuration.",
)(table.expire)

app.command(rich_help_panel=PROJECT, epilog="Exit codes: 0 nothing is wrong, 2 something is.")(
    project.check
)
app.command(
    rich_help_panel=PROJECT,
    epilog="Exit codes: 0 what the table needs is there, 1 it could not be created, 2 bad usage or "
    "configuration.",
)(project.init)
app.command(
    rich_help_panel=PROJECT,
    epilog="Exit codes: 0 nothing that the pipelines need is missing, 1 something is, 2 bad usage, "
    "or a setting that cannot be read.",
)(project.doctor)
app.command(
    rich_help_panel=PROJECT,
    epilog="Exit codes: 0 its version is published, or was already, 1 it is not, 2 bad usage.",
)(project.demo)


def main() -> None:
    """The entry point: one clear message for an error, and its exit code."""
    app(prog_name="daybreak")
