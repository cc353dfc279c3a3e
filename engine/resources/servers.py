"""Addresses of servers that outputs connect to: `scheme://host:port`, or `host:port`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from engine.limits import OUTPUT_SERVERS_MAX

NO_HOST = "must have the name of a host, or an address in its usual form, like 192.0.2.1 or [2001:db8::1]"
_HOST = re.compile(r"[^\s/\\?#@:\[\]<>^|%\"'`{}]+")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)
"""A last label that makes a host an address."""


class Server(NamedTuple):
    """A server, with what else its URL has."""

    scheme: str
    host: str
    port: int
    path: str = ""
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        # Without secrets: this goes into errors.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def servers_of(text: str, default_ports: Mapping[str, int]) -> tuple[Server, ...]:
    """The servers in a list that is separated by commas.

    `default_ports` has the schemes, and for each the port of a URL without one; 0: it needs one. With the
    scheme "" there are no schemes: `host:port`. Nothing follows the port. Raises ValueError with what a
    caller has to mend.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > OUTPUT_SERVERS_MAX:
        raise ValueError(f"has {len(parts)} servers; at most {OUTPUT_SERVERS_MAX} are allowed")
    servers = tuple(_server(part, default_ports) for part in parts)
    if any(server.path not in ("", "/") for server in servers):
        raise ValueError(_malformed(default_ports))
    return servers


def server_of(text: str, default_ports: Mapping[str, int]) -> Server:
    """The server in a text that has one, by the same rules."""
    return _server(text, default_ports)


def is_host(host: str) -> bool:
    """Whether a host is a name, or an address in the one form that all resolvers read the same way: some take
    `0177.0.0.1`, `2130706433` and `0x7f.1` for addresses too.
    """
    if ":" in host:
        return _is_address(ipaddress.IPv6Address, host)
    labels = host.removesuffix(".").split(".")
    if not all(labels) or not (host.isprintable() and _HOST.fullmatch(host)):
        return False
    return _is_address(ipaddress.IPv4Address, host) if _NUMERIC.fullmatch(labels[-1]) else True


def _is_address(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _malformed(schemes: Iterable[str]) -> str:
    forms = (f"{scheme}://host:port" if scheme else "host:port" for scheme in schemes)
    return f"must be {' or '.join(forms)}"


def _server(text: str, default_ports: Mapping[str, int]) -> Server:
    malformed = _malformed(default_ports)
    try:
        parts = urlsplit(f"//{text}" if "" in default_ports else text)
        port = parts.port
    except ValueError:
        raise ValueError(malformed) from None
    port = default_ports.get(parts.scheme, 0) if port is None else port
    printable = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in default_ports or not parts.hostname or not port or not printable:
        raise ValueError(malformed)
    if not is_host(parts.hostname):
        raise ValueError(NO_HOST)
    if parts.query or parts.fragment:
        raise ValueError("must have no query and no fragment")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Server(parts.scheme, parts.hostname, port, parts.path, user, password)
