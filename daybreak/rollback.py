"""`daybreak rollback`: an older version is what readers see again, of one partition or of many."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from daybreak.versions import PredictionTable, table_of
from include.errors import BadConfig, DaybreakError, PermanentError
from include.stores import Decision, Store, Version

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

State = Literal["planned", "published", "unchanged", "no other version", "failed"]


@dataclass(frozen=True)
class Move:
    """One partition: what readers see, what they are to see, and what became of it."""

    as_of: dt.date
    current: Version
    target: Version | None
    state: State
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.state not in ("no other version", "failed")


def plan_rollback(table: PredictionTable, day: dt.date, to: str | None) -> list[Move]:
    """The rollback of one partition, to `to` or else to the version that readers had before.

    A version that was rolled back from is not chosen, only named. Raises PermanentError where the
    partition has no version, or none of that name.
    """
    as_of = table.as_of(day)
    versions = table.store.versions(as_of)
    current = next((version for version in versions if version.current), None)
    if current is None:
        raise PermanentError(
            f"there is no version of {as_of} that could be rolled back",
            do="run the partition",
            pipeline=table.pipeline.name,
        )
    if to is None:
        target = next(iter(_earlier(table.store, as_of, versions)), None)
        return [Move(as_of, current, target, "planned" if target else "no other version")]
    target = next((version for version in versions if version.version == to), None)
    if target is None:
        raise PermanentError(
            f"{as_of} has no stored version {to}",
            do=f"choose one of {[version.version for version in versions]}: "
            f"daybreak versions {table.pipeline.name} --date {as_of}",
            pipeline=table.pipeline.name,
        )
    return [Move(as_of, current, target, "unchanged" if target.current else "planned")]


def plan_model_rollback(
    table: PredictionTable, first: dt.date | None, last: dt.date | None, model_version: str
) -> list[Move]:
    """Every partition from `first` to `last` whose current version this model version made.

    Each goes back to the last version before that the model version did not make.
    """
    since = table.as_of(first) if first is not None else dt.date.min
    until = table.as_of(last) if last is not None else dt.date.max
    moves = []
    for as_of in table.store.current_versions():
        if not since <= as_of <= until:
            continue
        current = table.store.current(as_of)
        if current is None or current.model_version != model_version:
            continue
        earlier = _earlier(table.store, as_of, table.store.versions(as_of))
        target = next((one for one in earlier if one.model_version != model_version), None)
        moves.append(Move(as_of, current, target, "planned" if target else "no other version"))
    return moves


def carry_out(table: PredictionTable, moves: list[Move], by: str, reason: str) -> list[Move]:
    """Roll back what is planned, one partition after another; what fails does not stop the rest."""
    return [_carried_out(table, move, by, reason) for move in moves]


def _carried_out(table: PredictionTable, move: Move, by: str, reason: str) -> Move:
    if move.state != "planned" or move.target is None:
        return move
    decision = Decision(by=by, at=dt.datetime.now(dt.UTC), reason=reason)
    try:
        done = table.store.rollback(
            move.as_of, move.target.version, decision, replacing=move.current.version
        )
    except DaybreakError as error:
        return replace(move, state="failed", note=str(error))
    return replace(move, state=done.outcome)


def _earlier(store: Store, as_of: dt.date, versions: list[Version]) -> list[Version]:
    """What a rollback may choose by itself, the version that readers had last at the front.

    A second rollback goes further back, and not forth to what the first one left.
    """
    kept = {one.version: one for one in versions if not one.rolled_back}
    return [kept[name] for name in store.before(as_of) if name in kept]


def rollback_command(
    name: str,
    day: dt.date | None,
    to: str | None,
    first: dt.date | None,
    last: dt.date | None,
    model_version: str | None,
    by: str,
    reason: str,
    dry_run: bool,
    out: Console | None,
) -> tuple[dict[str, Any], int]:
    """Plan and carry out; what `--json` prints, and the exit code: 1 where a partition could not.

    The table is printed to `out`, where there is one.
    """
    one, many = day is not None, model_version is not None
    if one == many or (one and (first or last)) or (many and to):
        raise BadConfig(
            "rollback takes --date, and a version as --to if wanted, or else --model-version, and "
            "days as --from and --to if wanted",
            do="choose one partition or the partitions of one model version",
            pipeline=name,
        )
    table = table_of(name)
    if day is not None:
        moves = plan_rollback(table, day, to)
    else:
        assert model_version is not None
        moves = plan_model_rollback(table, first, last, model_version)
    if not dry_run:
        moves = carry_out(table, moves, by, reason)
    code = 0 if all(move.ok for move in moves) else 1
    if out is not None:
        _print(out, name, moves, dry_run, model_version)
    return _as_json(name, moves, by, reason, dry_run, code), code


def _as_json(
    name: str, moves: list[Move], by: str, reason: str, dry_run: bool, code: int
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "pipeline": name,
        "dry_run": dry_run,
        "by": by,
        "reason": reason,
        "exit_code": code,
        "partitions": [
            {
                "as_of": move.as_of.isoformat(),
                "state": move.state,
                "from": move.current.version,
                "from_model_version": move.current.model_version,
                "to": move.target.version if move.target else None,
                "to_model_version": move.target.model_version if move.target else None,
                "note": move.note,
            }
            for move in moves
        ],
    }


def _print(
    out: Console, name: str, moves: list[Move], dry_run: bool, model_version: str | None
) -> None:
    if not moves:
        out.print(f"{name}: no partition has a current version of model version {model_version}.")
        return
    out.print(moves_table(moves))
    for move in moves:
        if move.note:
            out.print(move.note, style="red", soft_wrap=True, markup=False, highlight=False)
    if dry_run:
        out.print("Nothing was changed: --dry-run.", highlight=False)
        return
    used = sorted({move.current.model_version for move in moves if move.state == "published"})
    if used:
        out.print(
            f"The next runs still use what the model's alias points to. If that is version "
            f"{' or '.join(used)}, point it back.",
            soft_wrap=True,
            highlight=False,
        )


def moves_table(moves: list[Move]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("date", "readers see", "model", "goes back to", "model", "state"):
        table.add_column(heading, no_wrap=True)
    for move in moves:
        target = move.target
        table.add_row(
            str(move.as_of),
            move.current.version,
            move.current.model_version,
            target.version if target else "-",
            target.model_version if target else "",
            "rolled back" if move.state == "published" else move.state,
            style="" if move.ok else "red",
        )
    return table
