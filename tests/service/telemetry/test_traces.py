"""Spans of calls: name, code and parent, in the threads of their pools, without data of users."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from engine.resources.accounts import Accounts
from milepost.v1 import account_service_pb2, audience_service_pb2
from service import application
from service.telemetry import traces
from service.telemetry.traces import Tracing, missing_for
from tests.harness import Serving, eventually, refusal_of, serving

GET = "/milepost.v1.AccountService/GetAccount"
CODE = "rpc.grpc.status_code"
SECRET = "ann-4711"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def service(
    tmp_path: Path, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serving]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(application, "Tracing", lambda: Tracing(provider))
    with serving(tmp_path / "store", traces="otlp", access_log="none") as running:
        running.create_inputs()
        yield running


def spans(exporter: InMemorySpanExporter, name: str, count: int) -> list[ReadableSpan]:
    """All spans of a name, once there are as many: a span ends after its answer."""

    def found() -> list[ReadableSpan]:
        return [span for span in exporter.get_finished_spans() if span.name == name]

    eventually(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def test_a_call_is_a_span_below_its_caller_s(service: Serving, exporter: InMemorySpanExporter) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    sent = (("traceparent", f"00-{trace}-{parent}-01"),)
    service.accounts.GetAccount(account_service_pb2.GetAccountRequest(name="accounts/a"), metadata=sent)
    [span] = spans(exporter, GET, 1)
    assert span.kind is SpanKind.SERVER
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace, parent)
    assert span.attributes is not None
    assert span.attributes[CODE] == 0


def test_a_failed_call_has_its_code_and_nothing_of_users(
    service: Serving, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal_of(service.accounts.GetAccount, account_service_pb2.GetAccountRequest(name="accounts/none"))
    [span] = spans(exporter, GET, 1)
    assert span.attributes is not None
    assert span.attributes[CODE] == grpc.StatusCode.NOT_FOUND.value[0]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "NOT_FOUND")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service.application.engine.members, "check", broken)
    request = audience_service_pb2.CheckMembershipRequest(audience="accounts/a", user_id=SECRET)
    assert refusal_of(service.audiences.CheckMembership, request).code is grpc.StatusCode.INTERNAL
    spans(exporter, "/milepost.v1.AudienceService/CheckMembership", 1)
    assert SECRET not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_calls_run_in_their_pools(
    service: Serving, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    original = Accounts.get_account

    def named(accounts: Accounts, name: str) -> Any:
        threads.append(threading.current_thread().name)
        return original(accounts, name)

    monkeypatch.setattr(Accounts, "get_account", named)
    service.accounts.GetAccount(account_service_pb2.GetAccountRequest(name="accounts/a"))
    [span] = spans(exporter, GET, 1)
    assert span.name == GET
    assert threads[0].startswith("unary")
    closing = threading.Event()

    def endless() -> Iterator[Any]:
        closing.wait(60)
        yield from ()

    call = service.ingest.StreamEvents(endless())
    eventually(lambda: any(each.name.startswith("stream") for each in threading.enumerate()))
    closing.set()
    assert list(call) == []
    spans(exporter, "/milepost.v1.IngestService/StreamEvents", 1)


def test_health_checks_make_no_spans(service: Serving, exporter: InMemorySpanExporter) -> None:
    call: Any = service.channel.unary_unary("/grpc.health.v1.Health/Check")
    call(b"")
    service.accounts.GetAccount(account_service_pb2.GetAccountRequest(name="accounts/a"))
    spans(exporter, GET, 1)
    assert not [span for span in exporter.get_finished_spans() if "Health" in span.name]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What an OpenTelemetry collector does: takes spans."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        for resource in request.resource_spans:
            found = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(found["service.name"])
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_go_to_the_collector_that_the_variables_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    try:
        with serving(tmp_path / "store", traces="otlp", access_log="none") as service:
            service.create_inputs()
        # Stopping has sent what was waiting.
        assert "/milepost.v1.AccountService/CreateAccount" in collector.names
        assert collector.services == {"milepost"}
    finally:
        server.stop(None).wait()


def test_without_the_packages_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_for("off") == missing_for("otlp") == ""
    monkeypatch.setattr(traces, "NEEDED", ("opentelemetry.none",))
    assert missing_for("off") == ""
    assert missing_for("otlp") == "opentelemetry.none is not installed: pip install 'milepost-server[otel]'"


def test_without_traces_the_packages_are_not_loaded() -> None:
    code = "import sys, service.command; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
