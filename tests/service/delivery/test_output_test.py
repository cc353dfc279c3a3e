"""TestOutput sends a marked event, as a connection would, and reports what came back."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from milepost.outputs import output_of
from milepost.v1 import connection_pb2, connection_service_pb2
from service.config import load
from service.delivery import testing
from service.delivery.sinks.webhook import WebhookSink
from tests.faults.delivery_ledger import DeliveryLedger
from tests.faults.delivery_receivers import RECEIVERS
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, Serving, eventually, read_refusal, refusal_of, serving
from tests.service.auth.test_shares import retry_delay_s
from tests.service.delivery.endpoint import STALL, Answer, Endpoint, endpoint
from tests.service.delivery.test_delivery import build, connect, get
from tests.service.delivery.test_webhook_output import LOCAL, OUTPUT, SECRET, create_hook


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", **LOCAL) as found:
        found.create_inputs()
        yield found


def ask(service: Serving, name: str = OUTPUT) -> connection_service_pb2.TestOutputResponse:
    request = connection_service_pb2.TestOutputRequest(name=name)
    answer: connection_service_pb2.TestOutputResponse = service.connections.TestOutput(
        request, timeout=CALL_TIMEOUT_S
    )
    return answer


def test_a_webhook_gets_a_marked_event(service: Serving, receiver: Endpoint) -> None:
    create_hook(service, url=receiver.url)
    receiver.will_answer(Answer(200, body=b"hello"))
    answer = ask(service)
    assert (answer.delivered, answer.error, answer.http_status, answer.excerpt) == (True, "", 200, "hello")
    assert answer.latency.ToMicroseconds() > 0
    [request] = receiver.requests
    request.verify(SECRET)
    [event] = request.events
    assert event == {
        "specversion": "1.0",
        "id": answer.event_id,
        "source": f"/{OUTPUT}",
        "type": "milepost.output.test",
        "time": event["time"],
        "datacontenttype": "application/json",
        "data": {"output": OUTPUT, "display_name": ""},
    }


@pytest.mark.parametrize("mode", ["CONTENT_MODE_STRUCTURED", "CONTENT_MODE_BINARY"])
def test_the_event_has_the_form_of_the_output(service: Serving, receiver: Endpoint, mode: str) -> None:
    create_hook(service, url=receiver.url, mode=mode)
    answer = ask(service)
    [request] = receiver.requests
    found = request.headers.get("ce-id") or json.loads(request.body)["id"]
    assert (answer.delivered, found) == (True, answer.event_id)


@pytest.mark.parametrize("host", ["xn--", "xn--a", "XN--ZZZZZZ---"])
def test_a_host_that_is_no_name_is_a_failure(service: Serving, host: str) -> None:
    create_hook(service, url=f"http://{host}/")
    answer = ask(service)
    assert not answer.delivered
    assert answer.error.startswith("the URL of the webhook cannot be used: ")


def test_a_defect_of_a_sink_is_a_failure(
    tmp_path: Path, receiver: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(*_: object) -> None:
        raise RuntimeError("a secret of u1")

    expected = "the service failed to use this output (RuntimeError); its log says where"
    with serving(tmp_path / "store", **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        with monkeypatch.context() as patched:
            patched.setattr(WebhookSink, "deliver", deliver)
            answer = ask(service)
            assert (answer.delivered, answer.error) == (False, expected)
            connect(service, audience, output_id="hook")
            assert eventually(lambda: get(service).delivery.last_error) == expected
        eventually(lambda: len(receiver.requests) > 0)


def test_a_failure_is_reported_with_its_answer(service: Serving, receiver: Endpoint) -> None:
    create_hook(service, url=receiver.url)
    receiver.will_answer(Answer(401, body=b"who are you?"))
    answer = ask(service)
    assert (answer.delivered, answer.http_status, answer.excerpt) == (False, 401, "who are you?")
    assert answer.error == "127.0.0.1 answered 401 Unauthorized: who are you?"


def test_the_guard_holds_for_tests(tmp_path: Path, receiver: Endpoint) -> None:
    with serving(tmp_path / "store") as service:
        service.create_inputs()
        create_hook(service, url=receiver.url)
        answer = ask(service)
    assert (answer.delivered, answer.http_status, receiver.connections) == (False, 0, 0)
    assert answer.error == "outputs may not connect to 127.0.0.1: 127.0.0.1 is a loopback address"


def test_a_file_gets_a_line_of_its_own_file(service: Serving) -> None:
    output = connection_pb2.Output(file=connection_pb2.FileOutput(path="exports"))
    service.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(parent=ACCOUNT, output_id="o", output=output)
    )
    answers = [ask(service, f"{ACCOUNT}/outputs/o") for _ in range(2)]
    assert [answer.delivered for answer in answers] == [True, True]
    events = service.sent("exports", "_test")
    assert [event["id"] for event in events] == [answer.event_id for answer in answers]


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_receiver_of_every_kind_takes_it(tmp_path: Path, kind: str) -> None:
    ledger = DeliveryLedger(1)
    with RECEIVERS[kind](tmp_path, ledger, random.Random(0)) as receiver:
        config = load(receiver.flags, {})
        names = [flag[2:].replace("-", "_") for flag in receiver.flags[::2]]
        settings = {name: getattr(config, name) for name in names}
        with serving(tmp_path / "store", **settings) as service:
            service.create_inputs()
            service.connections.CreateOutput(
                connection_service_pb2.CreateOutputRequest(
                    parent=ACCOUNT, output_id="o", output=output_of(receiver.output)
                )
            )
            answer = ask(service, f"{ACCOUNT}/outputs/o")
    assert (answer.delivered, answer.error) == (True, "")
    assert ledger.faults == []


def test_an_output_that_sends_nothing_is_refused(service: Serving) -> None:
    output = connection_pb2.Output(watch=connection_pb2.WatchOutput())
    service.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(parent=ACCOUNT, output_id="w", output=output)
    )
    request = connection_service_pb2.TestOutputRequest(name=f"{ACCOUNT}/outputs/w")
    refusal = refusal_of(service.connections.TestOutput, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OUTPUT_SENDS_NOTHING")
    request.name = f"{ACCOUNT}/outputs/none"
    assert refusal_of(service.connections.TestOutput, request).code is grpc.StatusCode.NOT_FOUND


def test_one_test_of_an_account_runs_at_a_time(
    tmp_path: Path, receiver: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled receiver holds one thread, not all of them."""
    monkeypatch.setattr(testing, "OUTPUT_TEST_S_MAX", CALL_TIMEOUT_S)
    with serving(tmp_path / "store", delivery_attempt_s_max=CALL_TIMEOUT_S, **LOCAL) as service:
        service.create_inputs()
        create_hook(service, url=receiver.url)
        assert_one_at_a_time(service, receiver)


def assert_one_at_a_time(service: Serving, receiver: Endpoint) -> None:
    receiver.will_answer(Answer(way=STALL))
    answers: list[connection_service_pb2.TestOutputResponse] = []
    first = threading.Thread(target=lambda: answers.append(ask(service)))
    first.start()
    eventually(lambda: len(receiver.requests) == 1)
    request = connection_service_pb2.TestOutputRequest(name=OUTPUT)
    with pytest.raises(grpc.RpcError) as refused:
        service.connections.TestOutput(request)
    refusal = read_refusal(refused.value)
    assert (refusal.code, refusal.reason, refusal.metadata) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        {"limit": "1"},
    )
    assert retry_delay_s(refused.value) > 0
    receiver.release()
    first.join()
    assert [answer.delivered for answer in answers] == [True]
    assert ask(service).delivered


def test_secrets_without_their_key_are_said_so(tmp_path: Path, receiver: Endpoint) -> None:
    with serving(tmp_path / "store", **LOCAL) as service:
        service.create_inputs()
        create_hook(service, url=receiver.url)
    (tmp_path / "store" / "secrets.key").unlink()
    with serving(tmp_path / "store", **LOCAL) as service:
        request = connection_service_pb2.TestOutputRequest(name=OUTPUT)
        refusal = refusal_of(service.connections.TestOutput, request)
    assert (refusal.code, refusal.reason, refusal.metadata) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "SECRET_KEY_UNUSABLE",
        {"output": OUTPUT},
    )
    assert receiver.requests == []
