"""`milepost sample`: load the sample data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from milepost.cli.calling import Group, ServiceOptions
from milepost.cli.journey import print_picture
from milepost.cli.option_groups import grouped
from milepost.cli.text import console, number
from milepost.client import Client
from milepost.sample import dataset, journey
from milepost.sample.load import Loaded, NotTaken, load

PLAIN_PROGRESS_SECONDS = 5.0
"""Interval between progress lines in a pipe, which replace the bar."""

app = typer.Typer(
    help="Sample data: a year of purchases of 2,469 households.", no_args_is_help=True, cls=Group
)


@app.command("load")
@grouped
def load_command(service: ServiceOptions) -> None:
    """Send the sample data to a running service and build its journey."""
    out = console()
    with service.open_for(dataset.ACCOUNT_ID) as client:
        load_and_build(client, out)
        print_picture(client, journey.JOURNEY_ID, out)


def load_and_build(client: Client, out: Console) -> Loaded:
    """Loads the sample with a progress bar (lines in a pipe), then builds its journey."""
    try:
        dataset.data_files()
        loaded = _load_with_bar(client, out) if out.is_terminal else _load_with_lines(client, out)
    except (dataset.SampleMissing, NotTaken) as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(_summary(loaded), file=out.file, flush=True)
    journey.build(client)
    return loaded


def _load_with_bar(client: Client, out: Console) -> Loaded:
    columns = (
        TextColumn("Loading the sample"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("load", total=dataset.EVENTS)
        return load(client, lambda events: bar.update(task, completed=events))


def _load_with_lines(client: Client, out: Console) -> Loaded:
    print(f"loading the sample: {number(dataset.EVENTS)} events", file=out.file, flush=True)
    return load(client, _line_now_and_then(out))


def _line_now_and_then(out: Console) -> Callable[[int], None]:
    shown_at = time.monotonic()

    def progress(events: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PLAIN_PROGRESS_SECONDS:
            shown_at = time.monotonic()
            print(f"  {number(events)} events", file=out.file, flush=True)

    return progress


def _summary(loaded: Loaded) -> str:
    already = f" ({number(loaded.duplicates)} of them already stored)" if loaded.duplicates else ""
    events = number(loaded.events + loaded.duplicates)
    return (
        f"loaded {events} events{already} and {number(loaded.profiles)} profiles"
        f" in {loaded.elapsed_seconds:.1f} s, {number(round(loaded.events_per_second))} events/s\n"
    )
