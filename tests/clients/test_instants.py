"""Times written as one text, compared with the grammar of imports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milepost.grammar import TIME_MAX_MICROS, TIME_MIN_MICROS, Grammar
from milepost.instants import instant_of, text_of

TEN = datetime(2026, 11, 1, 10, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TWO = st.integers(0, 61).map("{:02}".format)
DAYS = st.tuples(
    st.sampled_from(["0000", "0001", "1600", "1969", "2024", "2026", "9999", "026", "12026"]),
    st.sampled_from(["-", "/", ""]),
    st.sampled_from(["00", "01", "02", "11", "12", "13", "2"]),
    st.sampled_from(["00", "01", "28", "29", "30", "31", "32", "7"]),
).map(lambda parts: parts[0] + parts[1].join(["", *parts[2:]]))
CLOCKS = st.tuples(TWO, TWO, TWO, st.text("0123456789", max_size=10)).flatmap(
    lambda c: st.sampled_from([f"{c[0]}:{c[1]}", f"{c[0]}:{c[1]}:{c[2]}", f"{c[0]}:{c[1]}:{c[2]}.{c[3]}"])
)
OFFSETS = st.sampled_from(["", "Z", "z", " Z", "UTC", " UTC", "utc", "  Z"]) | st.tuples(
    st.sampled_from(["+", "-", " +", " -"]), TWO, st.sampled_from(["", ":00", "00", ":30", "59", ":60", "3"])
).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", TEN.replace(hour=0)),
        ("2026-11-01 10:00", TEN),
        ("2026-11-01t10:00z", TEN),
        ("2026-11-01 12:00 +02", TEN),
        ("2026-11-01T08:30:00-0130", TEN),
        ("2026-11-01T08:30:00.0-01:30", TEN),
        ("2026-11-01 10:00:00.1234569UTC", TEN.replace(microsecond=123_456)),
        ("1969-12-31T23:59:59.9999999Z", EPOCH - timedelta(microseconds=1)),
    ],
)
def test_a_written_time_is_an_instant(text: str, expected: datetime) -> None:
    assert instant_of(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "1793527200", "2026-11-01T10", "2026-11-01\n", "7d"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time like 2026-11-01, .* not ") as raised:
        instant_of(text)
    assert str(raised.value).endswith(repr(text))


@pytest.mark.parametrize(
    "text", ["2026-02-29", "2026-11-01T24:00", "2026-11-01T10:00+25:00", "0001-01-01T00:00+01"]
)
def test_a_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text[:10]}.* is no time: "):
        instant_of(text)


@given(DAYS, st.sampled_from(["", "T", "t", " ", "_"]), CLOCKS | st.just(""), OFFSETS)
@example("2024-02-29", "T", "23:59:59.999999999", "-23:59")
@example("2026-11-01", "", "", "Z")
@example("00000000", "", "", "")
@example("9999-12-31", "T", "23:59", "-14")
def test_it_is_the_grammar_of_imports(day: str, between: str, clock: str, offset: str) -> None:
    text = f"{day}{between}{clock}{offset}"
    read = Grammar().times(pa.array([text]))
    try:
        found = instant_of(text)
    except ValueError:
        # Digits alone are a count there. Times outside of the years 1 to 9999 the service refuses.
        is_outside = not TIME_MIN_MICROS <= read.micros[0] <= TIME_MAX_MICROS
        assert read.bad[0] or is_outside or text.isdigit(), text
    else:
        assert not read.bad[0], text
        assert read.micros[0] == (found - EPOCH) // timedelta(microseconds=1)


@given(st.datetimes(timezones=st.timezones()))
def test_what_is_written_reads_back(moment: datetime) -> None:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert instant_of(text_of(moment)) == utc
