"""Which addresses outputs may connect to: those of the internet, and networks that an operator allows.

An account chooses the host of an output, so without this it could make the service call what only the service
reaches: itself, its neighbours, the metadata of a cloud machine. A host is resolved once, every address is
checked, and the connection goes to a checked address and nowhere else: a name that resolves to something else
a moment later changes nothing. A look-up has a time of its own (`service.delivery.resolving`).
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from service.delivery.resolving import Resolve, system_resolver

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
CLOUD_ADDRESSES: frozenset[Address] = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Public addresses that serve a machine's own cloud: Azure's. Others use addresses that are not public."""

NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "100::/64", "fec0::/10"))
)
"""Networks that are not public, but not all versions of Python say so."""
NOT_PUBLIC_FAULT = "is not a public address"
_IPV4_IN_IPV6 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""Networks whose addresses hold an IPv4 address in their last bits: translated and compatible ones."""


class TargetRefused(Exception):
    """The host has no address that outputs may connect to. Retrying does not help."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A checked address of a host."""

    family: socket.AddressFamily
    address: Address
    port: int

    @property
    def socket_address(self) -> tuple[str, int]:
        """What a socket connects to."""
        return str(self.address), self.port


class Guard:
    """Resolves hosts and connects to addresses that are allowed. Safe to call from several threads."""

    def __init__(self, allowed: Iterable[Network] = (), resolve: Resolve | None = None) -> None:
        """`allowed` are networks that may be connected to although they are not public."""
        self._allowed = tuple(allowed)
        self._resolve = resolve or system_resolver()

    def peers(self, host: str, port: int) -> tuple[Peer, ...]:
        """The addresses of a host that outputs may connect to, in the order of the resolver. Raises OSError
        when the host has none or is not resolved in time, and TargetRefused when none of them is allowed.
        """
        found = tuple(_peers(self._resolve(host, port)))
        allowed = tuple(peer for peer in found if self.fault(peer.address) is None)
        if not allowed:
            why = "; ".join(dict.fromkeys(f"{peer.address} {self.fault(peer.address)}" for peer in found))
            raise TargetRefused(f"outputs may not connect to {host}: {why or 'it has no address'}")
        return allowed

    def connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """A connection to the first allowed address of the host that answers. Each address may take its share
        of the time until `deadline`, an instant of `time.monotonic()`.

        Raises TargetRefused, and OSError when none answers in time.
        """
        failure: OSError | None = None
        peers = self.peers(host, port)
        for left, peer in zip(range(len(peers), 0, -1), peers, strict=True):
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise failure or TimeoutError(f"no time was left to connect to {host}")
            connection = socket.socket(peer.family, socket.SOCK_STREAM)
            try:
                connection.settimeout(remaining_s / left)
                connection.connect(peer.socket_address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        assert failure is not None, "a host that is not refused has an address"
        raise failure

    def fault(self, address: Address) -> str | None:
        """Why outputs may not connect to an address; None if they may."""
        ways = (address, *_inside(address))
        if any(_is_in(each, self._allowed) for each in ways):
            return None
        faults = [fault for fault in map(_fault, ways) if fault]
        return min(faults, key=lambda fault: fault == NOT_PUBLIC_FAULT, default=None)


def networks_of(text: str) -> tuple[Network, ...]:
    """The networks in a text like `10.0.0.0/8, fd00::/8`. Raises ValueError naming the part at fault."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _fault(address: Address) -> str | None:
    if address in CLOUD_ADDRESSES:
        return "serves the machine's own cloud"
    for kind, applies in (
        ("is a loopback address", address.is_loopback),
        ("is a link-local address", address.is_link_local),
        ("is a multicast address", address.is_multicast),
        (NOT_PUBLIC_FAULT, not address.is_global or _is_in(address, NOT_PUBLIC)),
    ):
        if applies:
            return kind
    return None


def _inside(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that reach the same machine through an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    yield from (each for each in found if each is not None)
    if any(address in network for network in _IPV4_IN_IPV6):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _peers(found: Iterable[tuple[Any, ...]]) -> Iterator[Peer]:
    for family, _, _, _, socket_address in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            # A scope (`fe80::1%eth0`) belongs to link-local addresses, which are refused.
            text = str(socket_address[0]).partition("%")[0]
            yield Peer(family, ipaddress.ip_address(text), socket_address[1])
