"""A receiver refuses single events: they are kept in a file, once, and all others go on."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.resources.targets import ContentMode
from service.delivery.refused import RefusedEvents
from service.delivery.sinks.sink import SinkError
from service.delivery.sinks.webhook import EXCERPT_CHARACTERS_MAX, REFUSALS_BYTES_MAX, REFUSALS_TYPE
from tests.harness import CALL_TIMEOUT_S, Serving, eventually, serving
from tests.service.delivery.endpoint import Answer, Endpoint, Received, endpoint
from tests.service.delivery.sinks.test_webhook import CONNECTION, FAR_S, deliver, event, failure, sink
from tests.service.delivery.test_delivery import FAULTED, build, connect, get, set_tier
from tests.service.delivery.test_output_test import ask
from tests.service.delivery.test_webhook_output import LOCAL, create_hook, resume

LARGE = 1 << 30


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


def refusing(*ids: str, reason: str = "no such customer", status: int = 200) -> Answer:
    body = json.dumps({"refused": [{"id": each, "reason": reason} for each in ids]}).encode()
    return Answer(status, {"Content-Type": f"{REFUSALS_TYPE}; charset=utf-8"}, body)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def file_of(service: Serving) -> Path:
    assert service.config.outputs is not None
    return service.config.outputs / "_refused" / "a" / "c.ndjson"


# --- the webhook --------------------------------------------------------------------------------------------


def test_an_answer_names_what_is_refused(receiver: Endpoint) -> None:
    receiver.will_answer(refusing("1.bob", reason="no\nsuch customer"))
    to = sink(receiver.url)
    receipt = to.deliver([event("ann"), event("bob")], time.monotonic() + FAR_S)
    assert receipt is not None
    assert receipt.refused == {"1.bob": "no such customer"}
    # The next batch begins anew.
    again = to.deliver([event("eve")], time.monotonic() + FAR_S)
    to.close()
    assert again is not None
    assert again.refused == {}


def test_refusals_of_one_batch_come_together(receiver: Endpoint) -> None:
    to = sink(receiver.url, mode=ContentMode.STRUCTURED)
    receiver.will_answer(refusing("1.ann"), Answer(500))
    failure(to, event("ann"), event("bob"), event("eve"))
    receiver.will_answer(Answer(), refusing("1.eve"))
    receipt = to.deliver([event("ann"), event("bob"), event("eve")], time.monotonic() + FAR_S)
    to.close()
    assert receipt is not None
    assert receipt.refused == {"1.ann": "no such customer", "1.eve": "no such customer"}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (refusing("1.eve"), "refused events that were not in the request: '1.eve'"),
        (Answer(200, {"Content-Type": REFUSALS_TYPE}, b"[]"), "in a form that cannot be read"),
        (Answer(200, {"Content-Type": REFUSALS_TYPE}, b"\xff"), "in a form that cannot be read"),
        (
            Answer(200, {"Content-Type": REFUSALS_TYPE}, b" " * REFUSALS_BYTES_MAX),
            "in more than 4194304 bytes",
        ),
    ],
    ids=["unknown", "list", "bytes", "large"],
)
def test_a_list_that_is_none_fails_the_request(receiver: Endpoint, answer: Answer, fault: str) -> None:
    receiver.will_answer(answer)
    error = failure(sink(receiver.url), event("ann"))
    assert (error.final, fault in str(error)) == (False, True)


def test_other_answers_refuse_nothing(receiver: Endpoint) -> None:
    body = refusing("1.ann").body
    receiver.will_answer(
        Answer(200, {"Content-Type": "application/json"}, body), refusing("1.ann", status=500)
    )
    to = sink(receiver.url)
    deliver(to, event("ann"))
    assert not failure(to, event("ann")).final


def test_a_reason_is_short(receiver: Endpoint) -> None:
    receiver.will_answer(refusing("1.ann", reason="x" * 5_000))
    to = sink(receiver.url)
    receipt = to.deliver([event("ann")], time.monotonic() + FAR_S)
    to.close()
    assert receipt is not None
    assert len(receipt.refused["1.ann"]) == EXCERPT_CHARACTERS_MAX


# --- the file -----------------------------------------------------------------------------------------------


def test_a_refused_event_is_kept_once(tmp_path: Path) -> None:
    events = [event("ann"), event("bob"), event("eve")]
    for _ in range(2):
        RefusedEvents(tmp_path, LARGE).keep(CONNECTION, events, {"1.bob": "why"})
    [line] = lines(tmp_path / "_refused" / "a" / "c.ndjson")
    assert (line["id"], line["reason"], line["event"]) == ("1.bob", "why", json.loads(events[1].body))
    assert line["refused_time"].endswith("Z")


def test_a_full_file_ends_the_delivery_and_drops_nothing(tmp_path: Path) -> None:
    refused = RefusedEvents(tmp_path, 1)
    refused.keep(CONNECTION, [event("ann")], {"1.ann": ""})
    with pytest.raises(SinkError, match="move it away, or raise --refused-bytes-max") as full:
        refused.keep(CONNECTION, [event("bob")], {"1.bob": ""})
    assert full.value.final
    assert len(lines(tmp_path / "_refused" / "a" / "c.ndjson")) == 1


def test_a_service_without_a_directory_says_so() -> None:
    with pytest.raises(SinkError, match="--output-dir"):
        RefusedEvents(None, LARGE).keep(CONNECTION, [event("ann")], {"1.ann": ""})


# --- the service --------------------------------------------------------------------------------------------


def refuse_user(user_id: str) -> Any:
    def decide(received: Received) -> Answer:
        ids = [each["id"] for each in received.events if each.get("subject") == user_id]
        return refusing(*ids) if ids else Answer()

    return decide


def test_all_other_events_go_on(tmp_path: Path, receiver: Endpoint) -> None:
    receiver.decide = refuse_user("u2")
    with serving(tmp_path / "store", metrics_port=0, **LOCAL) as service:
        audience = build(service)
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
        set_tier(service, ["u2", "u3"], "silver")
        eventually(lambda: get(service).delivered_sequence == 5)
        kept = lines(file_of(service))
        url = f"http://{service.application.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=CALL_TIMEOUT_S) as answer:
            metrics = answer.read()
    assert b'milepost_delivery_refused_changes_total{kind="webhook"} 2.0' in metrics
    assert [(line["event"]["subject"], line["event"]["data"]["entered"]) for line in kept] == [
        ("u2", True),
        ("u2", False),
    ]
    assert {line["reason"] for line in kept} == {"no such customer"}
    assert len(receiver.requests) == 2


def test_a_connection_whose_file_is_full_is_faulted_until_it_is_moved(
    tmp_path: Path, receiver: Endpoint
) -> None:
    receiver.decide = refuse_user("u4")
    with serving(tmp_path / "store", refused_bytes_max=1, **LOCAL) as service:
        audience = build(service)
        file_of(service).parent.mkdir(parents=True)
        file_of(service).write_text("{}\n")
        create_hook(service, url=receiver.url)
        connect(service, audience, output_id="hook")
        eventually(lambda: get(service).delivered_sequence == 3)
        set_tier(service, ["u4"], "gold")
        eventually(lambda: get(service).state == FAULTED)
        assert "move it away" in get(service).fault
        file_of(service).rename(tmp_path / "moved")
        resume(service)
        eventually(lambda: get(service).delivered_sequence == 4)
        assert [line["event"]["subject"] for line in lines(file_of(service))] == ["u4"]


def test_a_refused_test_event_is_reported_and_not_kept(tmp_path: Path, receiver: Endpoint) -> None:
    receiver.decide = lambda received: refusing(*(each["id"] for each in received.events))
    with serving(tmp_path / "store", **LOCAL) as service:
        service.create_inputs()
        create_hook(service, url=receiver.url)
        answer = ask(service)
        assert (answer.delivered, answer.error) == (False, "refused: no such customer")
        assert not file_of(service).parent.parent.exists()
