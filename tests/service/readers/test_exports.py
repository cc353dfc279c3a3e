"""How an export that a reader answers ends: with its key, its caller or its reader."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from engine.audiences.members import EXPORT_PAGE_USERS
from engine.backends.base import ServedPage
from engine.errors import StoreUnavailable
from milepost.v1 import audience_service_pb2 as pb
from service.auth.caller import ANYONE, set_call
from service.auth.errors import Unauthenticated
from service.auth.meter import Meter, Meters
from service.readers.members import EXPORT_METHOD
from tests.harness import Refusal, eventually, read_refusal
from tests.service.readers.one_reader import Parts, Running, one_reader

NAME = "accounts/a/audiences/x"
REQUEST = pb.ExportMembersRequest(name=NAME)
PART_IDS = [f"user-{'x' * 190}-{number}" for number in range(EXPORT_PAGE_USERS)]


class Endless:
    """Members of which there are always more; also what serves them."""

    def __init__(self) -> None:
        self.is_gone = False
        self.unsettled = 0
        """How many times nobody can tell the members."""
        self.serves_them = True

    def members(self, name: str) -> Endless | None:
        assert name == NAME
        self.unsettled -= 1
        return self if self.unsettled < 0 else None

    def serves(self, name: str) -> bool:
        return self.serves_them

    def page(self, after: str, limit: int) -> ServedPage:
        assert limit == EXPORT_PAGE_USERS
        if self.is_gone:
            raise StoreUnavailable("gone")
        return ServedPage(PART_IDS, "more", 1, 0)


class Keys:
    """Admits every call, until its key ends."""

    def __init__(self) -> None:
        self.meter = Meter("key", 1_000, 10)
        self.ended = threading.Event()

    def recognise(self, method: str, metadata: object) -> None:
        set_call(method, ANYONE)

    def admit(self, name: str) -> Meters:
        meters = Meters(self.meter)
        meters.begin()
        return meters

    def check(self, method: str, caller: object) -> None:
        assert (method, caller) == (EXPORT_METHOD, ANYONE)
        if self.ended.is_set():
            raise Unauthenticated("the API key is not valid")

    @property
    def running(self) -> int:
        """Calls that count as running."""
        return self.meter._in_flight


class Writer:
    """Answers an export with one empty part, and knows how many there were."""

    def __init__(self) -> None:
        self.exports = 0

    def unary(self, method: str) -> Any:
        return lambda request, context: b""

    def stream(self, method: str) -> Any:
        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            assert list(requests) == [REQUEST.SerializeToString()]
            self.exports += 1
            yield b""

        return forward


class World:
    """A reader and its parts."""

    def __init__(self, running: Running, served: Endless, keys: Keys, writer: Writer) -> None:
        self.running, self.served, self.keys, self.writer = running, served, keys, writer

    def export(self) -> Any:
        """A new call."""
        return self.running.stubs.audiences.ExportMembers(REQUEST)

    def begun(self) -> Any:
        """A call whose first part has come."""
        parts = self.export()
        assert len(next(parts).user_ids) == EXPORT_PAGE_USERS
        assert self.keys.running == 1
        return parts

    def end_of(self, parts: Any) -> Refusal:
        """How a call ends, and that nothing of it is left."""
        with pytest.raises(grpc.RpcError) as ended:
            collections.deque(parts, maxlen=0)
        eventually(lambda: self.keys.running == 0)
        return read_refusal(ended.value)


@contextmanager
def world(deaf_after_s: float = 60.0) -> Iterator[World]:
    served, keys, writer = Endless(), Keys(), Writer()
    with one_reader(Parts(served, keys, writer, deaf_after_s)) as running:
        yield World(running, served, keys, writer)


def test_it_ends_with_its_key() -> None:
    with capture_logs() as logs, world() as here:
        parts = here.begun()
        here.keys.ended.set()
        assert here.end_of(parts).code is grpc.StatusCode.UNAUTHENTICATED
    assert [(line["method"], line["code"]) for line in logs if line["event"] == "call"] == [
        (EXPORT_METHOD, "UNAUTHENTICATED")
    ]


def test_it_ends_with_its_caller() -> None:
    with world() as here:
        here.begun().cancel()
        eventually(lambda: here.keys.running == 0)
        assert here.export().next() is not None
        assert here.writer.exports == 0


def test_it_ends_with_its_deadline() -> None:
    with world() as here:
        parts = here.running.stubs.audiences.ExportMembers(REQUEST, timeout=1.0)
        assert here.end_of(parts).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_it_ends_with_the_grace_period_of_a_stop() -> None:
    with world() as here:
        parts = here.begun()
        here.running.stopping.set()
        for _ in range(3):
            assert next(parts).user_ids
        here.running.stopping.end_grace()
        ended = here.end_of(parts)
        assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


def test_it_ends_when_its_members_are_not_at_hand_any_more() -> None:
    with world() as here:
        parts = here.begun()
        here.served.is_gone = True
        assert here.end_of(parts).code is grpc.StatusCode.UNAVAILABLE


def test_it_ends_when_its_caller_does_not_read() -> None:
    with world(deaf_after_s=0.5) as here:
        parts = here.begun()
        # Nothing is left of it although the caller has not heard so.
        eventually(lambda: here.keys.running == 0)
        assert here.end_of(parts).code is grpc.StatusCode.UNAVAILABLE


def test_one_too_many_is_handed_on() -> None:
    with world() as here:
        parts = here.begun()
        assert len(list(here.export())) == 1
        assert (here.writer.exports, here.keys.running) == (1, 1)
        parts.cancel()
        eventually(lambda: here.keys.running == 0)
        here.begun().cancel()
        assert here.writer.exports == 1


def test_it_waits_a_moment_for_members_without_dirty_users() -> None:
    with world() as here:
        here.served.unsettled = 5
        here.begun().cancel()
        eventually(lambda: here.keys.running == 0)
        here.served.unsettled = 1_000_000
        assert len(list(here.export())) == 1
        here.served.serves_them = False
        here.served.unsettled = 1
        assert len(list(here.export())) == 1
        assert (here.writer.exports, here.keys.running) == (2, 0)


def test_it_is_counted_once_it_has_ended() -> None:
    with world() as here:
        here.begun().cancel()
        eventually(lambda: here.keys.running == 0)
        assert here.running.answers.answered[EXPORT_METHOD].read().total == 0
