"""Charts of ninety days as SVG within a page: bars, strips and lines, drawn without script and read aloud by their titles.

Colours come from the page's style by class, so that one drawing serves light and dark. No meaning is in a colour alone: what
went wrong also has a mark above it, and the day's words in its title.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 64, 12, 20
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: object) -> str:
    """Return a text as HTML and SVG may hold it, in elements and in attributes: what XML cannot hold at all is replaced."""
    return html.escape(_NO_XML.sub("\ufffd", str(text)), quote=True)


@dataclass(frozen=True)
class Bar:
    """What happened on one day.

    Arguments:
        value: its height in the chart's unit; None for a day of which nothing is known.
        kind: class of its colour: `ok`, `warning`, `problem`, `unknown` or `quiet`.
        told: one line, with the date.
        mark: above it, `x` where something went wrong, `!` where something is worth knowing; "" for nothing.
    """

    value: float | None
    kind: str
    told: str
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """One value for each day.

    Arguments:
        name: of what.
        kind: class of its colour and its dashes: `first` or `second`.
        values: None where nothing is known; the line has a gap there.
    """

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """What a chart says of itself.

    Arguments:
        key: unique on the page, in ASCII letters.
        title: for the reader.
        summary: what somebody learns who cannot see it, in one or two sentences.
        days: dates, the oldest first, one for each bar.
    """

    key: str
    title: str
    summary: str
    days: Sequence[str]


def bars(chart: Chart, values: Sequence[Bar], *, unit: str, limit: float | None = None, height: int = 120) -> str:
    """Draw a bar for each day; days of which nothing is known have a dot on the base line.

    Arguments:
        unit: after the figures of the scale.
        limit: where a line is drawn across, in the same unit.
        height: of the drawing.
    """
    top = _ceiling([bar.value for bar in values] + [limit])
    plot = height - _TOP - _BOTTOM
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    drawn = [_scale(top, unit, height), _dates(chart.days, step, height)]
    for number, bar in enumerate(values):
        x = _LEFT + number * step
        if bar.value is None:
            shape = f'<circle class="none" cx="{x + step / 2:.1f}" cy="{height - _BOTTOM - 2}" r="1"/>'
        else:
            tall = max(2.0, plot * min(1.0, bar.value / top))
            shape = (
                f'<rect class="{escaped(bar.kind)}" x="{x + step * 0.1:.1f}" y="{height - _BOTTOM - tall:.1f}" width="{step * 0.8:.1f}" '
                f'height="{tall:.1f}" rx="1"/>'
            )
        drawn.append(_day(x, step, height, shape, bar))
    if limit is not None:
        drawn.append(_across(limit, top, height))
    return _framed(chart, height, drawn)


def strip(chart: Chart, values: Sequence[Bar], *, height: int = 52) -> str:
    """Draw a field for each day, all of one height: only how it went counts."""
    plot = height - _TOP - _BOTTOM
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    drawn = [_dates(chart.days, step, height)]
    for number, bar in enumerate(values):
        x = _LEFT + number * step
        if bar.value is None:
            shape = f'<circle class="none" cx="{x + step / 2:.1f}" cy="{_TOP + plot / 2:.1f}" r="1"/>'
        else:
            shape = (
                f'<rect class="{escaped(bar.kind)}" x="{x + step * 0.1:.1f}" y="{_TOP}" width="{step * 0.8:.1f}" height="{plot}" rx="1.5"/>'
            )
        drawn.append(_day(x, step, height, shape, bar))
    return _framed(chart, height, drawn)


def lines(
    chart: Chart, series: Sequence[Line], *, unit: str, top: float | None = None, limit: float | None = None, height: int = 120
) -> str:
    """Draw lines over the days.

    Arguments:
        unit: after the figures of the scale.
        top: the greatest value of the scale; the next round one if left out.
        limit: where a line is drawn across.
        height: of the drawing.
    """
    top = top if top is not None else _ceiling([value for line in series for value in line.values] + [limit])
    plot = height - _TOP - _BOTTOM
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(chart.days))
    drawn = [_scale(top, unit, height), _dates(chart.days, step, height)]
    if limit is not None:
        drawn.append(_across(limit, top, height))
    for line in series:
        path, pen = [], "M"
        for number, value in enumerate(line.values):
            if value is None:
                pen = "M"
                continue
            x, y = _LEFT + (number + 0.5) * step, height - _BOTTOM - plot * min(1.0, value / top)
            # A day without neighbours is a dot: a line of no length with round ends.
            path.append(f"{pen}{x:.1f} {y:.1f}" + (f"L{x:.1f} {y:.1f}" if pen == "M" else ""))
            pen = "L"
        if path:
            drawn.append(f'<path class="line {escaped(line.kind)}" d="{"".join(path)}"/>')
    return _framed(chart, height, drawn)


def _framed(chart: Chart, height: int, drawn: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{chart.key}-t {chart.key}-d" focusable="false">'
        f'<title id="{chart.key}-t">{escaped(chart.title)}</title><desc id="{chart.key}-d">{escaped(chart.summary)}</desc>'
        f"{''.join(drawn)}</svg>"
    )


def _day(x: float, step: float, height: int, shape: str, bar: Bar) -> str:
    # The whole column is there to be pointed at, not only the bar.
    column = f'<rect class="column" x="{x:.1f}" y="0" width="{step:.1f}" height="{height - _BOTTOM}"/>'
    middle, reach, mark = x + step / 2, min(3.0, step * 0.4), ""
    if bar.mark == "x":
        mark = (
            f'<path class="mark" d="M{middle - reach:.1f} {6 - reach:.1f}l{2 * reach:.1f} {2 * reach:.1f}m0 {-2 * reach:.1f}'
            f'l{-2 * reach:.1f} {2 * reach:.1f}"/>'
        )
    elif bar.mark:
        mark = f'<path class="mark note" d="M{middle:.1f} 1V6M{middle:.1f} 8.5V10"/>'
    return f"<g><title>{escaped(bar.told)}</title>{column}{shape}{mark}</g>"


def _scale(top: float, unit: str, height: int) -> str:
    drawn = []
    for part in (0.0, 0.5, 1.0):
        y = height - _BOTTOM - (height - _TOP - _BOTTOM) * part
        drawn.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
            # On the right, beside today: that end is seen first where the drawing is wider than the screen.
            f'<text x="{WIDTH - _RIGHT + 6}" y="{y + 4:.1f}">{top * part:g}{escaped(unit)}</text>'
        )
    return "".join(drawn)


def _dates(days: Sequence[str], step: float, height: int) -> str:
    drawn = []
    for number in range(0, len(days), max(1, len(days) // 3)):
        # Under the first, at a third, at two thirds; the last day is where the reader expects today.
        if len(days) - number < len(days) // 6:
            continue
        drawn.append(f'<text x="{_LEFT + number * step:.1f}" y="{height - 5}">{escaped(days[number])}</text>')
    if days:
        drawn.append(f'<text x="{WIDTH - _RIGHT}" y="{height - 5}" text-anchor="end">{escaped(days[-1])}</text>')
    return "".join(drawn)


def _across(limit: float, top: float, height: int) -> str:
    y = height - _BOTTOM - (height - _TOP - _BOTTOM) * min(1.0, limit / top)
    return f'<path class="limit" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'


def _ceiling(values: Sequence[float | None]) -> float:
    """Return the next of 1, 2, 4, 5 or 10 times a power of ten."""
    most = max((value for value in values if value is not None), default=0.0)
    power = 1.0
    while power * 10 < most:
        power *= 10
    return next((power * part for part in (1, 2, 4, 5, 10) if power * part >= most), power * 10)
