"""A shop that asks Milepost on each request, and streams what happens to it.

MILEPOST_TARGET=localhost:7443 uvicorn examples.shop.app:app

One client and one stream serve all requests. A request does not wait for the stream: events go through a
bounded queue, and the purchase is refused when that is full. When Milepost does not answer in time, the shop
goes on with the usual price.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from milepost import AsyncClient, make_event
from milepost.errors import MilepostError
from milepost.v1.data_pb2 import Event

ACCOUNT = "shop"
INPUT = "shop/web"
GOLD = "loyalty/gold"
CHECK_SECONDS_MAX = 0.5
"""How long a request waits for Milepost."""
WAITING_EVENTS_MAX = 10_000
SHIPPING = 4.9

_log = logging.getLogger("shop")


class Purchase(BaseModel):
    """What is bought. `order_id` makes it count once, however often it is sent."""

    user_id: str = Field(min_length=1, max_length=256)
    order_id: str = Field(min_length=1, max_length=256)
    price: float = Field(ge=0, allow_inf_nan=False)


class Shop:
    """What the requests share."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._checks = client.with_timeout(CHECK_SECONDS_MAX)
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(WAITING_EVENTS_MAX)

    async def shipping(self, user_id: str) -> float:
        """What shipping costs a user."""
        try:
            return 0.0 if await self._checks.check(user_id, GOLD) else SHIPPING
        except MilepostError as error:
            _log.warning("the usual price: %s", error)
            return SHIPPING

    def purchased(self, purchase: Purchase) -> None:
        """Notes an event for the stream. Raises asyncio.QueueFull."""
        attributes = {"price": purchase.price}
        now = datetime.now(UTC)
        self._waiting.put_nowait(
            make_event(purchase.user_id, "purchase", now, attributes, event_id=purchase.order_id)
        )

    async def stream(self) -> None:
        """Sends events until it is cancelled. A stream belongs to one task: this one."""
        async with self._client.event_stream(input=INPUT) as stream:
            while True:
                events = [await self._waiting.get()]
                while not self._waiting.empty():
                    events.append(self._waiting.get_nowait())
                await stream.send(events)
                for _ in events:
                    self._waiting.task_done()

    async def drain(self) -> None:
        """Waits until the stream has all events."""
        await self._waiting.join()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The client and the stream live as long as the service."""
    async with AsyncClient(os.environ.get("MILEPOST_TARGET", "localhost:7443"), account=ACCOUNT) as client:
        app.state.shop = shop = Shop(client)
        streaming = asyncio.create_task(shop.stream())
        yield
        with suppress(TimeoutError):
            await asyncio.wait_for(shop.drain(), timeout=10)
        streaming.cancel()
        with suppress(asyncio.CancelledError):
            await streaming


app = FastAPI(lifespan=lifespan)


@app.get("/shipping/{user_id}")
async def shipping(user_id: str, request: Request) -> dict[str, float]:
    """What shipping costs."""
    return {"shipping": await request.app.state.shop.shipping(user_id)}


@app.post("/purchases", status_code=202)
async def purchase(bought: Purchase, request: Request) -> dict[str, str]:
    """Takes a purchase."""
    try:
        request.app.state.shop.purchased(bought)
    except asyncio.QueueFull as error:
        raise HTTPException(503, "too many purchases are waiting; try again", {"Retry-After": "1"}) from error
    return {"order_id": bought.order_id}
