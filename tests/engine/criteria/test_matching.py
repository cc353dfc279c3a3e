"""Properties of all matchers, and cases too long for a fixture file."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import Equals, Exists, In, Semver, Text
from engine.criteria.operators import InstantRange, NumberRange, ResolvedTest, matcher_of
from engine.criteria.operators.place import distance_meters, parse_place
from engine.criteria.operators.text import BadPattern
from engine.criteria.operators.version import BadVersion, precedence
from engine.criteria.ranges import ALL_NUMBERS, ALL_TIME, Interval, TimeRange, hold_instant, hold_number
from engine.values import Kind, Value, kind_of

AT_MOST_NINE = NumberRange((Interval(high=9.0),))
FROM_ONE_TO_TWO = InstantRange((TimeRange(1, 2),))


def test_numbers_in_a_version_have_any_length() -> None:
    assert matcher_of(Semver("greater_than", "0.0.9")).passes("0.0." + "9" * 5_000)


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.sampled_from(["", "a", "B", "ß", "1", "true"]),
    st.integers(-2, 3).map(float),
    st.booleans(),
    st.integers(-2, 3),
    st.lists(st.sampled_from(["a", "B", "1"]), max_size=2).map(tuple),
)
TESTS: st.SearchStrategy[ResolvedTest] = st.one_of(
    st.just(Exists()),
    st.builds(Equals, VALUES, st.booleans()),
    st.builds(In, st.lists(VALUES, max_size=4).map(tuple), st.booleans()),
    st.just(AT_MOST_NINE),
    st.just(FROM_ONE_TO_TWO),
    st.builds(
        Text, st.sampled_from(["contains", "starts_with", "ends_with", "glob", "matches"]), st.just("a")
    ),
)


@given(TESTS, VALUES)
def test_kinds_numbers_and_instants_agree_with_passes(test: ResolvedTest, value: Value) -> None:
    matcher = matcher_of(test)
    passes = matcher.passes(value)
    if kind_of(value) not in matcher.kinds:
        assert not passes
    if type(value) is float:
        assert hold_number(matcher.numbers, value) is passes
    if type(value) is int:
        assert hold_instant(matcher.instants, value) is passes


def test_points_become_sorted_intervals_and_neighbouring_instants_one_range() -> None:
    matcher = matcher_of(In((3.0, 1.0, 3.0, 7, 6, 9, True)))
    assert matcher.numbers == (Interval(low=1.0, high=1.0), Interval(low=3.0, high=3.0))
    assert matcher.instants == (TimeRange(6, 8), TimeRange(9, 10))
    assert matcher.kinds == {Kind.NUMBER, Kind.TIME, Kind.BOOL}
    assert matcher_of(Exists()).numbers == (ALL_NUMBERS,)
    assert matcher_of(Exists()).instants == (ALL_TIME,)


def test_equal_tests_are_compiled_once_and_similar_ones_separately() -> None:
    assert matcher_of(Equals("a")) is matcher_of(Equals("a"))
    assert matcher_of(Equals(1.0)).kinds == {Kind.NUMBER}
    assert matcher_of(Equals(True)).kinds == {Kind.BOOL}
    assert matcher_of(Equals(1)).kinds == {Kind.TIME}


def test_versions_sort_by_the_specification() -> None:
    # The chain of section 11 of Semantic Versioning 2.0.0, and neighbours beyond it.
    ordered = [
        "1.0.0-0", "1.0.0-1", "1.0.0-9", "1.0.0-10", "1.0.0--", "1.0.0-alpha", "1.0.0-alpha.1",
        "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1",
        "1.2.0", "1.10.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0",
    ]  # fmt: skip
    keys = [precedence(version) for version in ordered]
    assert None not in keys
    assert sorted(keys, key=lambda key: key or ((), False, ())) == keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("rest", ["", "-rc.1", "-0+b", "+2026.1", "-a-b"])
def test_missing_parts_of_a_version_are_zero(rest: str) -> None:
    for short, long in (("10.1", "10.1.0"), ("10", "10.0.0"), ("0", "0.0.0"), ("7", "7.0")):
        assert precedence(short + rest) == precedence(long + rest) is not None
    assert precedence("10.1" + rest) != precedence("10.1.1" + rest)


@pytest.mark.parametrize(
    "text",
    [
        *("1.2.3.4", "01.2.3", "1.02", "1.", ".1", "1..2", "1.2.", "1,2", "1.x", "\u0661", ""),
        *("v1.2.3", "v1", "V1.2", " 1.2", "1.2 ", "1. 2", "1-", "1+", "-1", "+1"),
        *("1.2.3-01", "1.2.3-", "1.2.3-a..b", "1.2.3+"),
    ],
)
def test_invalid_version_has_no_precedence(text: str) -> None:
    assert precedence(text) is None
    with pytest.raises(BadVersion, match="not a version"):
        matcher_of(Semver("equals", text))


def test_a_bad_expression_is_refused_with_the_message_of_re2() -> None:
    with pytest.raises(BadPattern, match=r"missing \): a\(b"):
        matcher_of(Text("matches", "a(b"))


def test_backtracking_expression_takes_linear_time() -> None:
    matcher = matcher_of(Text("matches", "^(a+)+$"))
    glob = matcher_of(Text("glob", "*a" * 50 + "b"))
    value = "a" * 4_096 + "c"
    started = time.perf_counter()
    assert not matcher.passes(value)
    assert not glob.passes(value)
    # A backtracking engine would need about 2^4096 steps; a minute is far from either side.
    assert time.perf_counter() - started < 60


def test_distances_on_the_great_circle() -> None:
    # One degree of a great circle is the circumference over 360; a pole is 90 degrees away from the equator.
    degree = 111_195.0802335329
    assert distance_meters((0, 0), (0, 1)) == pytest.approx(degree, abs=1e-6)
    assert distance_meters((0, 0), (90, 17)) == pytest.approx(90 * degree, abs=1e-3)
    assert distance_meters((12, 34), (-12, -146)) == pytest.approx(180 * degree, abs=1e-3)
    assert parse_place("+.5,-1.") == (0.5, -1.0)
