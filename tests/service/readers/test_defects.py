"""A defect of a reader costs no caller its answer, and no caller sees UNKNOWN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from milepost.v1 import audience_service_pb2 as pb
from tests.harness import CALL_TIMEOUT_S, Stubs, read_refusal
from tests.service.readers.one_reader import Parts, one_reader

PART = pb.ExportMembersResponse(revision="from the writer")
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

    def stream(self, method: str) -> Any:
        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if self._is_faulty:
                raise ZeroDivisionError(method)
            yield PART.SerializeToString()

        return forward


@contextmanager
def reader(*, is_writer_faulty: bool) -> Iterator[Stubs]:
    """A reader whose memory of keys and members has a defect."""
    with one_reader(Parts(Faulty(), Faulty(), Writer(is_faulty=is_writer_faulty))) as running:
        yield running.stubs


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


def test_an_export_is_handed_on_after_a_defect() -> None:
    with reader(is_writer_faulty=False) as stubs:
        request = pb.ExportMembersRequest(name="accounts/a/audiences/x")
        assert list(stubs.audiences.ExportMembers(request, timeout=CALL_TIMEOUT_S)) == [PART]


def test_a_defect_amid_an_export_is_internal_with_a_reason() -> None:
    request = pb.ExportMembersRequest(name="accounts/a/audiences/x")
    with reader(is_writer_faulty=True) as stubs, pytest.raises(grpc.RpcError) as failed:
        list(stubs.audiences.ExportMembers(request, timeout=CALL_TIMEOUT_S))
    assert read_refusal(failed.value).reason == "INTERNAL"
