"""The location of a store in a cluster: `//USER:PASSWORD@HOST:PORT+HOST:PORT,HOST:PORT?gateway=DIR`.

A comma divides shards, a plus the replicas of one. User and password are those of all servers, and are
percent-encoded where they have characters of the URL. Parameters: `gateway`, the directory of what the
gateway keeps itself; `database`, by default `milepost`; `secure=1` for TLS.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from engine.backends.clickhouse.server import Address
from engine.errors import InvalidInput

DATABASE_DEFAULT = "milepost"
HTTP_PORT, HTTPS_PORT = 8123, 8443
"""Ports of a server that names none."""
SHAPE = "clickhouse://USER:PASSWORD@HOST:PORT+HOST:PORT,HOST:PORT?gateway=DIR"
_PARAMETERS = ("gateway", "database", "secure")


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store in a cluster is."""

    shards: tuple[tuple[Address, ...], ...]
    """The replicas of each shard."""
    gateway: Path
    database: str = DATABASE_DEFAULT

    @property
    def names(self) -> list[str]:
        """The addresses of all servers, without secrets."""
        return [address.name for shard in self.shards for address in shard]


def location_of(text: str) -> Location:
    """Reads a location. Raises InvalidInput, without secrets in its message."""
    parts = urlsplit(f"clickhouse:{text}")
    parameters = parse_qs(parts.query, keep_blank_values=True)
    unknown = [name for name in parameters if name not in _PARAMETERS]
    if unknown:
        raise _refused(f"unknown parameter {unknown[0]!r}; known: {', '.join(_PARAMETERS)}")
    if not parts.netloc or parts.path not in ("", "/") or parts.fragment:
        raise _refused("it names no servers")
    gateway = parameters.get("gateway", [""])[-1]
    if not gateway:
        raise _refused("`gateway=DIR` says where the gateway keeps its log, documents and memberships")
    database = parameters.get("database", [DATABASE_DEFAULT])[-1]
    if not database:
        raise _refused("the database has no name")
    secure = parameters.get("secure", ["0"])[-1]
    if secure not in ("0", "1"):
        raise _refused("`secure` is 0 or 1")
    user, _, places = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    shards = tuple(
        tuple(_address(place, unquote(name), unquote(password), secure == "1") for place in shard.split("+"))
        for shard in places.split(",")
    )
    location = Location(shards=shards, gateway=Path(gateway), database=database)
    if len(set(location.names)) != len(location.names):
        raise _refused("it names a server twice")
    return location


def _address(place: str, user: str, password: str, is_secure: bool) -> Address:
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, str(HTTPS_PORT if is_secure else HTTP_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise _refused(f"{place!r} is no HOST:PORT")
    return Address(host=host, port=int(port), user=user or "default", password=password, is_secure=is_secure)


def _refused(why: str) -> InvalidInput:
    return InvalidInput.one("store", f"{why}; expected {SHAPE}")
