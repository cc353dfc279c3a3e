"""examples/worker against a real service: members follow the audience, and only signed requests count."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from examples.worker.app import BEGIN, END, ENTERED, EXITED, Members, server
from milepost import make_event, testing
from milepost.outputs import WebhookOutput
from tests.harness import eventually

RULES = Path(__file__).resolve().parents[2] / "examples" / "rules.yaml"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(str(tmp_path / "members.sqlite"))


@pytest.fixture
def worker(members: Members) -> Iterator[ThreadingHTTPServer]:
    running = server(0, SECRET, members)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def test_members_follow_the_audience(members: Members, worker: ThreadingHTTPServer, tmp_path: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(f"journeys: [{{file: {RULES}}}]", encoding="utf-8")
    now = datetime(2026, 11, 1, tzinfo=UTC)
    with testing.service(now=now, seed=seed, output_networks="127.0.0.0/8") as service:
        client = service.client
        url = f"http://127.0.0.1:{worker.server_port}/"
        hook = client.ensure_output("worker", WebhookOutput(url=url, secret=SECRET))
        client.ensure_connection("gold", target="loyalty/gold", output=hook.name)
        client.activate_connection("gold")
        client.ingest_events(
            [make_event(user, "purchase", now, {"price": 100}) for user in ("ann", "bob")], input="shop/web"
        )
        assert eventually(lambda: members.all() == ["ann", "bob"])
        client.delete_users(["bob"])
        assert eventually(lambda: members.all() == ["ann"])
        service.clock.advance("90d")
        assert eventually(lambda: members.all() == [])


def test_only_signed_requests_count_and_a_repeated_one_once(
    members: Members, worker: ThreadingHTTPServer
) -> None:
    event = {"source": "/a", "id": "1", "type": ENTERED, "subject": "ann"}
    body = json.dumps([event])
    sent_at = datetime.now(UTC)

    def post(signature: str) -> int:
        headers = {
            "webhook-id": "m",
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": signature,
        }
        url = f"http://127.0.0.1:{worker.server_port}/"
        request = urllib.request.Request(url, body.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert post("v1,AAAA") == 401
    assert members.all() == []
    signature = Webhook(SECRET).sign("m", sent_at, body)
    assert [post(signature), post(signature)] == [204, 204]
    assert members.all() == ["ann"]
    assert members.apply([event]) == 0


def test_a_snapshot_replaces_the_members_when_it_ends(members: Members) -> None:
    def sent(id_: str, kind: str, user: str = "") -> dict[str, str]:
        return {"source": "/a", "id": id_, "type": kind, "subject": user}

    members.apply([sent("1", ENTERED, "ann"), sent("2", ENTERED, "bob")])
    members.apply([sent("3", BEGIN), sent("4", ENTERED, "bob"), sent("5", ENTERED, "cid")])
    assert members.all() == ["ann", "bob"]
    members.apply([sent("6", EXITED, "bob"), sent("7", END)])
    assert members.all() == ["cid"]
    members.apply([sent("8", ENTERED, "dan")])
    assert members.all() == ["cid", "dan"]
