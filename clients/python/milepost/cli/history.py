"""`milepost audience history`: an audience's past sizes, drawn in a terminal, plain numbers in a pipe."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milepost.cli.answers import AsJson, show_json_array
from milepost.cli.calling import AccountOptions
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceName
from milepost.cli.text import console, number, plain_table, printable
from milepost.cli.tree import bar_of_eighths
from milepost.v1.audience_service_pb2 import (
    SIZE_INTERVAL_DAY,
    SIZE_INTERVAL_HOUR,
    AudienceSizePoint,
)
from milepost.values import to_datetime

POINTS_SHOWN = 30
BAR_CELLS = 32
_LEVELS = "▁▂▃▄▅▆▇█"


class Interval(enum.StrEnum):
    """The unit of a history."""

    HOUR = "hour"
    DAY = "day"


_INTERVALS = {Interval.HOUR: SIZE_INTERVAL_HOUR, Interval.DAY: SIZE_INTERVAL_DAY}
_TIME_FORMATS = {Interval.HOUR: "%Y-%m-%d %H:%M", Interval.DAY: "%Y-%m-%d"}


@grouped
def history(
    audience: AudienceName,
    interval: Annotated[Interval, typer.Option(help="Interval of the lines: hour or day.")] = Interval.DAY,
    points: Annotated[
        int, typer.Option(help="Maximum number of points, latest first.", min=1)
    ] = POINTS_SHOWN,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Draw the size history of a calculated audience, with the users added and dropped."""
    out = console()
    with account.open() as client:
        found = client.get_audience(audience)
        latest = islice(client.list_audience_sizes(found.name, interval=_INTERVALS[interval]), points)
        shown = list(latest)[::-1]
        zone = _zone(client.get_account().time_zone)
    if as_json:
        show_json_array(shown)
        return
    if not shown:
        name = printable(found.display_name)
        print(f"{name}: no history; none is recorded unless it, or one below, is activated", file=sys.stderr)
    times = [to_datetime(point.start_time).astimezone(zone) for point in shown]
    if not out.is_terminal:
        print(draw_plain(shown, times), file=out.file)
    elif shown:
        starts = [f"{time:{_TIME_FORMATS[interval]}}" for time in times]
        out.print(draw_rich(f"{found.display_name}, by {interval} ({zone})", shown, starts))


def draw_plain(points: Sequence[AudienceSizePoint], times: Sequence[datetime]) -> str:
    """One line per point, oldest first, in plain numbers."""
    rows = [
        [time.isoformat(), str(point.users), str(point.added), str(point.dropped)]
        for point, time in zip(points, times, strict=True)
    ]
    return plain_table(["start", "users", "added", "dropped"], rows, right=(1, 2, 3))


def draw_rich(title: str, points: Sequence[AudienceSizePoint], starts: Sequence[str]) -> RenderableType:
    """A sparkline from the least to the greatest size, then one bar per point from 0."""
    sizes = [point.users for point in points]
    glance = Text.assemble(
        (number(min(sizes)), "dim"), " ", (sparkline(sizes), "cyan"), " ", (number(max(sizes)), "dim")
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for name in ("start", "users", "added", "dropped"):
        table.add_column(name, justify="left" if name == "start" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for point, start in zip(points, starts, strict=True):
        table.add_row(
            start,
            Text(number(point.users), style="bold"),
            _movement("+", point.added, "green"),
            _movement("-", point.dropped, "red"),
            Text(bar_of_eighths(point.users / (max(sizes) or 1), BAR_CELLS), style="cyan"),
        )
    return Group(Text(title, style="bold"), glance, Text(), table)


def sparkline(sizes: Sequence[int]) -> str:
    """One character per size, scaled between the least and the greatest; half height if all are equal."""
    low, high = min(sizes), max(sizes)
    if low == high:
        return _LEVELS[len(_LEVELS) // 2] * len(sizes)
    return "".join(_LEVELS[round((size - low) / (high - low) * (len(_LEVELS) - 1))] for size in sizes)


def _movement(sign: str, users: int, style: str) -> Text:
    return Text(f"{sign}{number(users)}", style=style) if users else Text()


def _zone(name: str) -> tzinfo:
    """The account's time zone; UTC if this machine does not know it."""
    try:
        return ZoneInfo(name or "UTC")
    except ZoneInfoNotFoundError:
        return UTC
