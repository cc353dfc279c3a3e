"""Kinds of call do not take each other's threads, and callers that say nothing do not keep theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from milepost.v1.account_service_pb2 import ListAccountsRequest
from milepost.v1.admin_service_pb2 import GetStoreStatsRequest, VerifyStoreRequest
from milepost.v1.audience_service_pb2 import ExportMembersRequest
from milepost.v1.ingest_service_pb2 import (
    ImportEventsRequest,
    ImportUsersRequest,
    IngestEventsRequest,
    StreamEventsRequest,
)
from service.methods import REFLECTION_METHODS
from service.pools import PROBE_THREADS
from tests.arrow_requests import header
from tests.harness import ACCOUNT, EVENTUALLY_S, Refusal, Serving, eventually, read_refusal, serving

IDLE_S = 1.0
STREAMS = 3
IMPORTS = 2
LIMITS = {"streams_max": STREAMS, "imports_max": IMPORTS, "worker_threads": 1, "access_log": "none"}
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
IDLE = (grpc.StatusCode.ABORTED, "STREAM_IDLE")

EMPTY_BATCH = StreamEventsRequest(batch=IngestEventsRequest(parent=ACCOUNT))


class Silent:
    """Callers that send these requests and then nothing more, until let go."""

    def __init__(self) -> None:
        self._let_go = threading.Event()
        self.calls: list[Any] = []

    def open(self, method: Callable[..., Any], *requests: Any) -> Any:
        """One more call."""

        def sent() -> Iterator[Any]:
            yield from requests
            self._let_go.wait(EVENTUALLY_S)

        self.calls.append(method(sent(), timeout=EVENTUALLY_S))
        return self.calls[-1]

    def let_go(self) -> None:
        """Ends all streams of requests."""
        self._let_go.set()


@pytest.fixture
def silent() -> Iterator[Silent]:
    callers = Silent()
    yield callers
    callers.let_go()


def end_of(read: Callable[[], Any]) -> Refusal:
    """The final status of a call whose answers are read; a stream ends once they are."""
    with pytest.raises(grpc.RpcError) as end:
        read()
    return read_refusal(end.value)


def answers_of(stream: Iterator[Any]) -> Callable[[], list[Any]]:
    """Reads the answers of a stream."""
    return lambda: list(stream)


def fill(service: Serving, silent: Silent) -> None:
    """Opens all streams and imports that are allowed, without a word or with a few."""
    silent.open(service.ingest.StreamEvents)
    for _ in range(STREAMS - 1):
        silent.open(service.ingest.StreamEvents, EMPTY_BATCH)
    silent.open(service.ingest.ImportEvents.future)
    silent.open(service.ingest.ImportUsers.future, ImportUsersRequest())
    eventually(lambda: service.application.in_flight >= STREAMS + 1)


def test_silent_streams_hold_up_no_other_kind(tmp_path: Path, silent: Silent) -> None:
    with serving(tmp_path / "store", **LIMITS) as service:
        service.create_inputs()
        fill(service, silent)
        assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
        assert service.admin.GetStoreStats(GetStoreStatsRequest()).kinds
        assert list(service.admin.VerifyStore(VerifyStoreRequest()))
        export = service.audiences.ExportMembers(ExportMembersRequest(name=f"{ACCOUNT}/audiences/x"))
        missing = end_of(answers_of(export))
        assert missing.code is grpc.StatusCode.NOT_FOUND
        assert ProtoReflectionDescriptorDatabase(service.channel).get_services()
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status
        refused = end_of(answers_of(service.ingest.StreamEvents(iter([EMPTY_BATCH]))))
        assert (refused.code, refused.reason) == FULL
        silent.let_go()


def test_silent_streams_end(tmp_path: Path, silent: Silent) -> None:
    """Whatever a caller has sent before; then others have the threads."""
    with serving(tmp_path / "store", stream_idle_s=IDLE_S, **LIMITS) as service:
        service.create_inputs()
        calls = [
            answers_of(silent.open(service.ingest.StreamEvents)),
            answers_of(silent.open(service.ingest.StreamEvents, EMPTY_BATCH, EMPTY_BATCH)),
            silent.open(service.ingest.ImportEvents.future).result,
            silent.open(service.ingest.ImportEvents.future, ImportEventsRequest(header=header())).result,
        ]
        for call in calls:
            end = end_of(call)
            assert (end.code, end.reason) == IDLE
            assert end.metadata["limit_s"] == "1"
        eventually(lambda: service.application.in_flight == 0)
        assert list(service.ingest.StreamEvents(iter([EMPTY_BATCH])))


def test_streams_that_go_on_are_not_idle(tmp_path: Path) -> None:
    """The limit is for one wait, not for all of a stream."""
    with serving(tmp_path / "store", stream_idle_s=IDLE_S, **LIMITS) as service:
        service.create_inputs()
        pause = threading.Event()

        def paused() -> Iterator[StreamEventsRequest]:
            for sequence in range(6):
                pause.wait(IDLE_S / 4)
                yield StreamEventsRequest(sequence=sequence, batch=EMPTY_BATCH.batch)

        answers = [answer.sequence for answer in service.ingest.StreamEvents(paused())]
        assert answers == list(range(6))


def test_reflection_answers_beside_silent_reflection(tmp_path: Path, silent: Silent) -> None:
    with serving(tmp_path / "store", **LIMITS) as service:
        method: Any = service.channel.stream_stream(REFLECTION_METHODS[0])
        calls = [silent.open(method) for _ in range(2 * PROBE_THREADS)]
        assert ProtoReflectionDescriptorDatabase(service.channel).get_services()
        assert {end_of(answers_of(call)).reason for call in calls} == {"STREAM_IDLE"}
