"""The journeys in docs/examples, applied to a shop of 600 customers drawn at random, through real gRPC.

The expected users of each milestone are found by plain Python over all customers. Then one audience of each
journey is activated, and its deliveries are compared too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from milepost import Client, journeys, make_event, names
from milepost.outputs import FileOutput
from milepost.v1.audience_service_pb2 import GetJourneyFunnelRequest
from milepost.values import to_datetime
from tests.harness import Serving, eventually, serving
from tests.spec.example_shop import WORKSPACE, Customer, Deed, draw_shop, send_shop

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SEED = 20_260_301
DAY = timedelta(days=1)

MilestoneIds = Iterable[str]
"""The milestones a customer is in, from the start down."""


# --- by hand ---


def happened(customer: Customer, inputs: set[str], name: str) -> list[Deed]:
    return [deed for deed in customer.deeds if deed.input in inputs and deed.name == name]


def churn_risk(customer: Customer, now: datetime) -> MilestoneIds:
    score = customer.attributes.get("churn_score")
    if not isinstance(score, float) or score < 0.7:
        return
    yield "at-risk"

    def of_campaign(name: str) -> list[datetime]:
        return [
            deed.time
            for deed in happened(customer, {"app", "mail"}, name)
            if deed.attributes["campaign"] == "stay" and now - 30 * DAY < deed.time <= now
        ]

    sent, opened = of_campaign("email_sent"), of_campaign("email_opened")
    if not sent:
        yield "to-email"
        return
    yield "emailed"
    if any(timedelta(0) < later - earlier <= 5 * DAY for earlier in sent for later in opened):
        yield "opened"
    else:
        yield "by-sms" if min(sent) <= now - 5 * DAY else "waiting"


def consent(customer: Customer, now: datetime) -> MilestoneIds:
    said = [
        (time, given)
        for time, regulation, purpose, given in customer.consents
        if (regulation, purpose) == ("gdpr", "marketing")
    ]
    if said and max(said)[1]:
        yield "notified"
        return
    yield "not-consented"
    visits = [(now - deed.time) / DAY for deed in happened(customer, {"app"}, "session_start")]
    recently = any(0 <= days < 2 for days in visits)
    before = any(2 <= days < 7 for days in visits)
    earlier = any(7 <= days < 90 for days in visits)
    if recently and not before and earlier:
        yield "returned"


def lifetime_value(customer: Customer, now: datetime) -> MilestoneIds:
    bought = happened(customer, {"app", "till"}, "purchase")
    if sum(Decimal(str(deed.attributes["amount"])) for deed in bought) >= 500:
        yield "high-value"
        channel = str(customer.attributes.get("preferred_channel")).lower()
        yield {"email": "by-email", "push": "by-push"}.get(channel, "by-letter")
        return
    yield "growing"
    categories = {deed.attributes["category"] for deed in bought}
    if "camera" in categories and "lens" not in categories:
        yield "pairing"


@dataclass(frozen=True)
class Example:
    """An example, its figures by hand, and what is tried on it: an audience that is activated, the customers
    who can be made to enter it, and the deed that does so, if it was done `ago`.
    """

    name: str
    inputs: frozenset[str]
    path: Callable[[Customer, datetime], MilestoneIds]
    activated: str
    comes_from: str
    deed: Deed
    ago: timedelta = timedelta(0)

    def members(self, customers: Iterable[Customer], now: datetime) -> dict[str, set[str]]:
        """The customers in each milestone; "" is the start."""
        found: dict[str, set[str]] = defaultdict(set)
        for customer in customers:
            if customer.inputs & self.inputs:
                for milestone in ("", *self.path(customer, now)):
                    found[milestone].add(customer.id)
        return found

    @property
    def file(self) -> Path:
        return EXAMPLES / f"{self.name}.yaml"


def soon(input_id: str, name: str, **attributes: str | float) -> Deed:
    """A deed whose time is set when it is done."""
    return Deed(input_id, name, datetime.max.replace(tzinfo=UTC), attributes)


BY_HAND = [
    Example(
        "churn-risk",
        frozenset({"app", "mail"}),
        churn_risk,
        activated="by-sms",
        comes_from="to-email",
        deed=soon("mail", "email_sent", campaign="stay"),
        ago=6 * DAY,
    ),
    Example(
        "consent",
        frozenset({"app"}),
        consent,
        activated="not-consented",
        comes_from="",
        deed=soon("app", "session_start"),
    ),
    Example(
        "lifetime-value",
        frozenset({"app", "till"}),
        lifetime_value,
        activated="by-push",
        comes_from="growing",
        deed=soon("till", "purchase", amount=500.0, category="camera"),
    ),
]
EVERY = pytest.mark.parametrize("example", BY_HAND, ids=[example.name for example in BY_HAND])


# --- the service ---


@dataclass(frozen=True)
class Shop:
    """A service with the shop's data and the three journeys."""

    service: Serving
    client: Client
    customers: list[Customer]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    now = datetime.now(UTC)
    customers = draw_shop(SEED, now)
    with (
        serving(tmp_path_factory.mktemp("shop")) as service,
        Client(service.address, account="a") as client,
    ):
        send_shop(client, customers, now)
        for example in BY_HAND:
            wanted = journeys.loads(example.file.read_text(encoding="utf-8"))
            journeys.apply(client, journeys.compare(client, wanted))
        yield Shop(service, client, customers)


def test_every_example_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.yaml") if not file.stem.endswith(".test")} == {
        example.name for example in BY_HAND
    }


@EVERY
def test_an_example_applies_and_is_exported_the_same(shop: Shop, example: Example) -> None:
    wanted = journeys.loads(example.file.read_text(encoding="utf-8"))
    assert journeys.read(shop.client, example.name) == wanted
    assert journeys.compare(shop.client, wanted).is_empty
    assert journeys.loads(journeys.dumps(wanted)) == wanted


@EVERY
def test_every_figure_equals_a_manual_count(shop: Shop, example: Example) -> None:
    name = shop.client.journey_name(example.name)
    funnel = shop.client.audiences.GetJourneyFunnel(GetJourneyFunnelRequest(name=name))
    at = to_datetime(funnel.evaluation.as_of)
    expected = example.members(shop.customers, at)
    # The shop is such that no figure is right by being empty.
    milestones = [names.last_id(step.milestone) for step in funnel.steps]
    assert all(len(expected[milestone]) >= 10 for milestone in milestones)
    assert funnel.population == len(expected[""])
    assert {names.last_id(step.milestone): step.users for step in funnel.steps} == {
        milestone: len(expected[milestone]) for milestone in milestones
    }
    for milestone in milestones:
        members = shop.client.list_members(f"{example.name}/{milestone}", as_of=at)
        assert set(members) == expected[milestone]


def test_the_text_message_goes_to_those_who_got_the_e_mail_and_did_not_open_it(shop: Shop) -> None:
    now = datetime.now(UTC)
    stay: dict[str, str | float] = {"campaign": "stay"}

    def mail(name: str, days_ago: float, **attributes: str | float) -> Deed:
        return Deed("mail", name, now - days_ago * DAY, {**stay, **attributes})

    users = {
        "no-risk": (0.69, [mail("email_sent", 10)], ["none"]),
        "not-emailed": (0.9, [], ["to-email"]),
        "other-e-mail": (0.9, [mail("email_sent", 10, campaign="news")], ["to-email"]),
        "opened-it": (0.9, [mail("email_sent", 10), mail("email_opened", 8)], ["opened"]),
        "not-opened": (0.9, [mail("email_sent", 10)], ["by-sms"]),
        "opened-another": (
            0.9,
            [mail("email_sent", 10), mail("email_opened", 8, campaign="news")],
            ["by-sms"],
        ),
        "just-emailed": (0.9, [mail("email_sent", 1)], ["waiting"]),
        "long-ago": (0.9, [mail("email_sent", 31)], ["to-email"]),
    }
    fresh = []
    for user_id, (score, deeds, _) in users.items():
        customer = Customer(f"sms-{user_id}", profile_input="app", deeds=deeds)
        customer.attributes["churn_score"] = score
        fresh.append(customer)
    shop.customers.extend(fresh)
    send_shop(shop.client, fresh, now)
    leaves = ("to-email", "opened", "by-sms", "waiting")
    for customer, (_, _, expected) in zip(fresh, users.values(), strict=True):
        found = [leaf for leaf in leaves if shop.client.check(customer.id, f"churn-risk/{leaf}")]
        assert (found or ["none"]) == expected, customer.id


def categories(customer: Customer) -> set[object]:
    return {deed.attributes["category"] for deed in happened(customer, {"app", "till"}, "purchase")}


def was_in_app(customer: Customer, now: datetime, since_days: int, until_days: int) -> bool:
    visits = [(now - deed.time) / DAY for deed in happened(customer, {"app"}, "session_start")]
    return any(until_days <= days < since_days for days in visits)


@pytest.mark.parametrize(
    ("example", "milestone", "draws_from", "labels"),
    [
        (
            BY_HAND[1],
            "returned",
            "not-consented",
            {
                "In the app in 2 days": lambda customer, now: was_in_app(customer, now, 2, 0),
                "Not in the 5 days before": lambda customer, now: not was_in_app(customer, now, 7, 2),
                "But earlier": lambda customer, now: was_in_app(customer, now, 90, 7),
            },
        ),
        (
            BY_HAND[2],
            "pairing",
            "growing",
            {
                "Bought a camera": lambda customer, now: "camera" in categories(customer),
                "Bought no lens": lambda customer, now: "lens" not in categories(customer),
            },
        ),
    ],
    ids=["returned", "pairing"],
)
def test_size_of_each_label_equals_a_manual_count(
    shop: Shop,
    example: Example,
    milestone: str,
    draws_from: str,
    labels: dict[str, Callable[[Customer, datetime], bool]],
) -> None:
    answer = shop.client.estimate(f"{example.name}/{milestone}", exact=True)
    at = to_datetime(answer.evaluation.as_of)
    drawn = example.members(shop.customers, at)[draws_from]
    assert {each.label: each.size.users for each in answer.labelled} == {
        label: sum(is_true(each, at) for each in shop.customers if each.id in drawn)
        for label, is_true in labels.items()
    }


@EVERY
def test_activation_delivers_members_then_entries(shop: Shop, example: Example) -> None:
    client = shop.client
    # 1. Every present member is sent as entered.
    output = client.ensure_output("files", FileOutput(path="files"))
    connection = client.ensure_connection(
        example.name, target=f"{example.name}/{example.activated}", output=output.name
    )
    before = example.members(shop.customers, datetime.now(UTC))
    client.activate_connection(connection.name)

    def sent() -> list[tuple[str, str]]:
        lines = shop.service.delivered("files", example.name)
        return [(line["type"].rpartition(".")[2], line["data"]["user_id"]) for line in lines]

    members = before[example.activated]
    eventually(lambda: len(sent()) >= len(members))
    assert sorted(sent()) == sorted(("entered", member) for member in members)
    # 2. A customer who meets the criteria is sent next, and no one else.
    newcomer = _newcomer(shop, example, before)
    now = datetime.now(UTC)
    done = Deed(example.deed.input, example.deed.name, now - example.ago, example.deed.attributes)
    newcomer.deeds.append(done)
    client.ingest_events(
        [make_event(newcomer.id, done.name, done.time, done.attributes)],
        input=names.input_(client.account_id, WORKSPACE, done.input),
    )
    after = example.members(shop.customers, now)
    assert after[example.activated] == {*members, newcomer.id}
    eventually(lambda: len(sent()) > len(members))
    assert sent()[len(members) :] == [("entered", newcomer.id)]
    client.deactivate_connection(connection.name)


def _newcomer(shop: Shop, example: Example, before: dict[str, set[str]]) -> Customer:
    """A customer of the milestone that the deed leads out of; someone new where it is the start."""
    if not example.comes_from:
        newcomer = Customer("newcomer")
        shop.customers.append(newcomer)
        return newcomer
    wanted = before[example.comes_from]
    if example.activated == "by-push":
        pushed = {each.id for each in shop.customers if each.attributes.get("preferred_channel") == "push"}
        wanted = wanted & pushed
    return next(customer for customer in shop.customers if customer.id in wanted)
