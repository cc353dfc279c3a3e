"""Instants and durations keep their microseconds, and invalid ones are refused."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros, Value
from milepost.v1 import value_pb2
from milepost.v1.audience_service_pb2 import CheckMembershipRequest
from service.convert.faults import ShapeFaults
from service.convert.times import (
    DURATION_SECONDS_MAX,
    duration,
    duration_message,
    micros_of,
    optional_instant,
    rfc3339,
    timestamp,
)
from service.convert.values import BadValue, value_message, value_of

DURATION_MAX = DURATION_SECONDS_MAX * 1_000_000


@given(st.integers(TIME_MIN_MICROS, TIME_MAX_MICROS))
def test_instant_round_trips(micros: Micros) -> None:
    assert micros_of(Timestamp.FromString(timestamp(micros).SerializeToString())) == micros


@given(st.integers(-DURATION_MAX, DURATION_MAX))
def test_duration_round_trips(micros: Micros) -> None:
    faults = ShapeFaults()
    assert duration(Duration.FromString(duration_message(micros).SerializeToString()), "d", faults) == micros
    faults.raise_if_any()


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"),
    [
        (0, 999, 0),
        (-1, 999_999_999, -1),
        (-62_135_596_800, 0, TIME_MIN_MICROS),
        (253_402_300_799, 999_999_999, TIME_MAX_MICROS),
        (-62_135_596_801, 0, None),
        (253_402_300_800, 0, None),
        (0, -1, None),
        (0, 1_000_000_000, None),
    ],
)
def test_extreme_instants(seconds: int, nanos: int, micros: Micros | None) -> None:
    assert micros_of(Timestamp(seconds=seconds, nanos=nanos)) == micros


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(1, -1), (-1, 1), (0, 1_000_000_000), (DURATION_SECONDS_MAX + 1, 0), (-DURATION_SECONDS_MAX - 1, 0)],
)
def test_a_malformed_duration_is_a_fault(seconds: int, nanos: int) -> None:
    faults = ShapeFaults()
    assert duration(Duration(seconds=seconds, nanos=nanos), "window.last", faults) == 0
    with pytest.raises(InvalidInput) as refusal:
        faults.raise_if_any()
    assert [violation.field for violation in refusal.value.violations] == ["window.last"]


def test_an_optional_instant() -> None:
    assert optional_instant(CheckMembershipRequest(), "as_of") is None
    assert optional_instant(CheckMembershipRequest(as_of=Timestamp(seconds=1)), "as_of") == 1_000_000
    with pytest.raises(InvalidInput, match="as_of"):
        optional_instant(CheckMembershipRequest(as_of=Timestamp(nanos=-1)), "as_of")


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_709_195_400_000_001, "2024-02-29T08:30:00.000001Z")],
)
def test_rfc3339(micros: Micros, text: str) -> None:
    assert rfc3339(micros) == text


values = st.one_of(
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.integers(TIME_MIN_MICROS, TIME_MAX_MICROS),
    st.lists(st.text(), max_size=3).map(tuple),
)


@given(values)
def test_value_round_trips_with_its_kind(value: Value) -> None:
    read = value_of(value_pb2.Value.FromString(value_message(value).SerializeToString()))
    assert (type(read), repr(read)) == (type(value), repr(value))


def test_value_without_a_kind_is_refused() -> None:
    with pytest.raises(BadValue, match="exactly one of"):
        value_of(value_pb2.Value())
    with pytest.raises(BadValue, match="years 1 to 9999"):
        value_of(value_pb2.Value(time_value=Timestamp(nanos=-1)))
