"""The report as one HTML page: no script, nothing fetched, safe with whatever the data hold."""

from __future__ import annotations

import datetime as dt
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from include.reports.model import RunReport
from include.reports.svg import histogram, spark
from include.run import ColumnDrift

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "page.html.j2"


def page(report: RunReport, folder: str) -> str:
    """The page's HTML. `folder` is where it will lie: links to files beside it are relative."""
    zone = ZoneInfo(report.timezone)
    charts = {chart.column: chart for chart in report.drift.charts} if report.drift else {}
    grouped: dict[str, list[ColumnDrift]] = {}
    for column in report.drift.columns if report.drift else ():
        grouped.setdefault(column.column, []).append(column)
    return _template().render(
        report=report,
        charts=charts,
        grouped=list(grouped.items()),
        evidently=_link(report.links.get("evidently"), folder),
        orchestrator=_link(report.links.get("orchestrator"), folder),
        local=lambda moment: _local(moment, zone),
        clock=lambda moment: _local(moment, zone, "%H:%M:%S"),
    )


@cache
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # column names, categories and reasons come from data: none is trusted
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "share": _share,
        "duration": _duration,
        "psi": lambda number: f"{number:.3f}" if number < 10 else f"{number:.1f}",
        "noise": lambda number: f"{number:.2g}" if number < 0.001 else f"{number:.3f}",
        "distance": lambda number: "–" if number is None else f"{number:.3f}",
        "spark": spark,
        "histogram": histogram,
    }
    return environment.get_template(TEMPLATE)


def _link(uri: str | None, folder: str) -> str | None:
    """What an anchor may point to; None for what a browser cannot open, or must not."""
    if uri is None:
        return None
    beside = uri.removeprefix(folder.rstrip("/") + "/")
    if beside != uri and "/" not in beside:
        return beside
    return uri if uri.startswith(("https://", "http://", "file://")) else None


def _local(moment: dt.datetime, zone: ZoneInfo, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return f"{moment.astimezone(zone):{form}}"


def _share(share: float) -> str:
    """A share in per cent; what is above nothing and below what is shown is said to be so."""
    if 0 < share < 0.0001:
        return "<0.01 %"
    return f"{share * 100:.2f} %" if share < 0.1 else f"{share * 100:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 0.01:
        return "<0.01 s"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
