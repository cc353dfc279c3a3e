"""Intervals of counts: fixtures/tighten_counts.txt, and the same whole numbers lie in them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import Aggregate
from engine.criteria.ranges import hold_number, merged_intervals
from engine.plan.model import EventMatch, EventSelection, Interval, Plan
from engine.plan.passes.tighten_counts import tighten_counts, whole_numbers
from engine.plan.statistics import NoStatistics
from tests.engine.plan.passes.test_fixtures import FIXTURES

INTERVAL = re.compile(r"([(\[])([\d.]*?)\.\.([\d.]*)([)\]])")


def parse(text: str) -> EventMatch:
    aggregate, _, intervals = text.partition(" ")
    return EventMatch(
        selection=EventSelection(inputs=("i",)),
        aggregate=Aggregate(aggregate),
        intervals=tuple(
            Interval(
                low=float(low) if low else None,
                low_included=not low or opening == "[",
                high=float(high) if high else None,
                high_included=not high or closing == "]",
            )
            for opening, low, high, closing in INTERVAL.findall(intervals)
        ),
    )


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in (FIXTURES / "tighten_counts.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ],
)
def test_intervals_match_their_fixture(line: str) -> None:
    before, after = map(parse, line.split(" => "))
    plan = Plan(account="accounts/a", as_of=0, steps=(before,), roots=(0,))
    assert tighten_counts(plan, NoStatistics()).steps == (after,)


ENDS = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5])
INTERVALS = st.lists(
    st.builds(Interval, low=ENDS, low_included=st.booleans(), high=ENDS, high_included=st.booleans())
)


@given(INTERVALS)
def test_tightened_intervals_contain_the_same_counts(intervals: list[Interval]) -> None:
    merged = merged_intervals(intervals)
    whole = whole_numbers(merged)
    for count in range(1, 8):
        assert hold_number(whole, float(count)) is hold_number(merged, float(count))
    assert whole_numbers(whole) == whole
