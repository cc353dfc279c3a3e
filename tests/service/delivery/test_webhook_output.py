"""A service delivers to a webhook: order, retry, faults, changes of the output while it delivers."""

from __future__ import annotations

import base64
import io
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from milepost.v1 import admin_service_pb2, connection_pb2, connection_service_pb2
from service import logs, offline
from tests.harness import ACCOUNT, Serving, eventually, serving
from tests.service.delivery.endpoint import Answer, Endpoint, endpoint
from tests.service.delivery.test_delivery import FAULTED, OUTPUTS_PAGE, build, connect, get, set_tier
from tests.service_log import keep_apart

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
OUTPUT = f"{ACCOUNT}/outputs/hook"
LOCAL = {"output_networks": "127.0.0.0/8"}
PATIENT = {"retry_budget_s": 600.0, **LOCAL}


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where configured logs go; the process's own settings are put back at the end."""
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    yield io.StringIO()
    root.handlers, root.level, threading.excepthook = handlers, level, hook
    keep_apart()


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
    return [each["data"]["sequence"] for each in receiver.changes]


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


def test_one_event_a_request_goes_on_while_the_receiver_takes_some(
    tmp_path: Path, receiver: Endpoint
) -> None:
    """Each attempt fails, later than the budget allows, but takes an event. The first one is a mark."""
    receiver.will_answer(Answer(), Answer(), Answer(500), Answer(), Answer(500), Answer())
    with serving(tmp_path / "store", retry_budget_s=0.01, **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url, mode="CONTENT_MODE_STRUCTURED")
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
    assert sequences(receiver) == [1, 2, 2, 3, 3]


def test_no_line_of_the_log_has_a_secret(tmp_path: Path, receiver: Endpoint, stream: io.StringIO) -> None:
    logs.configure("json", "debug", stream)
    receiver.will_answer(Answer(500, body=SECRET.encode()))
    with serving(tmp_path / "store", access_log="all", **PATIENT) as service:
        audience = build(service)
        create_hook(service, url=receiver.url.replace("//", "//user:pass-word@") + "?hook-token=1")
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
    found = stream.getvalue()
    assert "output failed" in found
    for secret in ("pass-word", SECRET, "hook-token"):
        assert secret not in found


def test_a_backup_is_restored_without_its_key(tmp_path: Path, receiver: Endpoint) -> None:
    with serving(tmp_path / "store", backup_dir=tmp_path / "backups", **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
        request = admin_service_pb2.CreateBackupRequest(backup_id="first")
        backup = Path(service.admin.CreateBackup(request).directory)
    offline.restore(backup, tmp_path / "restored")
    assert offline.outputs_without_key(tmp_path / "restored") == (OUTPUT,)
    assert offline.outputs_without_key(tmp_path / "store") == ()
    with capture_logs() as lines, serving(tmp_path / "restored", **LOCAL) as service:
        [warning] = [line for line in lines if "cannot be decrypted" in line["event"]]
        assert (warning["log_level"], warning["output"]) == ("warning", OUTPUT)
        set_tier(service, ["u4"], "gold")
        eventually(lambda: get(service).state == FAULTED)
        assert f"does not fit the secrets of {OUTPUT}: give them again" in get(service).fault
        update_hook(service, url=receiver.url, secret=OTHER_SECRET)
        resume(service)
        eventually(lambda: get(service).delivered_sequence == 4)
    receiver.requests[-1].verify(OTHER_SECRET)
    assert receiver.subjects[-1] == "u4"


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
    assert events == request.events
    assert [event["type"] for event in events] == [
        "milepost.snapshot.begin",
        *["milepost.membership.entered"] * 3,
        "milepost.snapshot.end",
    ]
    with pytest.raises(documented["Webhook"].__init__.__globals__["WebhookVerificationError"]):
        documented["received"](dict(request.headers), request.body + b" ", SECRET)
