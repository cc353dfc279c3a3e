"""The server around the handlers: health, reflection, call limits, bugs, and shutdown."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from engine import Engine
from engine.resources.accounts import Accounts
from milepost.v1 import (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)
from service.health import LISTS
from service.server import SERVICE_NAMES
from tests.harness import ACCOUNT, INPUT, Serving, eventually, read_refusal, refusal_of, serving
from tests.walks import each_of

CONTRACT = (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as running:
        yield running


def health_stub(service: Serving) -> Any:
    # Its stubs say nothing of the methods.
    return health_pb2_grpc.HealthStub(service.channel)


def test_health_of_each_service_and_of_all(service: Serving) -> None:
    stub = health_stub(service)
    for name in ("", *SERVICE_NAMES):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    with pytest.raises(grpc.RpcError) as failure:
        stub.Check(health_pb2.HealthCheckRequest(service="milepost.v1.NoService"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_lists_every_service(service: Serving) -> None:
    states = health_stub(service).List(LISTS.HealthListRequest()).statuses
    assert {name: state.status for name, state in states.items()} == dict.fromkeys(
        ("", *SERVICE_NAMES), SERVING
    )


def test_reflection_lists_the_contract(service: Serving) -> None:
    names = set(ProtoReflectionDescriptorDatabase(service.channel).get_services())
    assert names == {
        *SERVICE_NAMES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_a_method_in_both_versions(service: Serving, version: str) -> None:
    # Messages of the two versions are the same on the wire.
    ask: Any = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    symbol = "milepost.v1.AccountService"
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="milepost.v1.NoService"),
    ]
    listed, described, unknown = ask(iter(requests))
    assert symbol in {each.name for each in listed.list_services_response.service}
    files = described.file_descriptor_response.file_descriptor_proto
    found = {FileDescriptorProto.FromString(file).name for file in files}
    assert "milepost/v1/account_service.proto" in found
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_every_service_of_the_contract_is_served() -> None:
    protos = (Path(__file__).resolve().parents[2] / "protos/milepost/v1").glob("*_service.proto")
    in_contract = {
        line.split()[1]
        for path in protos
        for line in path.read_text().splitlines()
        if line.startswith("service ")
    }
    assert {name.removeprefix("milepost.v1.") for name in SERVICE_NAMES} == in_contract


def test_server_info(service: Serving) -> None:
    info = service.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
    assert (info.users, info.events) == (0, 0)
    assert info.revision.startswith(info.store_id + ".")
    assert info.version


def unary_methods() -> Iterator[str]:
    """Every method of the contract that takes one message."""
    for module in CONTRACT:
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            for method in descriptor.methods:
                if not method.client_streaming:
                    yield f"/{descriptor.full_name}/{method.name}"


@each_of("method", sorted(unary_methods()))
def test_every_method_is_implemented(service: Serving, method: str) -> None:
    call: Any = service.channel.unary_stream(method)
    try:
        codes = [grpc.StatusCode.OK for _ in call(b"", timeout=10)]
    except grpc.RpcError as error:
        codes = [read_refusal(error).code]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


def test_unknown_method_is_unimplemented(service: Serving) -> None:
    call: Any = service.channel.unary_unary("/milepost.v1.AccountService/Nope")
    with pytest.raises(grpc.RpcError) as failure:
        call(b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bug_is_internal_without_details(
    service: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the store")

    monkeypatch.setattr(Accounts, "get_account", broken)
    refusal = refusal_of(
        service.accounts.GetAccount, account_service_pb2.GetAccountRequest(name="accounts/a")
    )
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in refusal.message
    assert refusal.metadata["correlation_id"] in refusal.message


class Gate:
    """Holds every `get_account` until opened, and counts those that wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.waiting = 0
        original = Accounts.get_account

        def held(accounts: Accounts, name: str) -> Any:
            self.waiting += 1
            assert self.opened.wait(60)
            return original(accounts, name)

        monkeypatch.setattr(Accounts, "get_account", held)


def test_calls_over_the_limit_are_refused_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "store", worker_threads=1, in_flight_max=2, access_log="none") as service:
        service.create_inputs()
        gate = Gate(monkeypatch)
        request = account_service_pb2.GetAccountRequest(name="accounts/a")
        calls = [service.accounts.GetAccount.future(request) for _ in range(2)]
        eventually(lambda: service.application.in_flight == 2)
        refusal = refusal_of(service.accounts.GetAccount, request)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert refusal.metadata == {"limit": "2", "pool": "unary"}
        gate.opened.set()
        assert [call.result().account.name for call in calls] == ["accounts/a"] * 2
        eventually(lambda: service.application.in_flight == 0)
        assert service.accounts.GetAccount(request).account.name == "accounts/a"


def test_streams_over_the_limit_are_refused_and_calls_continue(tmp_path: Path) -> None:
    with serving(tmp_path / "store", streams_max=1, access_log="none") as service:
        service.create_inputs()
        closing = threading.Event()

        def endless() -> Iterator[ingest_service_pb2.StreamEventsRequest]:
            closing.wait(60)
            yield from ()

        first = service.ingest.StreamEvents(endless())
        eventually(lambda: service.application.in_flight == 1)
        refusal = refusal_of(lambda _, timeout: service.ingest.StreamEvents(iter(()), timeout=timeout), None)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest()).accounts
        closing.set()
        assert list(first) == []


def test_stop_reports_not_serving_and_drains_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    original = Engine.close

    def close(engine: Engine) -> None:
        closed.append("engine")
        original(engine)

    monkeypatch.setattr(Engine, "close", close)
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        gate = Gate(monkeypatch)
        health = health_stub(service).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == SERVING
        request = account_service_pb2.GetAccountRequest(name="accounts/a")
        call = service.accounts.GetAccount.future(request)
        eventually(lambda: gate.waiting == 1)
        stopping = threading.Thread(target=service.application.stop)
        stopping.start()
        assert next(health).status == NOT_SERVING
        assert closed == []
        gate.opened.set()
        assert call.result().account.name == "accounts/a"
        stopping.join(60)
        assert closed == ["engine"]


def test_a_stream_of_events_ends_when_the_service_stops(tmp_path: Path) -> None:
    """Acknowledged data stays, and the next batch gets UNAVAILABLE."""
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        batches: queue.SimpleQueue[ingest_service_pb2.StreamEventsRequest | None] = queue.SimpleQueue()
        stream = service.ingest.StreamEvents(iter(batches.get, None))
        health = health_stub(service).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == SERVING
        event = data_pb2.Event(user_id="ann", name="open", input=INPUT)
        event.time.GetCurrentTime()
        batch = ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, events=[event])
        batches.put(ingest_service_pb2.StreamEventsRequest(batch=batch))
        assert next(stream).result.accepted == 1
        stopping = threading.Thread(target=service.application.stop)
        stopping.start()
        assert next(health).status == NOT_SERVING
        # Streams end after the health checks.
        eventually(lambda: service.application._server._stopping.is_set())
        batches.put(ingest_service_pb2.StreamEventsRequest(batch=batch))
        with pytest.raises(grpc.RpcError) as end:
            next(stream)
        assert read_refusal(end.value).reason == "STORE_UNAVAILABLE"
        stopping.join(60)
        batches.put(None)
    with serving(tmp_path / "store", access_log="none") as service:
        assert service.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest()).events == 1
