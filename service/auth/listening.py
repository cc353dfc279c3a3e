"""Where the service may listen: without API keys on this machine only."""

from __future__ import annotations

import errno
import ipaddress
import shlex
import socket
from pathlib import Path

import structlog

_logger = structlog.get_logger("milepost.service")


class CannotListen(OSError):
    """The address is in use, not available on this machine, or open to others without keys."""


def cannot_listen(host: str, port: int, error: Exception, *, served: str = "") -> CannotListen:
    """The error of an address that cannot be had. `served` is what is served on it: HTTP, metrics, or "" for
    gRPC. In lower case it begins the names of its settings.
    """
    reason = getattr(error, "strerror", None) or error
    prefix = f"--{served.lower()}-" if served else "--"
    way_on = f"{prefix}port names another port, 0 a free one"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        way_on = f"{prefix}host names an address of this machine"
    what = f"serve {served}" if served else "listen"
    return CannotListen(f"cannot {what} on {host}:{port}: {reason}; {way_on}")


def check_address(
    host: str, *, keys_required: bool, insecure: bool, encrypted: bool, directory: Path | None
) -> None:
    """Raises CannotListen for an address that other machines can reach while no call needs an API key, unless
    `insecure` allows it. Warns when keys would travel unencrypted. `directory` is that of the store, None for
    one in memory, which has no first key.
    """
    if is_loopback(host):
        return
    if not keys_required:
        if not insecure:
            ways = ["listen on 127.0.0.1", "pass --insecure-listen true"]
            if directory is not None:
                command = f"milepost init --data-dir {shlex.quote(str(directory))}"
                ways.insert(0, f"create the first key with `{command}`")
            raise CannotListen(
                f"refusing to listen on {host} without API keys: anyone who reaches the port could do"
                f" everything; {', or '.join(ways)}"
            )
        _logger.warning("no API key is needed, and other machines can reach the port", host=host)
    elif not encrypted:
        _logger.warning("API keys travel unencrypted: set --tls-cert-file and --tls-key-file", host=host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. A name counts by what it resolves to."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
