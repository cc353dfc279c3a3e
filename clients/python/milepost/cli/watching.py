"""`milepost watch`: follows the members of an audience."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

import typer

from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceName
from milepost.cli.updates import AsJsonLines, lines_of
from milepost.v1.audience_service_pb2 import ProgressMark


@grouped
def watch(
    audience: AudienceName,
    cursor: Annotated[
        int | None, typer.Option(help="Continue after this cursor, instead of with all members.", min=0)
    ] = None,
    epoch: Annotated[str, typer.Option(help="Epoch of the cursor, printed with it.")] = "",
    progress_interval: Annotated[
        timedelta | None,
        typer.Option(metavar="DURATION", parser=to_length, help="Time between progress marks, like 5s."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when there is nothing more to print.")] = False,
    as_json: AsJsonLines = False,
    *,
    account: AccountOptions,
) -> None:
    """Print the members of an activated audience, then every change. Ctrl-C ends, and prints the cursor.

    `milepost connection watch` follows a connection instead, which keeps the cursor.
    """
    with account.open() as client:
        updates = client.watch(audience, cursor=cursor, epoch=epoch, progress_interval=progress_interval)
        try:
            for update in updates:
                for line in lines_of(update, updates, as_json=as_json):
                    print(line, flush=True)
                if once and isinstance(update, ProgressMark):
                    break
        except KeyboardInterrupt:
            pass
        finally:
            updates.close()
    if updates.cursor is not None:
        print(f"continue with --cursor {updates.cursor} --epoch {updates.epoch}", file=sys.stderr)
