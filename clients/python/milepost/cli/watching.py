"""`milepost watch`: follows the members of audiences."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

import typer

from milepost import Client
from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceNames
from milepost.cli.updates import AsJsonLines, lines_of, lines_of_several
from milepost.v1.audience_service_pb2 import ProgressMark, WatchEnd


@grouped
def watch(
    audiences: AudienceNames,
    cursor: Annotated[
        int | None, typer.Option(help="Continue after this cursor, instead of with all members.", min=0)
    ] = None,
    epoch: Annotated[str, typer.Option(help="Epoch of the cursor, printed with it.")] = "",
    position: Annotated[
        str, typer.Option(help="Continue several audiences after this position, instead of with all members.")
    ] = "",
    progress_interval: Annotated[
        timedelta | None,
        typer.Option(metavar="DURATION", parser=to_length, help="Time between progress marks, like 5s."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when there is nothing more to print.")] = False,
    as_json: AsJsonLines = False,
    *,
    account: AccountOptions,
) -> None:
    """Print the members of activated audiences, then every change. Ctrl-C ends, and prints where to continue.

    Several audiences, at most 200, take one stream; each line then names its audience. `milepost connection
    watch` follows a connection instead, which keeps the cursor.
    """
    together = len(audiences) > 1 or bool(position)
    if together and (cursor is not None or epoch):
        raise typer.BadParameter("is of one audience; several have a --position", param_hint="--cursor")
    with account.open() as client:
        if together:
            _several(client, audiences, position, progress_interval, once=once, as_json=as_json)
        else:
            _one(client, audiences[0], cursor, epoch, progress_interval, once=once, as_json=as_json)


def _one(
    client: Client,
    audience: str,
    cursor: int | None,
    epoch: str,
    progress_interval: timedelta | None,
    *,
    once: bool,
    as_json: bool,
) -> None:
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


def _several(
    client: Client,
    audiences: list[str],
    position: str,
    progress_interval: timedelta | None,
    *,
    once: bool,
    as_json: bool,
) -> None:
    updates = client.watch_together(audiences, position=position, progress_interval=progress_interval)
    # Until their first mark, or their end.
    unmarked = set(audiences)
    are_all_watched = True
    try:
        for watched in updates:
            for line in lines_of_several(watched, updates.position, as_json=as_json):
                print(line, flush=True)
            if isinstance(watched.update, WatchEnd):
                are_all_watched = False
                print(f"{watched.target}: {watched.update.message}", file=sys.stderr)
            if isinstance(watched.update, WatchEnd | ProgressMark):
                unmarked.discard(watched.target)
            if once and not unmarked:
                break
    except KeyboardInterrupt:
        pass
    finally:
        updates.close()
    if updates.position:
        print(f"continue with --position {updates.position}", file=sys.stderr)
    if not are_all_watched:
        raise typer.Exit(1)
