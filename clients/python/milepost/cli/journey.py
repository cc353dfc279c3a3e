"""`milepost journey`: shows and applies journeys."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from milepost import names
from milepost.cli import funnels, journey_edits, journey_files, plot
from milepost.cli.answers import AsJson, show_json, show_many
from milepost.cli.asking import AsOf, to_length
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import JourneyName
from milepost.cli.text import console, moment, number
from milepost.cli.tree import (
    Picture,
    credits_text,
    draw_plain,
    draw_rich,
    fail_if_any_size_failed,
    read_picture,
)
from milepost.client import Client
from milepost.v1.journey_pb2 import Journey

WATCH_INTERVAL = timedelta(seconds=2)
WATCH_SECONDS_MIN = 0.1

app = typer.Typer(
    help="Create, list, show, edit and delete journeys; compare and apply them as files.",
    no_args_is_help=True,
    cls=Group,
)
app.command()(journey_edits.create)
app.command()(journey_edits.edit)
app.command()(journey_edits.clone)
app.command()(journey_edits.delete)
app.command()(funnels.funnel)
app.command()(plot.plot)
app.command()(journey_files.apply)
app.command()(journey_files.diff)
app.command()(journey_files.export)
app.command()(journey_files.versions)
app.command()(funnels.preview)


@app.command()
@grouped
def show(
    journey: JourneyName,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until Ctrl-C.")] = False,
    interval: Annotated[
        timedelta,
        typer.Option(
            metavar="DURATION", parser=to_length, show_default="2s", help="Time between redraws, like 500ms."
        ),
    ] = WATCH_INTERVAL,
    as_of: AsOf = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Draw a journey as a tree with the size of each milestone.

    With --as-of or --json, every size is exact, as in `milepost journey funnel`.
    """
    out = console()
    with account.open() as client:
        if as_json:
            show_json(client.get_journey_funnel(journey, as_of=as_of))
        elif watch:
            _watch(client, journey, max(interval.total_seconds(), WATCH_SECONDS_MIN), as_of, out)
        else:
            fail_if_any_size_failed(print_picture(client, journey, out, as_of=as_of))


@app.command("list")
@grouped
def list_(
    query: Annotated[str, typer.Option(help="Part of the display name.")] = "",
    order_by: Annotated[str, typer.Option(help="For example display_name, or `update_time desc`.")] = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the account's journeys and their counts."""
    with account.open() as client:
        show_many(
            client.list_journeys(query=query, order_by=order_by),
            ["journey", "name", "audiences", "active", "outputs", "updated"],
            _row,
            as_json=as_json,
            right=(2, 3),
        )
        if not as_json:
            print(f"\n{credits_text(client.get_account())}")


def _row(journey: Journey) -> list[str]:
    return [
        names.last_id(journey.name),
        journey.display_name,
        number(journey.audience_count),
        number(journey.active_audience_count),
        ", ".join(names.last_id(output) for output in journey.connected_outputs),
        moment(journey.update_time),
    ]


def print_picture(client: Client, journey: str, out: Console, *, as_of: datetime | None = None) -> Picture:
    """Draws the journey once, as `out` can show it, and gives what was drawn."""
    picture = read_picture(client, journey, as_of)
    if out.is_terminal:
        out.print(draw_rich(picture))
    else:
        print(draw_plain(picture), file=out.file)
    return picture


def _watch(
    client: Client, journey: str, interval_seconds: float, as_of: datetime | None, out: Console
) -> None:
    try:
        if not out.is_terminal:
            while True:
                print_picture(client, journey, out, as_of=as_of)
                print(file=out.file, flush=True)
                time.sleep(interval_seconds)
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(draw_rich(read_picture(client, journey, as_of)), refresh=True)
                time.sleep(interval_seconds)
    except KeyboardInterrupt:
        return
