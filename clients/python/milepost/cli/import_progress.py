"""The progress of an import: a bar per file in a terminal, a line every few seconds in a pipe."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from milepost.cli.text import number
from milepost.importing.run import Watcher

PLAIN_PROGRESS_SECONDS = 5.0
"""Interval between the lines in a pipe."""


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        """For example "512,345 rows/s"; empty until there is a rate."""
        return Text(f"{number(int(task.speed))} rows/s" if task.speed else "")


@contextmanager
def looking(files: int, out: Console) -> Iterator[Callable[[Path], None]]:
    """A function that shows which file is checked, in a terminal only."""
    if not out.is_terminal:
        yield lambda path: None
        return
    with out.status("") as status:
        numbers = itertools.count(1)

        def begins(path: Path) -> None:
            status.update(Text(f"checking {path.name}, {number(next(numbers))} of {number(files)}"))

        yield begins


@contextmanager
def shown(name: str, out: Console, warnings: Watcher) -> Iterator[Watcher]:
    """A watcher that shows the progress of a file, with the callbacks of `warnings`."""
    if not out.is_terminal:
        yield _lines(out, warnings)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rows]} rows"),
        _Rate(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(name, total=None, rows="0")

        def at(rows: float) -> None:
            bar.update(task, completed=rows, rows=number(int(rows)))

        def begins(total: int | None, done: int) -> None:
            bar.update(task, total=total)
            at(done)

        # Rows count when they are sent. `done` corrects the number, since a call may be repeated.
        yield dataclasses.replace(
            warnings, begins=begins, sent=lambda rows: at(bar.tasks[task].completed + rows), done=at
        )


def _lines(out: Console, warnings: Watcher) -> Watcher:
    shown_at = time.monotonic()

    def begins(total: int | None, done: int) -> None:
        if done:
            print(f"  continuing after {number(done)} rows", file=out.file, flush=True)

    def done(rows: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PLAIN_PROGRESS_SECONDS:
            shown_at = time.monotonic()
            print(f"  {number(rows)} rows", file=out.file, flush=True)

    return dataclasses.replace(warnings, begins=begins, done=done)
