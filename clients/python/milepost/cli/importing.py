"""`milepost import`: files of events into a running service."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from milepost.cli.connection import DEFAULT_ACCOUNT, DEFAULT_TARGET, AccountId, ApiKey, Target, open_client
from milepost.cli.text import console, number
from milepost.importing import CannotImport, FileImported, Format, Settings, import_file
from milepost.importing.run import Watcher
from milepost.importing.source import SEGMENT_ROWS
from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EventType
from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_NANOSECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)

EXIT_REJECTED = 3
"""Exit status when everything was read and sent, and some rows were rejected."""
EXIT_USAGE = 2
PLAIN_PROGRESS_SECONDS = 5.0
"""In a pipe, a line this often instead of a bar."""

TIME_UNITS = {
    "s": TIME_UNIT_SECONDS,
    "ms": TIME_UNIT_MILLISECONDS,
    "us": TIME_UNIT_MICROSECONDS,
    "ns": TIME_UNIT_NANOSECONDS,
}
KINDS = ("string", "number", "bool", "time")


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet, CSV or NDJSON.")],
    input_: Annotated[str, typer.Option("--input", help="Input of rows without one: workspace/input.")] = "",
    format_: Annotated[Format, typer.Option("--format", help="auto: told by the name.")] = Format.AUTO,
    user_id_column: Annotated[str, typer.Option(help="Column of the user ids.")] = "user_id",
    name_column: Annotated[str, typer.Option(help="Column of the event names.")] = "name",
    time_column: Annotated[str, typer.Option(help="Column of the times.")] = "time",
    event_id_column: Annotated[str, typer.Option(help="Column of the event ids.")] = "event_id",
    type_column: Annotated[str, typer.Option(help="Column of the event types.")] = "",
    input_column: Annotated[str, typer.Option(help="Column of the inputs, by full name.")] = "",
    default_name: Annotated[str, typer.Option(help="Event name of rows without one.")] = "",
    default_type: Annotated[str, typer.Option(help="Type of rows without one: custom, commerce, ...")] = "",
    time_unit: Annotated[str, typer.Option(help="What integer times count: s, ms, us or ns.")] = "us",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:KIND", help=f"Read an attribute as another kind: {', '.join(KINDS)}."),
    ] = None,
    request_id: Annotated[str, typer.Option(help="Makes this another import of the same file.")] = "",
    rejected: Annotated[Path | None, typer.Option(help="Default: FILE.rejected.ndjson.")] = None,
    progress_file: Annotated[Path | None, typer.Option(help="Default: FILE.milepost-import.json.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on even if rows could count twice.")] = False,
    segment_rows: Annotated[
        int, typer.Option(help="Rows in one call, at most.", min=1, max=SEGMENT_ROWS)
    ] = SEGMENT_ROWS,
    account: AccountId = DEFAULT_ACCOUNT,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Import files of events. A run that broke off is taken up by the next; nothing is applied twice.

    Exit status: 0 everything taken, 3 some rows rejected (they are in a file, with reasons), 1 broken off.
    """
    if progress_file is not None and len(files) > 1:
        raise _usage("--progress-file is for one file")
    settings = Settings(
        input=input_,
        user_id_column=user_id_column,
        name_column=name_column,
        time_column=time_column,
        event_id_column=event_id_column,
        type_column=type_column,
        input_column=input_column,
        default_name=default_name,
        default_type=_event_type(default_type),
        time_unit=_time_unit(time_unit),
        kinds=_kinds(column or ()),
    )
    with open_client(target, account, api_key) as client:
        run = partial(
            import_file,
            client,
            settings=settings,
            format=format_,
            request_id=request_id,
            rejected_path=rejected,
            progress_path=progress_file,
            force=force,
            segment_rows=segment_rows,
        )
        imported = [_one_file(run, file, console()) for file in files]
    if any(each.rejected for each in imported):
        raise typer.Exit(EXIT_REJECTED)


def _one_file(run: Callable[..., FileImported], file: Path, out: Console) -> FileImported:
    """Runs the import of a file and shows how it goes and went; exits when it cannot be imported."""
    started = time.perf_counter()
    try:
        with _shown(file, out) as watcher:
            imported = run(path=file, watcher=watcher)
    except (CannotImport, ValueError) as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(_summary(file, imported, time.perf_counter() - started), file=out.file, flush=True)
    return imported


# --- options ---


def _usage(message: str) -> typer.Exit:
    print(f"milepost: {message}", file=sys.stderr)
    return typer.Exit(EXIT_USAGE)


def _event_type(text: str) -> EventType.ValueType:
    names = {name.removeprefix("EVENT_TYPE_").lower(): value for name, value in EventType.items()}
    if (text or "unspecified").lower() not in names:
        raise _usage(f"--default-type must be one of {', '.join(names)}, not {text!r}")
    return names[(text or "unspecified").lower()]


def _time_unit(text: str) -> TimeUnit.ValueType:
    if text not in TIME_UNITS:
        raise _usage(f"--time-unit must be one of {', '.join(TIME_UNITS)}, not {text!r}")
    return TIME_UNITS[text]


def _kinds(texts: Sequence[str]) -> dict[str, ValueKind.ValueType]:
    kinds = {}
    for text in texts:
        name, _, kind = text.rpartition(":")
        if not name or kind not in KINDS:
            raise _usage(f"--column must be NAME:KIND with a kind of {', '.join(KINDS)}, not {text!r}")
        kinds[name] = ValueKind.Value(f"VALUE_KIND_{kind.upper()}")
    return kinds


# --- progress ---


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        """As "512,345 rows/s"; nothing before there is a rate."""
        return Text(f"{number(int(task.speed))} rows/s" if task.speed else "")


@contextmanager
def _shown(file: Path, out: Console) -> Iterator[Watcher]:
    if not out.is_terminal:
        yield _lines(out)
        return
    columns = (
        TextColumn(file.name),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rows]} rows"),
        _Rate(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("import", total=None, rows="0")

        def at(rows: float) -> None:
            bar.update(task, completed=rows, rows=number(int(rows)))

        def begins(total: int | None, done: int) -> None:
            bar.update(task, total=total)
            at(done)

        # Rows count when they go out, and are put right when they are acknowledged: a call may be repeated.
        yield Watcher(begins, lambda rows: at(bar.tasks[task].completed + rows), at)


def _lines(out: Console) -> Watcher:
    shown_at = time.monotonic()

    def begins(total: int | None, done: int) -> None:
        if done:
            print(f"  going on behind {number(done)} rows", file=out.file, flush=True)

    def done(rows: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PLAIN_PROGRESS_SECONDS:
            shown_at = time.monotonic()
            print(f"  {number(rows)} rows", file=out.file, flush=True)

    return Watcher(begins=begins, done=done)


def _summary(file: Path, imported: FileImported, elapsed_seconds: float) -> str:
    rows = imported.rows - imported.resumed_rows
    if imported.resumed_rows and not rows:
        before = "was imported before: "
    else:
        before = f"{number(rows)} rows in {elapsed_seconds:.1f} s"
        before += f", {number(round(rows / elapsed_seconds))} rows/s"
        before += (
            f", after {number(imported.resumed_rows)} in former runs; " if imported.resumed_rows else "; "
        )
    parts = [f"{number(imported.accepted)} events taken"]
    if imported.duplicates:
        parts.append(f"{number(imported.duplicates)} were there already")
    if imported.rejected:
        parts.append(f"{number(imported.rejected)} rejected, see {imported.rejected_path}")
    return f"{file.name}: {before}{', '.join(parts)}"
