"""Commands over the versions of a prediction table."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from daybreak.cli.options import Date, Day, Debug, Json, Name, date_of
from daybreak.cli.outcome import console, print_json, told


def versions(
    name: Name,
    date: Day,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the versions of a partition, the oldest first: who, when, of what, and their state."""
    with told(as_json, debug):
        from daybreak.versions import table_of, versions_json, versions_of, versions_table

        table = table_of(name)
        as_of = table.as_of(date)
        found = versions_of(table.store, as_of, table.asked(as_of))
        if as_json:
            print_json(versions_json(name, as_of, found))
        elif found:
            out = console()
            out.print(versions_table(found))
            out.print(
                f"Read one: daybreak.read({name!r}, as_of='{as_of}', version='…')",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        else:
            console().print(f"{name} has no version of {as_of}.", highlight=False)


def rollback(
    name: Name,
    date: Date = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="VERSION|DATE",
            help="This version, the one before if left; with --model-version the last day.",
        ),
    ] = None,
    model_version: Annotated[
        str | None,
        typer.Option(
            "--model-version", metavar="V", help="Every partition that this model version made."
        ),
    ] = None,
    since: Annotated[
        dt.date | None,
        typer.Option(
            "--from",
            "--since",
            metavar="DATE",
            parser=date_of,
            help="With --model-version: the first day.",
        ),
    ] = None,
    until: Annotated[
        dt.date | None,
        typer.Option(
            metavar="DATE", parser=date_of, help="With --model-version: the last day, as --to."
        ),
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
    with told(as_json, debug):
        from daybreak.rollback import rollback_command
        from include.settings import current_user

        who, shown = by or current_user(), None if as_json else console()
        if model_version is not None and to is not None and until is None:
            until = date_of(to)
            to = None
        value, code = rollback_command(
            name, date, to, since, until, model_version, who, reason, dry_run, shown
        )
        if as_json:
            print_json(value)
        raise typer.Exit(code)


Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decided it; this user if left.")]
HeldVersion = Annotated[
    str | None, typer.Option("--version", metavar="V", help="The one that waits if left.")
]


def approve(
    name: Name,
    date: Day,
    version: HeldVersion = None,
    reason: Reason = "",
    by: By = None,
    overrule: Annotated[
        bool,
        typer.Option(
            "--overrule",
            help="Also a version that was rejected, or whose time passed. Where readers have "
            "another one since, it is compared with that one and asked again.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Publish a version that the audit holds for a person, with who decided it and why.

    It is looked at again first: its files, and that readers have what they
    had when it was held. A run in Airflow that waits for the answer goes on;
    otherwise drift and the report are made here. A second time changes nothing.
    """
    with told(as_json, debug):
        from daybreak.approval import approve_command
        from include.settings import current_user

        who, shown = by or current_user(), None if as_json else console()
        now = dt.datetime.now(dt.UTC)
        value, code = approve_command(name, date, version, who, reason, overrule, now, shown)
        if as_json:
            print_json(value)
        raise typer.Exit(code)


def reject(
    name: Name,
    date: Day,
    version: HeldVersion = None,
    reason: Reason = "",
    by: By = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Refuse a version that the audit holds for a person; readers keep what they have.

    A repeat of its run does not publish it either: the same rows, model and
    configuration stay refused.
    """
    with told(as_json, debug):
        from daybreak.approval import reject_command
        from include.settings import current_user

        who, shown = by or current_user(), None if as_json else console()
        value, code = reject_command(
            name, date, version, who, reason, dt.datetime.now(dt.UTC), shown
        )
        if as_json:
            print_json(value)
        raise typer.Exit(code)


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
    with told(as_json, debug):
        from daybreak.diff import diff_command

        value = diff_command(name, date, before, after, None if as_json else console())
        if as_json:
            print_json(value)


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
    with told(as_json, debug):
        from daybreak.why import why_command

        value, code = why_command(name, date, key, version, None if as_json else console())
        if as_json:
            print_json(value)
        raise typer.Exit(code)


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
    with told(as_json, debug):
        from daybreak.expire import expire_command

        value = expire_command(name, dry_run, None if as_json else console())
        if as_json:
            print_json(value)
