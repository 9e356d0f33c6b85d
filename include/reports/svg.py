"""Charts as inline SVG: no script, no colours of their own (the page's style sheet has them)."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING

from include.drift.charts import Chart

if TYPE_CHECKING:
    from markupsafe import Markup

_SPARK = (150.0, 40.0)
_SCORE = (1004.0, 260.0)


def spark(chart: Chart) -> Markup:
    """A thumbnail: this version's bars, and its references' outlines over them."""
    from markupsafe import Markup

    width, height = _SPARK
    body = _drawing(chart, width, height, top=2.0)
    return Markup(
        '<svg class="spark" viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img" '
        'aria-label="{label}"><title>{label}</title>{body}'
        '<path class="axis" d="M0 {y:g}H{w:g}"/></svg>'
    ).format(w=width, h=height, y=height - 0.5, label=_label(chart), body=body)


def histogram(chart: Chart) -> Markup:
    """The scores: bars, outlines, and an axis with the values below."""
    from markupsafe import Markup

    width, height = _SCORE
    body = _drawing(chart, width, height, top=8.0)
    ticks = Markup("").join(_ticks(chart, width, height))
    return Markup(
        '<svg class="histogram" viewBox="0 0 {w:g} {full:g}" role="img" aria-label="{label}">'
        '{body}<path class="axis" d="M0 {h:g}H{w:g}"/>{ticks}</svg>'
    ).format(w=width, h=height, full=height + 24, label=_label(chart), body=body, ticks=ticks)


def value(number: float, kind: str) -> str:
    """A value of a column as people write it; times as dates."""
    if kind == "time":
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        try:
            return f"{moment + dt.timedelta(seconds=number):%Y-%m-%d}"
        except OverflowError:
            return f"{number:.4g} s"
    if abs(number) < 1e-300:
        return "0"
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e6 else f"{number:.4g}"


def _drawing(chart: Chart, width: float, height: float, top: float) -> Markup:
    from markupsafe import Markup

    sides = [side for side in (chart.current, chart.training, chart.trailing) if side]
    peak = max((share for side in sides for share in side), default=0.0) or 1.0
    step = width / max(len(chart.current), 1)
    scale = (height - top) / peak
    gap = min(1.0, step * 0.12)
    drawn = [
        Markup('<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
            i * step + gap / 2, height - share * scale, step - gap, share * scale
        )
        for i, share in enumerate(chart.current)
        if share > 0
    ]
    for which, side in (("training", chart.training), ("trailing", chart.trailing)):
        if side:
            drawn.append(
                Markup('<path class="outline {}" d="{}"/>').format(
                    which, _outline(side, step, height, scale)
                )
            )
    return Markup("").join(drawn)


def _outline(shares: tuple[float, ...], step: float, height: float, scale: float) -> str:
    points = [f"M0 {height:.2f}"]
    for i, share in enumerate(shares):
        points.append(f"V{height - share * scale:.2f}H{(i + 1) * step:.2f}")
    return "".join((*points, f"V{height:.2f}"))


def _ticks(chart: Chart, width: float, height: float) -> list[Markup]:
    """Labels below the axis, at round values, or at the ends where the values are dates."""
    from markupsafe import Markup

    if len(chart.edges) < 2:
        return []
    low, high = chart.edges[0], chart.edges[-1]
    at = [low, high] if chart.kind == "time" else _round_values(low, high)
    text = Markup('<text class="tick" x="{:.1f}" y="{:g}" text-anchor="{}">{}</text>')
    found = []
    for number in at:
        share = (number - low) / (high - low)
        anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
        found.append(text.format(width * share, height + 17, anchor, value(number, chart.kind)))
    return found


def _round_values(low: float, high: float) -> list[float]:
    """Four to ten multiples of 1, 2 or 5 times a power of ten within the range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _label(chart: Chart) -> str:
    """What a person who cannot see the chart should know of it."""
    sides = [which for which in ("training", "trailing") if getattr(chart, which)]
    against = f", against {' and '.join(sides)}" if sides else ""
    fullest = max(range(len(chart.current)), key=chart.current.__getitem__, default=None)
    if fullest is None or not any(chart.current):
        return f"Distribution of {chart.column}: no values"
    share = f"{chart.current[fullest]:.0%}"
    if chart.labels:
        return f"Shares of {chart.column}{against}; most often {chart.labels[fullest]}, {share}"
    low, high = (value(edge, chart.kind) for edge in chart.edges[fullest : fullest + 2])
    return (
        f"Distribution of {chart.column} from {value(chart.edges[0], chart.kind)} to "
        f"{value(chart.edges[-1], chart.kind)}{against}; fullest from {low} to {high}, {share}"
    )
