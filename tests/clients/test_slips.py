"""Natural slips with the Python client: each error names the argument, what came and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format, text_format

from milepost import Client, make_event, make_user_update
from milepost.criteria import (
    all_of,
    any_of,
    attribute,
    event,
    event_attribute,
    identity,
    labelled,
    not_,
    sequence,
    step,
)
from milepost.v1.criteria_pb2 import Criteria
from tests.clients.fake import Fake, serving

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def odd(value: Any) -> Any:
    """A value of a type that mypy would refuse."""
    return value


DATA: list[tuple[Callable[[], object], str]] = [
    (lambda: make_event(odd(5), "buy", NOW), "user_id: expected a str, not int 5"),
    (lambda: make_event("ann", odd(5), NOW), "name: expected a str, not int 5"),
    (
        lambda: make_event("ann", "buy", odd("2026-01-01")),
        "time: expected a datetime with a time zone, not str",
    ),
    (
        lambda: make_event("ann", "buy", datetime(2026, 1, 1)),
        "time: datetime.datetime(2026, 1, 1, 0, 0) has no time",
    ),
    (
        lambda: make_event("ann", "buy", NOW, odd([1])),
        "attributes: expected a mapping of names to values, not list",
    ),
    (lambda: make_event("ann", "buy", NOW, {"x": odd([1])}), "attributes['x']: [0]: expected a str"),
    (lambda: make_event("ann", "buy", NOW, {"x": odd({"y": 1})}), "attributes['x']: dict is no value"),
    (lambda: make_event("ann", "buy", NOW, {"x": 2**63 + 1}), "attributes['x']: 9223372036854775809 cannot"),
    (lambda: make_user_update("ann", {"x": odd(object())}), "attributes['x']: object is no value"),
    (lambda: make_user_update("ann", time=odd("today")), "time: expected a datetime"),
    (
        lambda: make_user_update("ann", unset="tier"),
        "unset: expected several in a list, not str 'tier': write ['tier']",
    ),
    (lambda: make_user_update("ann", identities={"email": odd(5)}), "identities['email']: expected a str"),
]
UNFINISHED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: all_of(odd(event("buy").sum("price"))),
        "Number is not a criterion yet: compare it with a number",
    ),
    (
        lambda: not_(odd(attribute("tier"))),
        "Attribute is not a criterion yet: compare it or call one of its",
    ),
    (lambda: labelled("x", odd(identity("email"))), "Identity is not a criterion yet"),
    (lambda: all_of(odd({"event": {}})), "expected criteria as milepost.criteria builds them, not dict"),
    (lambda: any_of(odd([event("buy")])), "expected criteria as milepost.criteria builds them, not list"),
    (
        lambda: event("buy", where=odd(attribute("x").exists())),
        "where: a criterion on users is no condition",
    ),
    (
        lambda: event("buy", where=odd(event_attribute("x"))),
        "where: expected a condition, like event_attribute",
    ),
    (lambda: event("buy", last=odd(30)), "last: expected a timedelta, not int 30"),
    (lambda: event("buy", inputs="shop/web"), "inputs: expected several in a list, not str 'shop/web'"),
    (lambda: attribute("tier").one_of("gold"), "values: expected several in a list, not str 'gold'"),
    (lambda: attribute("tier").contains(odd(5)), "part: expected a str, not int 5"),
    (lambda: sequence(odd("view"), step("buy")), "steps: expected step(…), not str 'view'"),
    (lambda: event("buy").count() > (odd("3")), "expected a number, not str '3'"),
]
PYTHON: list[tuple[Callable[[], object], str]] = [
    (lambda: event("a") and event("b"), "Events is not a criterion yet"),
    (lambda: not attribute("tier"), "not_(a)"),
    (lambda: attribute("tier") == "gold", "Attribute has no `==`: use .equals('gold')"),
    (lambda: attribute("tier") != "gold", "Attribute has no `!=`: use not_(….equals('gold'))"),
    (lambda: event("buy").count() == 3, "Number has no `==`: use .equals(3)"),
    (lambda: attribute("v").version == "1.2", "VersionTests has no `==`: use .equals('1.2')"),
    (lambda: event("buy") == 3, "Events has no `==`: call .happened()"),
    (lambda: attribute("tier") in ["gold"], "use .equals('gold')"),
    (lambda: "gold" in (odd(attribute("tier"))), "Attribute has no `in`: use .contains('gold')"),
    (lambda: sorted([odd(attribute("a")), odd(attribute("b"))]), "Attribute is no value"),
]


@pytest.mark.parametrize(("wrong", "said"), [*DATA, *UNFINISHED, *PYTHON])
def test_a_slip_is_named(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        wrong()
    assert said in str(refused.value)


def test_messages_stay_messages() -> None:
    one, same = attribute("tier").equals("gold"), attribute("tier").equals("gold")
    assert one == same
    assert one in [same]
    assert Criteria.FromString(one.SerializeToString()) == same
    assert (event("buy").count() >= 3).event.test.greater_or_equal == 3
    assert text_format.Parse(text_format.MessageToString(one), Criteria()) == same
    assert json_format.Parse(json_format.MessageToJson(one), Criteria()) == same


def test_a_call_with_a_slip_is_not_made() -> None:
    fake = Fake({})
    with serving(fake) as target, Client(target, account="acme") as client:
        slips: list[tuple[Callable[[], object], str]] = [
            (
                lambda: client.ingest_events([odd({"user_id": "ann"})]),
                "row 0: expected a message, as make_event",
            ),
            (lambda: client.upsert_users([odd("ann")]), "row 0: expected a message"),
            (
                lambda: client.create_milestone("j", "m", criteria=odd({"event": {}})),
                "criteria: expected criteria",
            ),
            (
                lambda: client.ensure_milestone("j", "m", criteria=odd(event("buy").count())),
                "criteria: Number is",
            ),
            (
                lambda: client.update_milestone("j/m", criteria=odd(event("buy"))),
                "criteria: Events is not a",
            ),
            (
                lambda: client.preview_update_milestone("j/m", criteria=odd({})),
                "criteria: expected criteria",
            ),
            (lambda: client.check("ann", "j/m", as_of=odd("2026-01-01")), "as_of: expected a datetime"),
            (
                lambda: client.estimate("j/m", time_budget=odd(5)),
                "time_budget: expected a timedelta, not int 5",
            ),
            (lambda: client.delete_users("ann"), "user_ids: expected several in a list, not str 'ann'"),
            (lambda: client.check_many("ann", ["j/m"]), "user_ids: expected several"),
        ]
        for wrong, said in slips:
            with pytest.raises(TypeError) as refused:
                wrong()
            assert said in str(refused.value)
    assert all(not fake.of(method) for method in ("IngestEvents", "CreateMilestone", "DeleteUsers"))
