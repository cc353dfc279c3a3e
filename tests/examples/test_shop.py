"""examples/shop against a real service: prices follow purchases and time, and hold without Milepost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from examples.shop import app as shop
from milepost import testing
from tests.harness import EVENTUALLY_S, eventually

RULES = Path(__file__).resolve().parents[2] / "examples" / "rules.yaml"


@contextmanager
def running() -> Iterator[httpx.Client]:
    """The shop on a free port, and a client for it."""
    server = uvicorn.Server(uvicorn.Config(shop.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=EVENTUALLY_S) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def test_prices_follow_purchases_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(f"journeys: [{{file: {RULES}}}]", encoding="utf-8")
    with testing.service(account=shop.ACCOUNT, seed=seed) as service:
        monkeypatch.setenv("MILEPOST_TARGET", service.target)
        with running() as client:

            def shipping() -> float:
                return float(client.get("/shipping/ann").json()["shipping"])

            assert shipping() == shop.SHIPPING
            first = {"user_id": "ann", "order_id": "1", "price": 60}
            for order in (first, first, {**first, "order_id": "2", "price": 39}):
                assert client.post("/purchases", json=order).status_code == 202
            # The order that was sent twice counts once: 99.
            assert eventually(lambda: service.client.count("loyalty/others").users == 1)
            assert shipping() == shop.SHIPPING
            assert client.post("/purchases", json={**first, "order_id": "3", "price": 1}).status_code == 202
            assert eventually(lambda: shipping() == 0.0)
            service.clock.advance("91d")
            assert shipping() == shop.SHIPPING
            assert client.post("/purchases", json={**first, "price": -1}).status_code == 422


def test_without_milepost_the_usual_price_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "CHECK_SECONDS_MAX", 0.05)
    with testing.service() as service:
        monkeypatch.setenv("MILEPOST_TARGET", service.target)
    with running() as client:
        assert client.get("/shipping/ann").json() == {"shipping": shop.SHIPPING}
