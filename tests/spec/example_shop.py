"""A shop with random customers: the data for the example journeys.

The same seed gives the same shop, as it stands at `now`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from milepost import Client, make_event, make_user_update, names
from milepost.v1.data_pb2 import CONSENT_STATE_DENIED, CONSENT_STATE_GIVEN, ConsentUpdate, Event, UserUpdate

WORKSPACE = "shop"
INPUTS = ("app", "mail", "till")
CUSTOMERS = 600
CATEGORIES = ("camera", "lens", "tripod", "bag")
CHANNELS = ("email", "Email", "push", "letter", None)
GDPR_MARKETING = ("gdpr", "marketing")

Value = str | float


@dataclass(frozen=True)
class Deed:
    """Something a customer did."""

    input: str
    name: str
    time: datetime
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass
class Customer:
    """One customer's data. `consents`: whether given, by time."""

    id: str
    deeds: list[Deed] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    profile_input: str = "app"
    consents: list[tuple[datetime, str, str, bool]] = field(default_factory=list)

    @property
    def inputs(self) -> set[str]:
        """Through which inputs anything came."""
        came = {deed.input for deed in self.deeds}
        return came | {self.profile_input} if self.attributes or self.consents else came


def draw_shop(seed: int, now: datetime) -> list[Customer]:
    """The customers, everything before `now`."""
    rng = random.Random(seed)
    return [_draw_customer(rng, f"customer-{number}", now) for number in range(CUSTOMERS)]


def _draw_customer(rng: random.Random, customer_id: str, now: datetime) -> Customer:
    customer = Customer(customer_id, profile_input=rng.choice(INPUTS))

    def ago(days: float) -> datetime:
        return now - timedelta(microseconds=rng.randrange(1, int(days * 86_400_000_000)))

    for _ in range(rng.randrange(5)):
        customer.deeds.append(Deed("app", "session_start", ago(rng.choice([1.5, 6, 40, 100]))))
    for _ in range(rng.randrange(3)):
        customer.deeds += _draw_mailing(rng, ago(rng.choice([4, 45, 45])), now)
    for _ in range(rng.randrange(6)):
        bought: dict[str, Value] = {
            "amount": rng.randrange(1, 40_000) / 100,
            "category": rng.choice(CATEGORIES),
        }
        customer.deeds.append(Deed(rng.choice(["app", "till"]), "purchase", ago(300), bought))
    if rng.random() < 0.8:
        customer.attributes["churn_score"] = rng.choice([0.7, round(rng.random(), 2)])
    channel = rng.choice(CHANNELS)
    if channel is not None:
        customer.attributes["preferred_channel"] = channel
    for _ in range(rng.randrange(4)):
        regulation = rng.choice(["gdpr", "gdpr", "ccpa"])
        purpose = rng.choice(["marketing", "marketing", "analytics"])
        customer.consents.append((ago(200), regulation, purpose, rng.random() < 0.5))
    return customer


def _draw_mailing(rng: random.Random, sent: datetime, now: datetime) -> list[Deed]:
    """An e-mail and perhaps its opening, days later."""
    campaign: dict[str, Value] = {"campaign": rng.choice(["stay", "stay", "news"])}
    opened = sent + timedelta(days=rng.uniform(0, 8))
    mailing = [Deed("mail", "email_sent", sent, campaign)]
    if rng.random() < 0.6 and opened < now:
        mailing.append(Deed("mail", "email_opened", opened, campaign))
    return mailing


def send_shop(client: Client, customers: list[Customer], now: datetime) -> None:
    """Creates the inputs and sends everything, in random order."""
    client.ensure_account()
    for input_id in INPUTS:
        client.ensure_input(WORKSPACE, input_id)
    client.ingest_events(event for customer in customers for event in _events(client, customer))
    client.upsert_users(update for customer in customers for update in _updates(client, customer, now))


def _events(client: Client, customer: Customer) -> list[Event]:
    return [
        make_event(
            customer.id,
            deed.name,
            deed.time,
            deed.attributes,
            input=names.input_(client.account_id, WORKSPACE, deed.input),
        )
        for deed in customer.deeds
    ]


def _updates(client: Client, customer: Customer, now: datetime) -> list[UserUpdate]:
    name = names.input_(client.account_id, WORKSPACE, customer.profile_input)
    updates = [
        make_user_update(
            customer.id,
            time=time,
            input=name,
            consents=[
                ConsentUpdate(
                    regulation=regulation,
                    purpose=purpose,
                    state=CONSENT_STATE_GIVEN if given else CONSENT_STATE_DENIED,
                )
            ],
        )
        for time, regulation, purpose, given in customer.consents
    ]
    if customer.attributes:
        updates.append(make_user_update(customer.id, customer.attributes, time=now, input=name))
    return updates
