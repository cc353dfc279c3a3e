"""Row filters: fixtures/simplify_rows.txt, and the same rows pass before and after."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given

from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Exists, In, Where
from engine.plan.model import (
    EventMatch,
    EventSelection,
    Interval,
    Plan,
    RowFilter,
)
from engine.plan.passes.simplify_rows import simplify, simplify_rows
from engine.plan.resolve import resolve_where
from engine.plan.statistics import NoStatistics
from tests.engine.plan.passes.test_fixtures import FIXTURES
from tests.engine.plan.strategies import EVENTS, NOW, WHERE
from tests.engine.plan.worlds import Happened, passes

CONSTANTS: dict[str, RowFilter] = {
    "1": WhereAll(conditions=()),
    "0": WhereAny(conditions=()),
    "never": WhereAttribute(key="k", test=In(())),
}


def parse(text: str) -> RowFilter:
    found = _read(iter(re.findall(r"[()]|[^\s()]+", text)))
    assert found is not None
    return found


def _read(words: Iterator[str]) -> RowFilter | None:
    word = next(words)
    if word == ")":
        return None
    if word != "(":
        return CONSTANTS.get(word) or WhereAttribute(key=word, test=Exists())
    sign = next(words)
    conditions = []
    while (condition := _read(words)) is not None:
        conditions.append(condition)
    if sign == "!":
        return WhereNot(condition=conditions[0])
    return (WhereAll if sign == "&" else WhereAny)(conditions=tuple(conditions))


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in (FIXTURES / "simplify_rows.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ],
)
def test_filter_matches_its_fixture(line: str) -> None:
    before, after = map(parse, line.split(" => "))
    assert simplify(before) == after


def test_filter_that_passes_every_row_is_removed() -> None:
    step = EventMatch(
        selection=EventSelection(inputs=("i",), where=parse("(| a 1)")), intervals=(Interval(low=1.0),)
    )
    plan = simplify_rows(Plan(account="accounts/a", as_of=0, steps=(step,), roots=(0,)), NoStatistics())
    assert plan.steps == (
        EventMatch(selection=EventSelection(inputs=("i",)), intervals=(Interval(low=1.0),)),
    )


@given(WHERE, EVENTS)
def test_the_same_rows_pass(where: Where, event: Happened) -> None:
    resolved = resolve_where(where, NOW)
    assert passes(simplify(resolved), event) is passes(resolved, event)
