"""The question before a deletion that takes connections with it."""

from __future__ import annotations

from collections.abc import Iterable

from milepost import names
from milepost._near import LISTED_MAX
from milepost.cli.parameters import confirm
from milepost.cli.text import counted
from milepost.cli.words import word_of
from milepost.v1.connection_pb2 import CONNECTION_STATE_ACTIVE, Connection, ConnectionState


def confirm_connections(deletion: str, connections: Iterable[Connection], *, yes: bool) -> None:
    """Asks, as `confirm` does, before a deletion that takes connections with it. There is no question when
    there are none. `deletion` is its beginning: "Delete gardeners/keen".
    """
    if yes:
        return
    found = list(connections)
    if not found:
        return
    shown = ", ".join(
        f"{names.last_id(each.name)} ({word_of(ConnectionState, each.state)})" for each in found[:LISTED_MAX]
    )
    more = f" and {len(found) - LISTED_MAX:,} more" if len(found) > LISTED_MAX else ""
    is_sent = any(each.state == CONNECTION_STATE_ACTIVE for each in found)
    exits = " Every member exits: outputs of active connections are sent that." if is_sent else ""
    question = f"{deletion} with {counted(len(found), 'connection')}: {shown}{more}?"
    confirm(f"{question}{exits} This cannot be undone.", yes=False)
