"""Event attributes with columns of their own: questions read these, and have the same answers as before."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.backends.base import Count, EventRecord
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.query.compiler import compile_plan
from engine.backends.clickhouse.query.folding import Folding
from engine.backends.clickhouse.settings import PROMOTED_MAX, ClickHouseSettings, checked_promoted
from engine.backends.clickhouse.tables import promoted_prefix
from engine.backends.clickhouse.view import View
from engine.criteria.conditions import WhereAttribute
from engine.criteria.model import Aggregate, Equals, EventType, Exists
from engine.criteria.operators import InstantRange, NumberRange, ResolvedTest
from engine.criteria.ranges import Interval, TimeRange
from engine.errors import InvalidInput
from engine.plan.model import EventMatch, EventSelection, Plan
from engine.values import Value
from tests.conformance.site import ACCOUNT, NOON, WEB
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.oracle.world import Batch

KEY = "price"
VALUES: tuple[Value, ...] = ("", "a", -0.0, 0.0, 2.5, False, True, 0, 7, (), ("a", "b"))
"""One user each; an int is a time."""
TESTS: tuple[ResolvedTest, ...] = (
    Exists(),
    *(Equals(value) for value in ("", "a", 0.0, 2.5, False, True, 0, 7)),
    NumberRange(intervals=(Interval(low=-1.0, high=1.0),)),
    InstantRange(ranges=(TimeRange(start=0, end=8),)),
)
AGGREGATES = (Aggregate.SUM, Aggregate.MIN, Aggregate.MAX, Aggregate.LAST, Aggregate.DISTINCT)


def _plan() -> Plan:
    everything = EventSelection(inputs=(WEB,), name="buy")
    steps = (
        *(
            EventMatch(
                selection=msgspec.structs.replace(everything, where=WhereAttribute(key=KEY, test=test)),
                intervals=(Interval(low=1.0),),
            )
            for test in TESTS
        ),
        *(
            EventMatch(selection=everything, aggregate=aggregate, of=KEY, intervals=(Interval(low=0.0),))
            for aggregate in AGGREGATES
        ),
    )
    return Plan(account=ACCOUNT, as_of=NOON, steps=steps, roots=tuple(range(len(steps))))


def _events(first: int = 0) -> list[EventRecord]:
    return [
        EventRecord(f"u{first + n}", WEB, "buy", EventType.CUSTOM, n, {KEY: value, "other": "a"})
        for n, value in enumerate(VALUES)
    ]


SIZES = [10, 1, 2, 2, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 11]
"""Of the plan over the events once."""


def test_values_of_all_kinds_pass_as_before(gateway: Gateway) -> None:
    """Rows that were there before have columns that the server computes, and later ones stored ones."""
    plan = _plan()
    gateway.happen(ACCOUNT, Batch((*_events(), EventRecord("none", WEB, "buy", EventType.CUSTOM, 1, {}))))
    assert gateway.sizes(plan) == SIZES
    users = [f"u{n}" for n in range(len(VALUES))]
    before = gateway.flags(plan, users)
    gateway.promote([KEY])
    assert gateway.sizes(plan) == SIZES
    assert gateway.flags(plan, users) == gateway.found(plan) == before
    gateway.happen(ACCOUNT, Batch(tuple(_events(100))))
    assert gateway.sizes(plan) == [2 * size for size in SIZES]
    gateway.promote([])
    assert gateway.sizes(plan) == [2 * size for size in SIZES]


def test_statements_read_columns_where_there_are_some() -> None:
    plan, view = _plan(), View(account=ACCOUNT)
    whole = compile_plan(plan, view, Folding(), promoted=(KEY,)).by_user(plan.roots)
    assert promoted_prefix(KEY) in whole
    assert f"'{KEY}'" not in whole
    others = compile_plan(plan, view, Folding(), promoted=("other",)).by_user(plan.roots)
    assert others == compile_plan(plan, view, Folding()).by_user(plan.roots)


def test_a_store_makes_the_columns_that_its_settings_name(url: str) -> None:
    location = location_of(url.removeprefix("clickhouse:"))
    for keys in ("", f"{KEY}, more", "more", ""):
        settings = ClickHouseSettings(promoted_attributes=keys)
        backend = ClickHouseBackend.open(location, settings=settings)
        try:
            if not backend.revision():
                backend.append(ACCOUNT, _events())
            assert list(backend.execute(_plan(), Count()).sizes) == SIZES
        finally:
            backend.close()


def test_keys_are_checked_before_a_store_is_opened(tmp_path: Path) -> None:
    assert checked_promoted(" a,b ,,a,") == ("a", "b")
    many = ",".join(f"key{n}" for n in range(PROMOTED_MAX + 1))
    location = location_of(f"//127.0.0.1:1?gateway={tmp_path / 'gateway'}")
    for keys, reason in (
        (many, "names 33 attributes; at most 32 are allowed"),
        ("k" * 257, "is longer than 256 bytes"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            ClickHouseBackend.open(location, settings=ClickHouseSettings(promoted_attributes=keys))
    assert not (tmp_path / "gateway").exists()
