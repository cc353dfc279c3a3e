"""Outputs connect to public addresses only, however a host leads to others."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.delivery.guard import Guard, Network, TargetRefused, networks_of

PUBLIC = ("8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::1")
REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "0.0.0.0": "not a public",
    "::": "not a public",
    "10.1.2.3": "not a public",
    "172.16.0.1": "not a public",
    "172.31.255.255": "not a public",
    "192.168.1.1": "not a public",
    "100.64.0.1": "not a public",
    "100.100.100.200": "not a public",
    "192.0.0.192": "not a public",
    "192.0.2.1": "not a public",
    "198.18.0.1": "not a public",
    "240.0.0.1": "not a public",
    "255.255.255.255": "not a public",
    "169.254.169.254": "link-local",
    "fe80::1": "link-local",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "fc00::1": "not a public",
    "fd00:ec2::254": "not a public",
    "fec0::1": "not a public",
    "2001:db8::1": "not a public",
    "168.63.129.16": "the machine's own cloud",
    # IPv4 addresses in IPv6: mapped, compatible, translated, 6to4 and Teredo.
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "link-local",
    "::127.0.0.1": "loopback",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::a00:1": "not a public",
    "2002:7f00:1::": "loopback",
    "2002:a9fe:a9fe::1": "link-local",
    "2001:0:7f00:1::": "loopback",
}


class Names:
    """A resolver that gives these addresses, one list for each time it is asked."""

    def __init__(self, *answers: Iterable[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[tuple[Any, ...]]:
        self.asked += 1
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0)[: 4 if ":" in address else 2],
            )
            for address in addresses
        ]


def allowed(*addresses: str, networks: Iterable[Network] = ()) -> list[str]:
    return [str(peer.address) for peer in Guard(networks, Names(addresses)).peers("example.org", 443)]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed(address) == [address]


@pytest.mark.parametrize(("address", "why"), REFUSED.items())
def test_other_addresses_are_refused_with_a_reason(address: str, why: str) -> None:
    with pytest.raises(TargetRefused, match="outputs may not connect to") as refused:
        allowed(address)
    assert why in str(refused.value)


@given(st.ip_addresses())
def test_what_is_refused_is_refused_in_every_ipv6_form(address: Any) -> None:
    guard = Guard()
    if address.version == 6:
        assert guard.fault(address) or address.is_global
        return
    number = int(address)
    forms = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address((0x0064_FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    if guard.fault(address):
        assert all(guard.fault(form) for form in forms)


def test_only_the_allowed_addresses_of_a_host_are_used() -> None:
    assert allowed("10.0.0.1", "8.8.8.8", "::1", "2606:4700::1") == ["8.8.8.8", "2606:4700::1"]


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f.0.0.1", "2130706433", "[::1]", "0"])
def test_a_host_that_is_written_in_another_way_is_refused_by_its_address(host: str) -> None:
    with pytest.raises((TargetRefused, OSError)):
        Guard().peers(host, 80)


def test_a_host_without_addresses_is_refused() -> None:
    with pytest.raises(TargetRefused, match="it has no address"):
        allowed()


def test_networks_that_an_operator_allows_are_allowed_and_no_others() -> None:
    networks = networks_of("10.0.0.0/8, fd00::/8, 127.0.0.1")
    private = ("10.9.8.7", "fd12::1", "127.0.0.1")
    assert allowed(*private, networks=networks) == list(private)
    assert allowed("::ffff:10.9.8.7", networks=networks) == ["::ffff:a09:807"]
    for other in ("192.168.0.1", "127.0.0.2", "fc00::1"):
        with pytest.raises(TargetRefused):
            allowed(other, networks=networks)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.org", "10.0.0.0/8;fd00::/8"])
def test_a_text_that_names_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv|bits"):
        networks_of(text)


def test_no_text_names_no_network() -> None:
    assert networks_of("") == networks_of(" , ") == ()


# --- connecting ---


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


LOOPBACK = networks_of("127.0.0.0/8")


def in_ten_seconds() -> float:
    return time.monotonic() + 10


def test_a_connection_goes_to_the_address_that_was_checked(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    names = Names(["127.0.0.1"])
    with Guard(LOOPBACK, names).connect("example.org", port, in_ten_seconds()) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
    assert names.asked == 1


def test_a_name_that_changes_after_the_check_is_not_followed(listener: socket.socket) -> None:
    """DNS rebinding: the second answer is an address that would be refused, and nobody asks for it."""
    accepted = threading.Event()
    listener.settimeout(0.2)
    port = listener.getsockname()[1]

    def accept() -> None:
        try:
            listener.accept()
        except TimeoutError:
            return
        accepted.set()

    thread = threading.Thread(target=accept)
    thread.start()
    # 127.0.0.9 stands for a public address; nothing listens there.
    names = Names(["127.0.0.9"], ["127.0.0.1"])
    with pytest.raises(OSError):  # noqa: PT011
        Guard(networks_of("127.0.0.9"), names).connect("example.org", port, in_ten_seconds())
    thread.join()
    assert (names.asked, accepted.is_set()) == (1, False)


def test_the_next_address_is_tried_when_one_does_not_answer(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with Guard(LOOPBACK, Names(["127.0.0.9", "127.0.0.1"])).connect(
        "example.org", port, in_ten_seconds()
    ) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"


def test_a_refused_host_is_not_connected_to(listener: socket.socket) -> None:
    with pytest.raises(TargetRefused):
        Guard().connect("localhost", listener.getsockname()[1], in_ten_seconds())


def test_no_address_is_tried_after_the_deadline(listener: socket.socket) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(TimeoutError, match=r"no time was left to connect to example\.org"):
        Guard(LOOPBACK, names).connect("example.org", listener.getsockname()[1], time.monotonic() - 1)
