"""`milepost demo`: a service with its own store, the sample data and its journey."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from milepost.cli.journey import print_picture
from milepost.cli.sample import load_and_build
from milepost.cli.serve import require_service
from milepost.cli.service_process import ServiceDied, ServiceProcess
from milepost.cli.text import console
from milepost.client import Client
from milepost.errors import NotFound
from milepost.sample import journey
from milepost.sample.dataset import ACCOUNT_ID

PORT = 7443
# Show the load and the tree, not every call.
QUIET = ("--log-level", "warning")


def demo(
    data: Annotated[Path, typer.Option(help="Store directory. Created if missing.")] = Path("data"),
    port: Annotated[
        int, typer.Option(help="Port to listen on. 0 picks a free port.", min=0, max=65_535)
    ] = PORT,
    exit_: Annotated[bool, typer.Option("--exit", help="Stop after showing the journey.")] = False,
) -> None:
    """Start the service, load the sample if missing, show its journey, and keep serving."""
    require_service()
    # SIGTERM ends the demo like Ctrl-C, so that the child is stopped too.
    signal.signal(signal.SIGTERM, _interrupt)
    out = console()
    try:
        with ServiceProcess(data, port=port, flags=QUIET) as service:
            with Client(service.target, account=ACCOUNT_ID) as client:
                _fill(client, out)
                print_picture(client, journey.JOURNEY_ID, out)
            if not exit_:
                print(_how_to_go_on(service.target), file=out.file, flush=True)
                service.wait()
                raise ServiceDied("the service ended")
    except ServiceDied as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _fill(client: Client, out: Console) -> None:
    """Loads the sample unless an earlier load was completed: the journey is built last."""
    try:
        client.get_journey(journey.JOURNEY_ID)
    except NotFound:
        load_and_build(client, out)
    else:
        journey.build(client)


def _how_to_go_on(target: str) -> str:
    where = "" if target.endswith(f":{PORT}") else f" --target {target}"
    example = f"milepost estimate {journey.JOURNEY_ID}/{journey.SPENT_ID}{where}"
    as_of = "The data are of 2017: windows up to now, like the last 30 days, need --as-of 2017-12-01."
    return f"\nServing on {target}, Ctrl-C to stop. In another terminal:\n  {example}\n{as_of}"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
