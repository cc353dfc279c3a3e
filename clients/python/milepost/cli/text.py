"""Output for people: real characters and colour in a terminal, plain ASCII text in a pipe."""

from __future__ import annotations

import json
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milepost.v1.value_pb2 import Value
from milepost.values import from_value, to_datetime

_SIZE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SIZE_STEP = 1_024


def console() -> Console:
    """Standard output. Ask `is_terminal` before using colour or characters outside ASCII."""
    return Console(highlight=False)


def number(count: int) -> str:
    """1,464,471."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """1 user, 1,000 users."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """60.3%."""
    return f"{share:.1%}"


def printable(text: str) -> str:
    """The text with control and invisible characters escaped."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def size(count: int) -> str:
    """1.5 MiB."""
    found, unit = float(count), 0
    while found >= _SIZE_STEP and unit < len(_SIZE_UNITS) - 1:
        found, unit = found / _SIZE_STEP, unit + 1
    return f"{count} bytes" if unit == 0 else f"{found:.1f} {_SIZE_UNITS[unit]}"


def value_text(value: Value) -> str:
    """Strings in quotes, to distinguish "12" from 12; times in RFC 3339."""
    if value.WhichOneof("kind") == "time_value":
        return value.time_value.ToJsonString()
    plain = from_value(value)
    if isinstance(plain, float):
        return repr(plain).removesuffix(".0")
    return printable(json.dumps(plain, ensure_ascii=False))


def moment(time: Timestamp) -> str:
    """2026-11-28 12:00: in UTC, to the minute."""
    return f"{to_datetime(time):%Y-%m-%d %H:%M}"


def show_facts(out: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Prints a label and a value per line; those without a value are left out."""
    rows = [[label, value] for label, value in facts if value]
    if not out.is_terminal:
        print("\n".join(plain_lines(rows)), file=out.file)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for label, value in rows:
        table.add_row(label, Text(value))
    out.print(table)


def show_table(
    out: Console, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> None:
    """Prints a table; the columns in `right` (from 0) are numbers."""
    if not out.is_terminal:
        print(plain_table(header, rows, right), file=out.file)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for index, title in enumerate(header):
        table.add_column(title, justify="right" if index in right else "left")
    for row in rows:
        # As plain text: data may look like rich's markup.
        table.add_row(*map(Text, row))
    out.print(table)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The table as lines of aligned columns, two spaces apart."""
    return "\n".join(plain_lines([header, *rows], right))


def plain_lines(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines of aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
