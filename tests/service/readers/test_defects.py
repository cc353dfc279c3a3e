"""A defect of a reader costs no caller its answer, and no caller sees UNKNOWN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from engine.limits import DEFAULT_LIMITS
from engine.resources.signing import Signer
from milepost.v1 import audience_service_pb2 as pb
from service.access_log import CallLog
from service.config import Config
from service.convert.revisions import Revisions
from service.health import Health
from service.readers.answers import Answers
from service.readers.routes import ReaderPools, Routes
from service.reading import RequestReader
from service.stopping import Stopping
from service.telemetry.line_limit import LineLimit
from tests.harness import CALL_TIMEOUT_S, Stubs, read_refusal

ANSWER = pb.CheckMembershipResponse(member=True, revision="from the writer")


class Faulty:
    """Stands for a part of the reader that has a defect: whatever is asked of it raises."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> Any:
            raise ZeroDivisionError(name)

        return fail


class Writer:
    """Stands for the way to the writer."""

    def __init__(self, *, is_faulty: bool) -> None:
        self._is_faulty = is_faulty

    def unary(self, method: str) -> Any:
        def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self._is_faulty:
                raise ZeroDivisionError(method)
            return ANSWER.SerializeToString()

        return forward

    stream = unary


@contextmanager
def reader(*, is_writer_faulty: bool) -> Iterator[Stubs]:
    """A server with the routes of a reader whose memory of keys and members has a defect."""
    faulty: Any = Faulty()
    requests = RequestReader(1_000, DEFAULT_LIMITS)
    log = CallLog("none", 1_000, LineLimit(0))
    revisions = Revisions("store", Signer(b"secret"), lambda: 0)
    answers = Answers(faulty, revisions, faulty, requests, DEFAULT_LIMITS, log)
    pools = ReaderPools(Config())
    writer: Any = Writer(is_faulty=is_writer_faulty)
    routes = Routes(pools, faulty, writer, answers, Health(), Stopping(), requests)
    server = grpc.server(pools.unary, handlers=[routes])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stubs = Stubs(f"127.0.0.1:{port}")
    try:
        yield stubs
    finally:
        stubs.close()
        server.stop(None).wait()
        pools.shutdown()


REQUEST = pb.CheckMembershipRequest(audience="accounts/a/audiences/x", user_id="u")


def test_a_check_is_handed_on_after_a_defect() -> None:
    with reader(is_writer_faulty=False) as stubs:
        assert stubs.audiences.CheckMembership(REQUEST, timeout=CALL_TIMEOUT_S) == ANSWER


def test_a_defect_on_the_way_to_the_writer_is_internal_with_a_reason() -> None:
    with reader(is_writer_faulty=True) as stubs, pytest.raises(grpc.RpcError) as failed:
        stubs.audiences.CheckMembership(REQUEST, timeout=CALL_TIMEOUT_S)
    refusal = read_refusal(failed.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "correlation_id" in refusal.metadata
