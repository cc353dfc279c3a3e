"""Ends the connections of a server that has answered all its calls.

A gRPC server that is shut down cancels the calls that reach it in the meantime, and callers do not repeat a
call that was CANCELLED. The end of a connection makes them UNAVAILABLE, which callers repeat. gRPC offers no
way to end one, so this is done on the sockets: nobody connects any more, what was answered arrives, then the
connection ends.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

_OPEN_FILES = "/proc/self/fd"


def hang_up(port: int) -> None:
    """Stops listening on the port, then ends every connection to it. gRPC logs that it cannot accept."""
    # Nobody may connect between the two steps.
    stop_listening(port)
    _shut(port, listening=False, how=socket.SHUT_WR)


def stop_listening(port: int) -> None:
    """Refuses new connections to the port in this process."""
    _shut(port, listening=True, how=socket.SHUT_RD)


def _shut(port: int, *, listening: bool, how: int) -> None:
    for each in _sockets(port):
        try:
            if bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) == listening:
                each.shutdown(how)
        except OSError:
            # The caller was faster.
            continue


def _sockets(port: int) -> Iterator[socket.socket]:
    """The sockets of this process that are bound to the port."""
    for name in os.listdir(_OPEN_FILES):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            # A copy of the descriptor: the socket stays open when it is closed.
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                yield copy
