"""What readers have of each partition, as a calendar, and why they lack the rest."""

from __future__ import annotations

import calendar
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from daybreak.backfill import (
    ROWS_UNSEEN,
    current_model,
    newest_partition,
    partitions_of,
)
from include.errors import DaybreakError
from include.partition import Partition
from include.partition_states import PartitionState, State, partition_states
from include.past_runs import past_runs
from include.pipeline import Pipeline, load_named
from include.settings import settings
from include.stores import open_store
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from include.models.registry import RegisteredModel

# Without --from, about a screen: weeks of days, and years of weeks and months.
SHOWN = {"day": 12 * 7, "week": 2 * 52, "month": 3 * 12}

MARKS: dict[State, tuple[str, str]] = {
    "published": ("■", "green"),
    "stale": ("◪", "cyan"),
    "rolled back": ("◀", "yellow"),
    "held": ("?", "bold yellow"),
    "failed": ("✗", "bold red"),
    "missing": ("·", "dim"),
}
PLAIN = {
    "published": "#",
    "stale": "o",
    "rolled back": "<",
    "held": "?",
    "failed": "x",
    "missing": ".",
}


@dataclass(frozen=True)
class Status:
    """The states of a range of partitions; `model` is None where the registry was not asked."""

    pipeline: Pipeline
    states: tuple[PartitionState, ...]
    model: RegisteredModel | None
    notes: tuple[str, ...]


def status_of(
    name: str,
    first: dt.date | None,
    last: dt.date | None,
    now: dt.datetime,
    offline: bool,
) -> Status:
    """The state of each partition from that of `first` to that of `last`, both inclusive.

    Without `last`, up to the newest partition that can be scored; without `first`, a screen of
    them. A registry that does not answer is a note: all but the model is known without it.
    """
    where = settings()
    pipeline = load_named(where.pipelines, name)
    workspace = Workspace(where.workspace, name)
    store = open_store(pipeline.config.predictions, workspace.predictions())
    runs, notes = past_runs(workspace, pipeline.config), list[str]()
    known = sorted({*runs, *store.current_dates()})
    partitions, note = _range(pipeline, first, last, now, known)
    notes += [note] if note else []
    model = None
    if not offline:
        try:
            model = current_model(pipeline)
        except DaybreakError as error:
            notes.append(f"What is stale by its model is not known: {error}")
    states = partition_states(pipeline, workspace, store, partitions, runs, model)
    if any(state.state == "published" for state in states):
        notes.append(ROWS_UNSEEN.replace("--only", "daybreak backfill --only"))
    return Status(pipeline, tuple(states), model, tuple(notes))


def _range(
    pipeline: Pipeline,
    first: dt.date | None,
    last: dt.date | None,
    now: dt.datetime,
    known: Sequence[dt.date],
) -> tuple[list[Partition], str]:
    """The partitions to show, and what to say where they are not those that one would expect."""
    grain, note = pipeline.config.partition.grain, ""
    newest = newest_partition(pipeline, now)
    if last is None:
        last = newest.as_of
        oldest_shown = newest.back(SHOWN[grain] - 1)
        if first is None and known and known[-1] < oldest_shown.start:
            last = known[-1]
            note = (
                f"No run is of a later partition than {last}; the newest that can be scored is "
                f"{newest}."
            )
    if first is None:
        shown = Partition.containing(last, grain).back(SHOWN[grain] - 1)
        start = Partition.containing(pipeline.config.schedule.start_date, grain)
        begins = min([start.start, *known[:1]])
        first = min(max(shown.start, begins), last)
    return partitions_of(pipeline, first, last, now), note


def status_json(status: Status) -> dict[str, Any]:
    """What `--json` prints. Keys are added, never renamed, within a `schema_version`."""
    return {
        "schema_version": 1,
        "pipeline": status.pipeline.name,
        "grain": status.pipeline.config.partition.grain,
        "model": None
        if status.model is None
        else {"name": status.model.name, "version": status.model.version},
        "states": dict(Counter(state.state for state in status.states)),
        "partitions": [
            {
                "partition": str(state.partition),
                **state.model_dump(mode="json", exclude={"partition"}),
            }
            for state in status.states
        ],
        "notes": list(status.notes),
    }


def print_status(console: Console, status: Status) -> None:
    """The calendar with its legend, then each stretch of partitions that is not published."""
    from rich.text import Text

    marks = _marks(console)
    console.print(_calendar(status, marks))
    counts = Counter(state.state for state in status.states)
    legend = Text()
    for state in get_args(State):
        if counts[state]:
            legend.append_text(Text.assemble("  ", marks[state], f" {counts[state]} {state}"))
    console.print(legend)
    listed = _listed(status)
    if listed is not None:
        console.print(listed)
    for note in status.notes:
        console.print(Text(note, style="dim"))


def _marks(console: Console) -> dict[State, tuple[str, str]]:
    if console.encoding.lower().startswith("utf"):
        return MARKS
    return {state: (PLAIN[state], style) for state, (_, style) in MARKS.items()}


def _calendar(status: Status, marks: dict[State, tuple[str, str]]) -> RenderableType:
    """Lines of text: a table has no room for the 53 weeks of a year."""
    from rich.text import Text

    by_grain = {"day": _weeks, "week": _years_of_weeks, "month": _years_of_months}
    (corner, *header), rows = by_grain[status.pipeline.config.partition.grain](status.states)
    label_width = max(len(corner), *(len(label) for label, _ in rows))
    lines = [Text(f"  {corner:<{label_width}}  {''.join(header)}".rstrip(), style="bold")]
    for label, cells in rows:
        line = Text(f"  {label:<{label_width}}  ")
        for name, each in zip(header, cells, strict=True):
            mark, style = marks[each.state] if each else (" ", "")
            line.append(f"{mark:^{len(name)}}", style)
        line.rstrip()
        lines.append(line)
    return Text("\n").join([Text(""), *lines, Text("")])


Row = tuple[str, list[PartitionState | None]]


def _weeks(states: Sequence[PartitionState]) -> tuple[list[str], list[Row]]:
    """A row a week, from Monday; its label is its Monday."""
    header = ["week of", *(f" {calendar.day_abbr[day]} " for day in range(7))]
    rows: list[Row] = []
    for monday, found in groupby(states, lambda each: _monday(each.partition.start)):
        cells: list[PartitionState | None] = [None] * 7
        for each in found:
            cells[each.partition.start.weekday()] = each
        rows.append((str(monday), cells))
    return header, rows


def _years_of_weeks(states: Sequence[PartitionState]) -> tuple[list[str], list[Row]]:
    """A row a year, a column each of its ISO weeks; every fifth is numbered."""
    weeks = range(1, 54)
    # One character a week: a heading of two would not leave room for 53 of them.
    header = ["year", *(str(week // 10) if week % 10 == 0 else " " for week in weeks)]
    rows: list[Row] = []
    for year, found in groupby(states, lambda each: each.partition.start.isocalendar().year):
        cells: list[PartitionState | None] = [None] * 53
        for each in found:
            cells[each.partition.start.isocalendar().week - 1] = each
        rows.append((str(year), cells))
    return header, rows


def _years_of_months(states: Sequence[PartitionState]) -> tuple[list[str], list[Row]]:
    header = ["year", *(f" {calendar.month_abbr[month]} " for month in range(1, 13))]
    rows: list[Row] = []
    for year, found in groupby(states, lambda each: each.partition.start.year):
        cells: list[PartitionState | None] = [None] * 12
        for each in found:
            cells[each.partition.start.month - 1] = each
        rows.append((str(year), cells))
    return header, rows


def _monday(day: dt.date) -> dt.date:
    return day - dt.timedelta(days=day.weekday())


def _listed(status: Status) -> RenderableType | None:
    """The partitions that want a look, neighbours with the same reason in one line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    odd = [each for each in status.states if each.state != "published" or each.note]
    if not odd:
        return None
    index = {each.partition.as_of: place for place, each in enumerate(status.states)}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("partition", "state", "readers have"):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="fold")
    stretches = groupby(
        enumerate(odd),
        # Neighbours in the calendar have the same distance between their places in both lists.
        lambda item: (
            index[item[1].partition.as_of] - item[0],
            item[1].state,
            item[1].reasons,
            item[1].note,
        ),
    )
    for _, found in stretches:
        together = [each for _, each in found]
        first, last = together[0], together[-1]
        dates = str(first.partition) + (f" … {last.partition}" if len(together) > 1 else "")
        table.add_row(
            dates,
            Text(first.state, style=MARKS[first.state][1]),
            _had(together),
            Text("; ".join((*first.reasons, *filter(None, [first.note])))),
        )
    return table


def _had(states: Sequence[PartitionState]) -> str:
    versions = [each.version for each in states if each.version]
    return f"{len(versions)} versions" if len(versions) > 1 else versions[0] if versions else "—"
