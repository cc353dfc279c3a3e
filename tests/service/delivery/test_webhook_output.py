"""A service delivers to a webhook: order, retry, faults, changes of the output while it delivers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost.v1 import connection_pb2, connection_service_pb2
from tests.harness import ACCOUNT, Serving, eventually, serving
from tests.service.delivery.endpoint import Answer, Endpoint, endpoint
from tests.service.delivery.test_delivery import FAULTED, OUTPUTS_PAGE, build, connect, get, set_tier

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
OUTPUT = f"{ACCOUNT}/outputs/hook"
LOCAL = {"output_networks": "127.0.0.0/8"}
PATIENT = {"retry_budget_s": 600.0, **LOCAL}


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


def create_hook(service: Serving, **fields: Any) -> None:
    hook = connection_pb2.WebhookOutput(**{"secret": SECRET, **fields})
    service.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(
            parent=ACCOUNT, output_id="hook", output=connection_pb2.Output(webhook=hook)
        )
    )


def update_hook(service: Serving, **fields: Any) -> None:
    output = connection_pb2.Output(name=OUTPUT, webhook=connection_pb2.WebhookOutput(**fields))
    service.connections.UpdateOutput(connection_service_pb2.UpdateOutputRequest(output=output))


def resume(service: Serving) -> None:
    service.connections.ResumeConnection(
        connection_service_pb2.ResumeConnectionRequest(name=f"{ACCOUNT}/connections/c")
    )


def sequences(receiver: Endpoint) -> list[int]:
    return [each["data"]["sequence"] for request in list(receiver.requests) for each in request.events]


def test_members_and_changes_arrive_signed_and_in_order(tmp_path: Path, receiver: Endpoint) -> None:
    with serving(tmp_path / "store", **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: len(sequences(receiver)) == 3)
        set_tier(service, ["u4"], "gold")
        eventually(lambda: len(sequences(receiver)) == 4)
        set_tier(service, ["u4"], "silver")
        eventually(lambda: get(service).delivered_sequence == 5)
    assert sequences(receiver) == [1, 2, 3, 4, 5]
    assert receiver.subjects[3:] == ["u4", "u4"]
    for request in receiver.requests:
        request.verify(SECRET)


def test_an_endpoint_that_recovers_gets_everything_once(tmp_path: Path, receiver: Endpoint) -> None:
    receiver.will_answer(Answer(503, {"Retry-After": "0"}), Answer(429, {"Retry-After": "1"}))
    with serving(tmp_path / "store", **PATIENT) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
    first, *repeats = receiver.requests
    for repeat in repeats[:2]:
        assert (repeat.body, repeat.headers["webhook-id"]) == (first.body, first.headers["webhook-id"])
    assert sequences(receiver) == [1, 2, 3] * 3


def test_an_endpoint_that_is_gone_faults_the_connection_at_once(tmp_path: Path, receiver: Endpoint) -> None:
    receiver.will_answer(Answer(410, body=b"moved away"))
    with serving(tmp_path / "store", **PATIENT) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).state == FAULTED)
        assert get(service).fault == (
            "127.0.0.1 answered 410 Gone: moved away; the endpoint wants no more: resume the connection once "
            "it does"
        )
        assert len(receiver.requests) == 1
        # It keeps its place.
        resume(service)
        eventually(lambda: get(service).delivered_sequence == 3)
        assert sequences(receiver) == [1, 2, 3] * 2


def test_an_output_that_is_changed_is_followed_at_once(tmp_path: Path, receiver: Endpoint) -> None:
    with serving(tmp_path / "store", **LOCAL) as service, endpoint() as other:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
        update_hook(service, url=other.url)
        set_tier(service, ["u4"], "gold")
        eventually(lambda: get(service).delivered_sequence == 4)
        update_hook(service, url=other.url, secret=OTHER_SECRET)
        set_tier(service, ["u4"], "silver")
        eventually(lambda: get(service).delivered_sequence == 5)
    assert (sequences(receiver), sequences(other)) == ([1, 2, 3], [4, 5])
    # The secret before the present one signs as well.
    other.requests[0].verify(SECRET)
    other.requests[1].verify(SECRET)
    other.requests[1].verify(OTHER_SECRET)


def test_private_networks_are_refused_unless_a_setting_allows_them(
    tmp_path: Path, receiver: Endpoint
) -> None:
    with serving(tmp_path / "store") as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).state == FAULTED)
        assert "127.0.0.1 is a loopback address" in get(service).fault
    assert receiver.connections == 0


def test_the_documented_verification_takes_what_is_sent(tmp_path: Path, receiver: Endpoint) -> None:
    section = OUTPUTS_PAGE.read_text(encoding="utf-8").partition("### `webhook`")[2]
    [code] = re.findall(r"```python\n(.*?)```", section.partition("### `")[0], re.DOTALL)
    documented: dict[str, Any] = {}
    exec(code, documented)
    with serving(tmp_path / "store", **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
    [request] = receiver.requests
    events = documented["received"](dict(request.headers), request.body, SECRET)
    assert [event["subject"] for event in events] == receiver.subjects
    with pytest.raises(documented["Webhook"].__init__.__globals__["WebhookVerificationError"]):
        documented["received"](dict(request.headers), request.body + b" ", SECRET)
