"""Look-ups of names end in time, whatever the resolver does, and those that hang are bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from service.delivery.guard import Guard
from service.delivery.resolving import Resolver
from tests.harness import eventually

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443))]
SHORT_S = 0.05


class Hanging:
    """A resolver that answers for hosts once they are released, and others at once."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Iterable[tuple[Any, ...]]:
        self.asked.append(host)
        if host.startswith("hangs"):
            self.released.wait(60)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, host)
        return FOUND


def test_a_look_up_that_hangs_ends_in_time_and_frees_its_place_later() -> None:
    system = Hanging()
    resolver = Resolver(system, within_s=SHORT_S, lookups_max=2)
    for number in range(2):
        with pytest.raises(TimeoutError, match=f"hangs{number} was not resolved within 0.05 s$"):
            resolver(f"hangs{number}", 443)
    # Both places are taken: a third look-up does not begin.
    with pytest.raises(TimeoutError, match="too many others wait"):
        resolver("quick", 443)
    assert system.asked == ["hangs0", "hangs1"]
    system.released.set()
    eventually(lambda: _resolves(resolver))


def _resolves(resolver: Resolver) -> bool:
    try:
        return resolver("quick", 443) == FOUND
    except TimeoutError:
        return False


def test_what_the_resolver_says_is_passed_on() -> None:
    resolver = Resolver(Hanging())
    assert resolver("quick", 443) == FOUND
    with pytest.raises(socket.gaierror):
        resolver("none", 443)


def test_an_address_needs_no_look_up() -> None:
    system = Hanging()
    resolver = Resolver(system, within_s=SHORT_S, lookups_max=1)
    with pytest.raises(TimeoutError):
        resolver("hangs", 443)
    assert resolver("8.8.8.8", 443) == FOUND
    assert resolver("::1", 443) == FOUND
    system.released.set()


def test_an_output_whose_host_is_not_resolved_may_be_tried_again() -> None:
    """It is an OSError, as a host that does not answer, and no refusal of the host."""
    system = Hanging()
    guard = Guard(resolve=Resolver(system, within_s=SHORT_S))
    with pytest.raises(OSError, match="not resolved"):
        guard.peers("hangs", 443)
    system.released.set()
    assert [str(peer.address) for peer in guard.peers("quick", 443)] == ["8.8.8.8"]
