"""The calls that a mix is made of, and the world that they are about."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from milepost import Client, make_event, make_user_update
from milepost.criteria import attribute, event
from milepost.outputs import WatchOutput
from milepost.v1.audience_pb2 import SIZE_KIND_REAL

ACCOUNT = "load"
INPUT = "shop/web"
JOURNEY = "load"
ACTIVE, IDLE = f"{JOURNEY}/active", f"{JOURNEY}/idle"
CHECKED_USERS = 20
EVENTS_A_BATCH = 20
EVENTS_A_CUSTOMER = 3
MEMBERS_LISTED = 100
POLL_SECONDS = 0.05
TIERS = ("gold", "silver", "none")


def customer(number: int) -> str:
    """The id of a customer."""
    return f"customer-{number}"


def build(client: Client, customers: int) -> None:
    """Makes the world: customers with a tier and some events, and a journey with one activated audience."""
    drawn = random.Random(customers)
    client.ensure_account(display_name="Load")
    client.ensure_input("shop", "web")
    now = datetime.now(UTC)
    client.upsert_users(
        (make_user_update(customer(n), {"tier": drawn.choice(TIERS)}) for n in range(customers)), input=INPUT
    )
    seen = itertools.product(range(customers), range(EVENTS_A_CUSTOMER))
    sent = client.ingest_events(
        (
            make_event(customer(n), "view", now - timedelta(days=drawn.random() * 60), {"page": "home"})
            for n, _ in seen
        ),
        input=INPUT,
    )
    client.ensure_journey(JOURNEY, display_name="Load")
    client.ensure_milestone(JOURNEY, "active", criteria=attribute("tier").equals("gold"))
    client.ensure_milestone(JOURNEY, "idle", criteria=event("view", last=timedelta(days=30)).happened())
    output = client.ensure_output("consumers", WatchOutput())
    client.ensure_connection("active", target=ACTIVE, output=output.name)
    client.activate_connection("active")
    while client.get_audience(ACTIVE).size.kind != SIZE_KIND_REAL:
        time.sleep(POLL_SECONDS)
    client.count(IDLE, at_least=sent.revision)


Call = Callable[[Client, random.Random, int], Any]
"""Makes one call; the number is that of the customers."""


def _customers(drawn: random.Random, customers: int, count: int) -> list[str]:
    return [customer(number) for number in drawn.sample(range(customers), min(count, customers))]


def _check(client: Client, drawn: random.Random, customers: int) -> None:
    client.check(customer(drawn.randrange(customers)), ACTIVE)


def _check_not_activated(client: Client, drawn: random.Random, customers: int) -> None:
    client.check(customer(drawn.randrange(customers)), IDLE)


def _check_many(client: Client, drawn: random.Random, customers: int) -> None:
    client.check_many(_customers(drawn, customers, CHECKED_USERS), [ACTIVE, IDLE])


def _ingest_events(client: Client, drawn: random.Random, customers: int) -> None:
    now = datetime.now(UTC)
    users = (customer(drawn.randrange(customers)) for _ in range(EVENTS_A_BATCH))
    client.ingest_events([make_event(user, "view", now, {"page": "home"}) for user in users], input=INPUT)


def _upsert_users(client: Client, drawn: random.Random, customers: int) -> None:
    update = make_user_update(customer(drawn.randrange(customers)), {"tier": drawn.choice(TIERS)})
    client.upsert_users([update], input=INPUT)


def _list_members(client: Client, drawn: random.Random, customers: int) -> None:
    next(client.list_members(ACTIVE, page_size=MEMBERS_LISTED), None)


CALLS: dict[str, tuple[str, Call]] = {
    "check": ("CheckMembership", _check),
    "check_not_activated": ("CheckMembership, not activated", _check_not_activated),
    "check_many": ("BatchCheckMembership", _check_many),
    "ingest_events": ("IngestEvents", _ingest_events),
    "upsert_users": ("UpsertUsers", _upsert_users),
    "get_user": ("GetUser", lambda client, drawn, n: client.get_user(customer(drawn.randrange(n)))),
    "estimate": ("EstimateAudience", lambda client, drawn, n: client.estimate(IDLE)),
    "count": ("CountAudience", lambda client, drawn, n: client.count(IDLE)),
    "list_members": ("ListMembers", _list_members),
    "get_journey_funnel": ("GetJourneyFunnel", lambda client, drawn, n: client.get_journey_funnel(JOURNEY)),
    "list_journeys": ("ListJourneys", lambda client, drawn, n: list(client.list_journeys())),
}
"""What a mix may name → what the table calls it, and the call."""
