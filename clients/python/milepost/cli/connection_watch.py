"""`milepost connection watch`: reads the changes of a connection to a `watch` output."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from milepost.cli.calling import AccountOptions
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import ConnectionName
from milepost.cli.updates import AsJsonLines, lines_of
from milepost.client.watching import AcknowledgedWatch
from milepost.v1.audience_service_pb2 import ProgressMark

ONCE_INTERVAL = timedelta(milliseconds=100)
"""The shortest interval between progress marks: the first one says that there is nothing more."""


@grouped
def watch(
    connection: ConnectionName,
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Acknowledge what was printed: it does not come again.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop when there is nothing more to print.")] = False,
    as_json: AsJsonLines = False,
    *,
    account: AccountOptions,
) -> None:
    """Print the changes of an active connection to a `watch` output, from the last acknowledged on.

    Before anything is acknowledged, and when the audience was calculated anew, all members come first.
    Ctrl-C ends.
    """
    with account.open() as client:
        changes = client.watch_connection(connection, progress_interval=ONCE_INTERVAL if once else None)
        printed = changes.cursor
        try:
            for update in changes:
                for line in lines_of(update, changes, as_json=as_json):
                    print(line, flush=True)
                printed = changes.cursor
                if isinstance(update, ProgressMark):
                    _acknowledge(changes, printed, acknowledge)
                    if once:
                        return
        except KeyboardInterrupt:
            # What was printed since the last mark is acknowledged below.
            pass
        finally:
            changes.close()
        _acknowledge(changes, printed, acknowledge)


def _acknowledge(changes: AcknowledgedWatch, printed: int | None, wanted: bool) -> None:
    if wanted and printed is not None:
        changes.acknowledge(printed)
