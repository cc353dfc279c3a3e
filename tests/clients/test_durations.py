"""Durations written as text: on the command line and in documents."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from milepost.durations import duration_of, text_of

UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
COUNTS = st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 2_000), min_size=1)
PARTS = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from([*UNITS, "M", "y", "mo", "us", ""])), max_size=4
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("90m", timedelta(minutes=90)),
        ("2w", timedelta(days=14)),
        ("45s", timedelta(seconds=45)),
        ("20ms", timedelta(milliseconds=20)),
        ("1d12h", timedelta(hours=36)),
        ("1h30m", timedelta(minutes=90)),
        ("5m10ms", timedelta(minutes=5, milliseconds=10)),
        ("0d", timedelta(0)),
        ("0.5s", timedelta(milliseconds=500)),
        ("2592000s", timedelta(days=30)),
        ("-3s", timedelta(seconds=-3)),
    ],
)
def test_a_written_duration_is_a_length(text: str, expected: timedelta) -> None:
    assert duration_of(text).ToTimedelta() == expected


NONE = ["", "30", "d", "30 d", "30D", "1.5h", "12h1d", "1d1d", "-1d", "1M", "1y", "1d\n", "٣d"]


@pytest.mark.parametrize("text", [*NONE, "s", ".5s", "5.s", "1_0s", "0.1234567891s", "9" * 5_000 + "d"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration like 30d, 12h, 90m, 2w or 1d12h") as raised:
        duration_of(text)
    assert str(raised.value).endswith(f"not {text!r}")


@pytest.mark.parametrize("text", ["315576000001s", "-315576000001s", "315576000000.1s", "521786w"])
def test_what_no_duration_of_protobuf_holds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 10,000 years"):
        duration_of(text)


@given(COUNTS)
@example({"w": 2_000, "ms": 999})
def test_a_duration_is_the_sum_of_its_parts(counts: dict[str, int]) -> None:
    text = "".join(f"{counts[unit]}{unit}" for unit in UNITS if unit in counts)
    assert duration_of(text).ToTimedelta() == sum(
        (n * UNITS[unit] for unit, n in counts.items()), timedelta(0)
    )


@given(PARTS)
@example([(52, ""), (18, ""), (10, "w")])
def test_every_text_is_one_duration_or_none(parts: list[tuple[int, str]]) -> None:
    """The larger unit comes first, each at most once; there is at least one."""
    text = "".join(f"{count}{unit}" for count, unit in parts)
    order = [list(UNITS).index(unit) for _, unit in parts if unit in UNITS]
    # Digits of a part without a unit belong to the next one.
    is_written = re.fullmatch("([0-9]+[a-zA-Z]+)+", text) is not None
    is_ordered = order == sorted(set(order)) and all(unit in UNITS or unit == "" for _, unit in parts)
    if is_written and is_ordered:
        found = re.findall("([0-9]+)([a-zA-Z]+)", text)
        if sum(int(count) * UNITS[unit].total_seconds() for count, unit in found) > 315_576_000_000:
            with pytest.raises(ValueError, match="longer than 10,000 years"):
                duration_of(text)
        else:
            duration_of(text)
    else:
        with pytest.raises(ValueError, match="expected a duration"):
            duration_of(text)


@given(st.integers(-315_576_000_000, 315_576_000_000), st.integers(0, 999_999_999))
def test_the_form_of_proto3_json_is_read_as_such(seconds: int, nanos: int) -> None:
    length = Duration(seconds=seconds, nanos=nanos if seconds >= 0 else -nanos)
    if abs(seconds) == 315_576_000_000:
        length.nanos = 0
    assert duration_of(length.ToJsonString()) == length


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=400), "400d"),
        (timedelta(hours=36), "1d12h"),
        (timedelta(minutes=90, seconds=5), "1h30m5s"),
        (timedelta(milliseconds=1_500), "1.500s"),
        (timedelta(), "0s"),
    ],
)
def test_a_duration_is_written_as_people_read_it(length: timedelta, text: str) -> None:
    message = Duration()
    message.FromTimedelta(length)
    assert text_of(message) == text


@given(st.integers(0, 10**12), st.integers(0, 999_999))
def test_what_is_written_is_read_back(seconds: int, micros: int) -> None:
    length = Duration(seconds=seconds % 315_576_000_000, nanos=micros * 1_000)
    assert duration_of(text_of(length)) == length
