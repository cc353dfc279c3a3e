"""The growth figures as a plot: small multiples, both axes logarithmic, written as SVG.

In each panel a grey dashed line shows growth in proportion to the users, from the smallest scale on; for the
ingest rate it is level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from milepost.cli.drawing import (
    BOLD,
    FONT,
    INK,
    LINE,
    PAPER,
    QUIET,
    TRACK,
    dashed,
    shown,
    text_at,
    text_width,
)
from tests.bench.growth_figures import Growth

TITLE = "Growth: from {first} to {last} users, ten events each"
MARGIN = 32
TITLE_HEIGHT = 62
COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 300, 236
PANEL_GAP = 22
AXIS_WIDTH = 50
"""Margin left of the plot, for the labels of the vertical axis."""
HEAD_HEIGHT = 46
FOOT_HEIGHT = 24
LEGEND_HEIGHT = 34
INSET = 26
"""Space left and right of the first and the last scale, for labels of their values."""
DOT = 4
DECADES_MIN = 2
"""Minimum ratio of a vertical axis, so that noise does not look like a slope."""
LABEL_ROOM = 1.6
"""Factor by which the vertical axis extends beyond the values, for their labels."""
DIGITS = 3
BLUE, ORANGE = "#2b6cb0", "#c05621"
DASHES = "4 4"

Value = Callable[[Growth], float]


@dataclass(frozen=True)
class _Line:
    name: str
    value: Value
    colour: str = BLUE
    label_above: bool = True


@dataclass(frozen=True)
class _Panel:
    """`slope` is that of the dashed line: 1 = in proportion to the users, 0 = level."""

    title: str
    unit: str
    lines: Sequence[_Line]
    slope: int = 1


PANELS = (
    _Panel(
        "Ingest",
        "events a second",
        [
            _Line("acknowledged", lambda g: g.events_per_second),
            _Line("and checkpointed", lambda g: g.checkpointed_events_per_second, ORANGE, label_above=False),
        ],
        slope=0,
    ),
    _Panel("Exact count of three terms", "milliseconds, p50", [_Line("", lambda g: g.count_ms)]),
    _Panel(
        "Start until SERVING",
        "seconds",
        [
            _Line("after a kill", lambda g: g.after_kill.serving_seconds, ORANGE),
            _Line("after a stop", lambda g: g.after_stop.serving_seconds, BLUE, label_above=False),
        ],
    ),
    _Panel(
        "Start until the first exact count",
        "seconds",
        [
            _Line("after a kill", lambda g: g.after_kill.answered_seconds, ORANGE),
            _Line("after a stop", lambda g: g.after_stop.answered_seconds, BLUE, label_above=False),
        ],
    ),
    _Panel("Disk, checkpointed", "bytes", [_Line("", lambda g: g.disk_bytes)]),
    _Panel(
        "Memory after the questions",
        "bytes",
        [
            _Line("resident", lambda g: g.memory_after_questions.resident),
            _Line(
                "anonymous",
                lambda g: g.memory_after_questions.anonymous,
                ORANGE,
                label_above=False,
            ),
        ],
    ),
)


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis: values from `low` to `high` between two places."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def draw(grown: Sequence[Growth]) -> str:
    """The plot as an SVG document; the scales in ascending order, at least two."""
    rows = math.ceil(len(PANELS) / COLUMNS)
    width = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * PANEL_GAP
    bottom = MARGIN + TITLE_HEIGHT + rows * PANEL_HEIGHT + (rows - 1) * PANEL_GAP
    height = bottom + LEGEND_HEIGHT + MARGIN // 2
    title = TITLE.format(first=_short(grown[0].users), last=_short(grown[-1].users))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" font-family="{FONT}" fill="{INK}">',
        f"<title>{shown(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        text_at(MARGIN, MARGIN + 16, title, 20, weight="bold"),
        text_at(
            MARGIN, MARGIN + 38, "one service process; users across, both axes logarithmic", 12, fill=QUIET
        ),
    ]
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, COLUMNS)
        x = MARGIN + column * (PANEL_WIDTH + PANEL_GAP)
        y = MARGIN + TITLE_HEIGHT + row * (PANEL_HEIGHT + PANEL_GAP)
        parts += _panel(panel, grown, x, y)
    parts += _legend(MARGIN, bottom + LEGEND_HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


# --- a panel ---


def _panel(panel: _Panel, grown: Sequence[Growth], x: float, y: float) -> Iterator[str]:
    left, right = x + AXIS_WIDTH, x + PANEL_WIDTH
    top, foot = y + HEAD_HEIGHT, y + PANEL_HEIGHT - FOOT_HEIGHT
    low, high = _range([line.value(each) for line in panel.lines for each in grown])
    across = _Axis(grown[0].users, grown[-1].users, left + INSET, right - INSET)
    up = _Axis(low, high, foot, top)
    yield f"<g><title>{shown(_words(panel, grown))}</title>"
    yield text_at(x, y + 14, panel.title, 13, weight="bold")
    yield text_at(x, y + 31, panel.unit, 11, fill=QUIET)
    yield from _names(panel, right, y + 31)
    yield from _grid(across, up, grown, left, right)
    yield from _proportion(panel, grown, across, up, top)
    for line in panel.lines:
        yield from _line(line, grown, across, up)
    yield "</g>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Whole decades around all values."""
    low = 10.0 ** math.floor(math.log10(min(values) / LABEL_ROOM))
    high = 10.0 ** math.ceil(math.log10(max(values) * LABEL_ROOM))
    if high < low * 10**DECADES_MIN:
        low = high / 10**DECADES_MIN
    return low, high


def _grid(across: _Axis, up: _Axis, grown: Sequence[Growth], left: float, right: float) -> Iterator[str]:
    """A line a decade, and the scales below."""
    for exponent in range(round(math.log10(up.low)), round(math.log10(up.high)) + 1):
        y = up.place(10.0**exponent)
        colour = LINE if y == up.start else TRACK
        yield f'<path d="M{left:g} {y:.1f}H{right:g}" stroke="{colour}" stroke-width="1"/>'
        yield text_at(left - 8, round(y + 4, 1), _short(10.0**exponent), 11, fill=QUIET, anchor="end")
    for each in grown:
        x = round(across.place(each.users), 1)
        yield f'<path d="M{x} {up.start:g}v4" stroke="{LINE}" stroke-width="1"/>'
        yield text_at(x, up.start + 18, _short(each.users), 11, fill=QUIET, anchor="middle")


def _proportion(
    panel: _Panel, grown: Sequence[Growth], across: _Axis, up: _Axis, top: float
) -> Iterator[str]:
    """From the first point of the first line, up to the last scale or the top of the panel."""
    first, last = grown[0].users, grown[-1].users
    value = panel.lines[0].value(grown[0])
    end = last if not panel.slope else min(last, first * up.high / value)
    yield (
        f'<path d="M{across.place(first):.1f} {up.place(value):.1f}'
        f'L{across.place(end):.1f} {max(top, up.place(value * (end / first) ** panel.slope)):.1f}"'
        f' stroke="{QUIET}" stroke-width="1" fill="none" opacity="0.6"{dashed(DASHES)}/>'
    )


def _line(line: _Line, grown: Sequence[Growth], across: _Axis, up: _Axis) -> Iterator[str]:
    """Points joined by a line, each with its value."""
    points = [(across.place(each.users), up.place(line.value(each))) for each in grown]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    yield f'<path d="M{path}" stroke="{line.colour}" stroke-width="2" fill="none" stroke-linejoin="round"/>'
    for each, (x, y) in zip(grown, points, strict=True):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{line.colour}"/>'
        below = round(y - 9 if line.label_above else y + 18, 1)
        value = _short(line.value(each))
        yield text_at(round(x, 1), below, value, 11, fill=line.colour, weight="bold", anchor="middle")


def _names(panel: _Panel, right: float, y: float) -> Iterator[str]:
    """A right-aligned legend, if there is more than one line."""
    for line in reversed(panel.lines if len(panel.lines) > 1 else ()):
        yield text_at(right, y, line.name, 11, fill=line.colour, weight="bold", anchor="end")
        right -= BOLD * text_width(line.name, 11) + 12


def _legend(x: float, y: float) -> Iterator[str]:
    yield f'<path d="M{x:g} {y - 4:g}h30" stroke="{QUIET}" stroke-width="1" opacity="0.6"{dashed(DASHES)}/>'
    words = "in proportion to the users, from the smallest scale on (ingest: level)"
    yield text_at(x + 38, y, words, 11, fill=QUIET)


def _words(panel: _Panel, grown: Sequence[Growth]) -> str:
    """The figures of a panel as text, for screen readers and tooltips."""
    lines = [
        f"{line.name or panel.title}: "
        + ", ".join(f"{_short(line.value(each))} at {_short(each.users)} users" for each in grown)
        for line in panel.lines
    ]
    return "\n".join([f"{panel.title}, {panel.unit}", *lines])


def _short(value: float) -> str:
    """Three digits and a unit: 950, 1.2 k, 100 k, 10 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # What would be shown as 1,000 of the smaller unit is 1 of this one.
        if value >= 0.9995 * size:
            return f"{_digits(value / size)} {unit}"
    return _digits(value)


def _digits(value: float) -> str:
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(value)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
