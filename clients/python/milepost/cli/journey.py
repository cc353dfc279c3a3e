"""`milepost journey`: look at journeys, and apply whole ones."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from milepost import names
from milepost.cli import journey_files, plot
from milepost.cli.connection import (
    DEFAULT_ACCOUNT,
    DEFAULT_TARGET,
    AccountId,
    ApiKey,
    Group,
    Target,
    open_client,
)
from milepost.cli.text import console, number, show_table
from milepost.cli.tree import credits_text, draw_plain, draw_rich, read_picture
from milepost.client import Client
from milepost.values import to_datetime

WATCH_SECONDS = 2.0

app = typer.Typer(help="List, show, compare and apply journeys.", no_args_is_help=True, cls=Group)
app.command()(plot.plot)
app.command()(journey_files.apply)
app.command()(journey_files.diff)
app.command()(journey_files.export)


@app.command()
def show(
    journey: Annotated[str, typer.Argument(help="The journey's id or name.")],
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between redraws.", min=0.1)] = WATCH_SECONDS,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Draw a journey as a tree with the size of each milestone."""
    out = console()
    with open_client(target, account, api_key) as client:
        if watch:
            _watch(client, journey, interval, out)
        else:
            print_picture(client, journey, out)


@app.command("list")
def list_(
    query: Annotated[str, typer.Option(help="Part of the display name.")] = "",
    order_by: Annotated[str, typer.Option(help="For example display_name, or `update_time desc`.")] = "",
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """List the account's journeys and their counts."""
    out = console()
    with open_client(target, account, api_key) as client:
        rows = [
            [
                names.last_id(journey.name),
                journey.display_name,
                number(journey.audience_count),
                number(journey.active_audience_count),
                ", ".join(names.last_id(output) for output in journey.connected_outputs),
                f"{to_datetime(journey.update_time):%Y-%m-%d %H:%M}",
            ]
            for journey in client.list_journeys(query=query, order_by=order_by)
        ]
        show_table(out, ["journey", "name", "audiences", "active", "outputs", "updated"], rows, right=(2, 3))
        print(f"\n{credits_text(client.get_account())}", file=out.file)


def print_picture(client: Client, journey: str, out: Console) -> None:
    """Draws the journey once, as `out` can show it."""
    picture = read_picture(client, journey)
    if out.is_terminal:
        out.print(draw_rich(picture))
    else:
        print(draw_plain(picture), file=out.file)


def _watch(client: Client, journey: str, interval_seconds: float, out: Console) -> None:
    try:
        if not out.is_terminal:
            while True:
                print_picture(client, journey, out)
                print(file=out.file, flush=True)
                time.sleep(interval_seconds)
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(draw_rich(read_picture(client, journey)), refresh=True)
                time.sleep(interval_seconds)
    except KeyboardInterrupt:
        return
