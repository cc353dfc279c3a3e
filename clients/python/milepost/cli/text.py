"""Output for people: real characters and colour in a terminal, plain ASCII text in a pipe."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output. Ask `is_terminal` before using colour or characters outside ASCII."""
    return Console(highlight=False)


def number(count: int) -> str:
    """1,464,471."""
    return f"{count:,}"


def percent(share: float) -> str:
    """60.3%."""
    return f"{share:.1%}"


def printable(text: str) -> str:
    """The text with what would move the cursor or hide on the screen written as escapes."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


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
        # As text: what was sent to the service may look like rich's markup.
        table.add_row(*map(Text, row))
    out.print(table)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The table as lines of aligned columns, two spaces apart."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
