"""Whatever a caller sends, each refusal has a canonical code and a reason.

Every method of every service that is served is called with what no client sends. Nothing is UNKNOWN or
INTERNAL, and every refusal carries an `ErrorInfo`. The transport refuses one thing before the service sees
it: messages beyond `RECEIVE_BYTES_MAX` are RESOURCE_EXHAUSTED without a reason.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from engine.errors import MilepostError
from milepost.v1 import ingest_service_pb2
from service.limits import RECEIVE_BYTES_MAX
from service.methods import REFLECTION_METHODS, Kind, kind_of, named_methods
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Refusal, Serving, eventually, read_refusal, serving
from tests.service.test_server import CONTRACT
from tests.walks import each_of

BYTES_MAX = 100_000
"""The limit of requests here; smaller than the default, to keep the test quick."""
UNREADABLE = b"\xff\xff\xff\xff"
"""A tag without an end."""


def contract_methods() -> Iterator[tuple[str, bool, bool]]:
    """Every method of the contract and of health: its name, and whether requests and answers are streams."""
    for module in (*CONTRACT, health_pb2):
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            for method in descriptor.methods:
                name = f"/{descriptor.full_name}/{method.name}"
                yield name, method.client_streaming, method.server_streaming


METHODS = (*contract_methods(), *((method, True, True) for method in REFLECTION_METHODS))

ONE_OF_EACH_KIND = {kind_of(method): method for method, _, _ in METHODS}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("refusals")
    with serving(directory / "store", access_log="none", batch_bytes_max=BYTES_MAX) as running:
        yield running


def refusals(service: Serving, method: str, *requests: bytes) -> list[Refusal]:
    """How a call with these requests was refused; empty when it was not. Answers are not looked at."""
    call: Any = service.channel.stream_stream(method)
    try:
        for _ in call(iter(requests), timeout=CALL_TIMEOUT_S):
            return []
    except grpc.RpcError as error:
        return [read_refusal(error)]
    return []


def test_methods_that_need_something_special_exist() -> None:
    assert named_methods() <= {method for method, _, _ in METHODS}


def test_every_stream_has_threads_of_its_kind() -> None:
    """A stream among the calls with one answer would hold their threads."""
    streams = {method for method, takes_many, gives_many in METHODS if takes_many or gives_many}
    assert not {method for method in streams if kind_of(method) is Kind.UNARY}


@pytest.mark.parametrize(
    ("request_bytes", "fault"),
    [(UNREADABLE, "could not be parsed"), (b"\0" * (BYTES_MAX + 1), "100,000 are allowed")],
    ids=["unreadable", "too large"],
)
@each_of("method", [method for method, _, _ in METHODS])
def test_a_message_that_is_none_is_invalid(
    service: Serving, method: str, request_bytes: bytes, fault: str
) -> None:
    [refusal] = refusals(service, method, request_bytes)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason in {"INVALID_ARGUMENT", "BATCH_TOO_LARGE"}
    assert fault in refusal.message


@pytest.mark.parametrize("timeout_s", [0.0, 0.001, 0.01])
@each_of("method", [method for method, _, _ in METHODS])
def test_a_deadline_that_passes_is_no_defect(service: Serving, method: str, timeout_s: float) -> None:
    call: Any = service.channel.stream_stream(method)
    try:
        for _ in call(iter([b""]), timeout=timeout_s):
            return
    except grpc.RpcError as error:
        refusal = read_refusal(error)
        # At its deadline a call ends at the caller, whatever the service answers.
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED or refusal.reason


@pytest.mark.parametrize("method", ONE_OF_EACH_KIND.values(), ids=str)
def test_the_transport_refuses_what_is_larger_than_it_takes(service: Serving, method: str) -> None:
    [refusal] = refusals(service, method, b"\0" * (RECEIVE_BYTES_MAX + 1))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "method",
    [
        "/milepost.v1.AudienceService/Nope",
        "/milepost.v2.AudienceService/CheckMembership",
        "/grpc.health.v1.Health/Nope",
        "/",
        "/" + "x" * 5_000,
        "/ä/☃",
    ],
)
@pytest.mark.parametrize("request_bytes", [(), (b"",), (UNREADABLE, b"")], ids=["none", "one", "two"])
def test_an_unknown_method_is_unimplemented(
    service: Serving, method: str, request_bytes: tuple[bytes, ...]
) -> None:
    [refusal] = refusals(service, method, *request_bytes)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")


def test_health_of_a_service_that_does_not_exist_is_not_found(service: Serving) -> None:
    request = health_pb2.HealthCheckRequest(service="milepost.v1.NoService").SerializeToString()
    [refusal] = refusals(service, "/grpc.health.v1.Health/Check", request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


def test_health_can_be_watched_of_a_service_that_does_not_exist(service: Serving) -> None:
    watch: Any = service.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    for name in ("no-service", "another"):
        call = watch(health_pb2.HealthCheckRequest(service=name))
        assert next(call).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        call.cancel()


def test_reflection_goes_on_after_a_question_it_cannot_answer(service: Serving) -> None:
    ask: Any = service.channel.stream_stream(
        REFLECTION_METHODS[0],
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    question = reflection_pb2.ServerReflectionRequest
    answers = list(ask(iter([question(file_by_filename="nope"), question(list_services="")])))
    assert answers[0].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert answers[1].list_services_response.service


def refused_calls() -> Iterator[tuple[str, list[bytes]]]:
    """Calls that are refused, at least one of each method: their messages."""
    for method, _, _ in METHODS:
        yield method, [UNREADABLE]
    events = ingest_service_pb2.ImportEventsRequest(
        header=ingest_service_pb2.ImportHeader(parent=ACCOUNT, input=INPUT, user_id_column="user")
    )
    users = ingest_service_pb2.ImportUsersRequest(
        header=ingest_service_pb2.ImportUsersHeader(parent=ACCOUNT, input=INPUT, user_id_column="user")
    )
    for method, header, chunk in (
        ("ImportEvents", events, ingest_service_pb2.ImportEventsRequest(arrow=UNREADABLE)),
        ("ImportUsers", users, ingest_service_pb2.ImportUsersRequest(arrow=UNREADABLE)),
    ):
        for later in (header, chunk):
            messages = [header.SerializeToString(), later.SerializeToString()]
            yield f"/milepost.v1.IngestService/{method}", messages


def errors_in_memory() -> Counter[str]:
    """Errors of calls in this process that something still refers to."""
    gc.collect()
    return Counter(str(found) for found in gc.get_objects() if isinstance(found, MilepostError))


def test_nothing_stays_of_a_refused_call(service: Serving) -> None:
    """An error that stays keeps all that its call had, requests of megabytes included."""
    with suppress(grpc.RpcError):
        service.create_inputs()
    before = errors_in_memory()
    calls = list(refused_calls())
    for method, messages in calls:
        assert refusals(service, method, *messages), method
    eventually(lambda: not errors_in_memory() - before)
    assert len(calls) == len(METHODS) + 4
