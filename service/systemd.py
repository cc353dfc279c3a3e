"""Tells systemd the state of the service (`Type=notify`), as sd_notify does."""

from __future__ import annotations

import contextlib
import os
import socket
import time

ADDRESS_VARIABLE = "NOTIFY_SOCKET"
NANOS_PER_MICRO = 1_000


def ready(status: str) -> None:
    """The service serves."""
    _notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload began; `ready` ends it."""
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // NANOS_PER_MICRO}")


def stopping() -> None:
    """The service began to stop."""
    _notify("STOPPING=1", "STATUS=draining calls")


def _notify(*assignments: str) -> None:
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    # "@" stands for the zero byte of an abstract address.
    path = "\0" + address[1:] if address.startswith("@") else address
    # A manager that is gone does not concern the service.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(assignments).encode(), path)
