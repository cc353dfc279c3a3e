"""The grammar of values in text, inferred and with an explicit kind."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest

from milepost.grammar import Grammar, is_exact
from milepost.time_formats import TimeFormat
from milepost.v1.catalog_service_pb2 import VALUE_KIND_BOOL, VALUE_KIND_NUMBER, VALUE_KIND_TIME

MICROS = 1_000_000
TEN = int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * MICROS
MIDNIGHT = TEN - 10 * 3_600 * MICROS


def number(text: str, grammar: Grammar | None = None) -> float | str:
    """The number of a text, or the reason why it has none."""
    read = (grammar or Grammar()).numbers(pa.array([text]))
    if read.bad[0]:
        return "bad"
    return "inexact" if read.inexact[0] else "too large" if read.too_large[0] else float(read.values[0])


def time(text: str, grammar: Grammar | None = None) -> int | None:
    read = (grammar or Grammar()).times(pa.array([text]))
    return None if read.bad[0] or not read.has[0] else int(read.micros[0])


def fits(kind: Any, text: str, grammar: Grammar | None = None) -> bool:
    return bool((grammar or Grammar()).fits(kind, pa.array([text]))[0])


@pytest.mark.parametrize(
    ("text", "expected", "by_itself"),
    [
        ("1", 1.0, True),
        ("-0", 0.0, True),
        ("-2.5", -2.5, True),
        (".5", 0.5, True),
        ("5.", 5.0, True),
        ("1e-3", 0.001, True),
        ("1E3", 1000.0, True),
        ("0.1", 0.1, True),
        ("3.3333333333333333333", 10 / 3, True),
        ("9007199254740992", 2.0**53, True),
        ("9007199254740993", "inexact", True),
        ("-9007199254740993", "inexact", True),
        ("9007199254740993.0", "inexact", True),
        ("9007199254740993e0", "inexact", True),
        ("9007199254740994", "inexact", True),
        ("9007199254740994.0", 2.0**53 + 2, True),
        ("9324206919979722.0", 9324206919979722.0, True),
        ("1e23", 1e23, True),
        ("1e308", 1e308, True),
        ("1e309", "too large", True),
        ("9" * 400, "too large", True),
        ("1e-400", 0.0, True),
        ("007", 7.0, False),
        ("+5", 5.0, False),
        ("01234", 1234.0, False),
        ("0x1A2B", "bad", False),
        ("1,5", "bad", False),
        ("1_000", "bad", False),
        (" 1", "bad", False),
        ("1\n", "bad", False),
        ("inf", "bad", False),
        ("NaN", "bad", False),
        ("1e", "bad", False),
        (".", "bad", False),
        ("٣", "bad", False),
        ("", "bad", False),
    ],
)
def test_numbers(text: str, expected: float | str, by_itself: bool) -> None:
    assert number(text) == expected
    assert fits(VALUE_KIND_NUMBER, text) is by_itself
    if isinstance(expected, float):
        assert is_exact(text)


def test_numbers_with_a_decimal_comma() -> None:
    comma = Grammar(decimal_comma=True)
    assert [number(text, comma) for text in ("9,5", "-,5", "1,5e3", "7")] == [9.5, -0.5, 1500.0, 7.0]
    assert [number(text, comma) for text in ("9.5", "1.234,5", "9,5,1")] == ["bad"] * 3
    assert number("9007199254740993,0", comma) == "inexact"


def test_bools() -> None:
    texts = ["true", "FALSE", "True", "yes", "1", "", "true "]
    true, bad = Grammar().bools(pa.array(texts))
    assert true.tolist() == [True, False, True, False, False, False, False]
    assert bad.tolist() == [False, False, False, True, True, True, True]
    assert [fits(VALUE_KIND_BOOL, text) for text in texts] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", MIDNIGHT),
        ("2026-11-01 10:00", TEN),
        ("2026-11-01T10:00", TEN),
        ("2026-11-01T10:00Z", TEN),
        ("2026-11-01t10:00z", TEN),
        ("2026-11-01 10:00 UTC", TEN),
        ("2026-11-01 12:00+0200", TEN),
        ("2026-11-01 12:00 +02", TEN),
        ("2026-11-01 12:00 +02:00", TEN),
        ("2026-11-01T08:30:00-0130", TEN),
        ("2026-11-01T08:30:00.0-01:30", TEN),
        ("2026-11-01T10:00:00.5+00", TEN + MICROS // 2),
        ("2026-11-01T10:00:00.5 Z", TEN + MICROS // 2),
        ("2026-11-01 10:00:00.123456789UTC", TEN + 123_456),
        ("2026-11-01 24:00", None),
        ("2026-11-01 10:60", None),
        ("2026-11-31 10:00", None),
        ("2026-11-01 10", None),
        ("2026-11-01 10:00 CET", None),
        ("2026-11-01 10:00+1", None),
        ("2026-11-01  10:00", None),
        ("2026-11-01 10:00+0060", None),
        ("01.11.2026", None),
    ],
)
def test_written_times(text: str, expected: int | None) -> None:
    assert time(text) == expected
    assert fits(VALUE_KIND_TIME, text) is (expected is not None)


def test_times_of_mixed_forms_do_not_affect_each_other() -> None:
    texts = [
        "2026-11-01 10:00",
        None,
        "x",
        "2026-11-01T12:00:00+02:00",
        "2026-11-01",
        "7",
        "2026-11-01 10:00+0000",
    ]
    read = Grammar().times(pa.array(texts))
    assert read.has.tolist() == [True, False, True, True, True, True, True]
    assert read.bad.tolist() == [False, False, True, False, False, False, False]
    assert read.micros.tolist() == [TEN, 0, 0, TEN, MIDNIGHT, 7, TEN]


@pytest.mark.parametrize("unit_nanos", [1, 1_000, 1_000_000, 1_000_000_000])
def test_counted_times_round_down(unit_nanos: int) -> None:
    grammar = Grammar(unit_nanos=unit_nanos)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    texts = [f"{rng.choice(['-', '', '+'])}{rng.randrange(10**10)}" for _ in range(100)]
    texts += [f"{text}.{rng.randrange(10 ** rng.randrange(1, 9))}" for text in texts]
    texts += ["-0.000000001", "-1.0", "0.999999999"]
    read = grammar.times(pa.array(texts))
    assert not read.bad.any()
    # A fraction of a nanosecond only tells on which side of it the time lies.
    assert read.micros.tolist() == [int(Fraction(text) * unit_nanos / 1_000 // 1) for text in texts]
    assert not any(fits(VALUE_KIND_TIME, text, grammar) for text in texts)


@pytest.mark.parametrize(
    ("format_", "text", "expected"),
    [
        ("%d.%m.%Y %H:%M", "01.11.2026 10:00", TEN),
        ("%d.%m.%Y %H:%M", "1.11.2026 10:0", TEN),
        ("%d.%m.%Y %H:%M", "31.11.2026 10:00", None),
        ("%d.%m.%Y %H:%M", "29.02.2024 00:00", 1_709_164_800 * MICROS),
        ("%d.%m.%Y %H:%M", "29.02.2023 00:00", None),
        ("%d.%m.%Y", "00.11.2026", None),
        ("%m/%d/%y %I:%M:%S %p", "11/01/26 10:00:00 AM", TEN),
        ("%m/%d/%y %I:%M:%S %p", "11/01/26 10:00:00 pm", TEN + 12 * 3_600 * MICROS),
        ("%m/%d/%y %I:%M:%S %p", "11/01/26 12:00:00 AM", MIDNIGHT),
        ("%m/%d/%y %I:%M:%S %p", "11/01/26 13:00:00 AM", None),
        ("%d/%b/%Y:%H:%M:%S %z", "01/Nov/2026:12:00:00 +0200", TEN),
        ("%a, %d %B %Y %T", "Sun, 1 november 2026 10:00:00", TEN),
        ("%Y%m%d%H%M%S", "20261101100000", TEN),
        ("%F %R:%S.%f", "2026-11-01 10:00:00.25", TEN + MICROS // 4),
        ("%D 100%%", "11/01/26 100%", MIDNIGHT),
        ("%y-%m-%d", "69-01-01", -31_536_000 * MICROS),
        ("%d.%m.%Y", "2026-11-01", MIDNIGHT),
    ],
)
def test_a_time_format(format_: str, text: str, expected: int | None) -> None:
    grammar = Grammar(time_format=format_)
    assert time(text, grammar) == expected
    assert fits(VALUE_KIND_TIME, text, grammar) is (expected is not None)


@pytest.mark.parametrize(
    ("format_", "message"),
    [
        ("%d.%m", "must have year, month and day"),
        ("%Y-%m-%d %Q", "has %Q; known are"),
        ("%Y-%m-%d %", "has %; known are"),
        ("%Y-%m-%d %m", "has %m more than once"),
        ("%Y-%m-%d %I:%M", "must have %I and %p together"),
    ],
)
def test_invalid_time_formats_are_refused(format_: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeFormat(format_)
    with pytest.raises(ValueError, match=message):
        Grammar(time_format=format_)


def test_random_times_and_formats_agree_with_strptime() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for format_ in ("%d.%m.%Y %H:%M:%S", "%b %d %Y %I:%M %p", "%Y%m%d %H%M%S", "%d/%b/%Y:%H:%M:%S %z"):
        times = [datetime.fromtimestamp(rng.randrange(-(2**31), 2**33), UTC) for _ in range(200)]
        texts = [each.strftime(format_) for each in times]
        own = [datetime.strptime(text, format_).replace(tzinfo=UTC) for text in texts]
        read, known = TimeFormat(format_).micros(pa.array(texts))
        assert known.all()
        assert read.tolist() == [round(each.timestamp()) * MICROS for each in own]


PIECES = [
    *"0123456789.+-eExX ,:TZz",
    "inf",
    "nan",
    "00",
    "2026-11-01",
    "T10:00:00Z",
    "10:00",
    " 24:00",
    "+0100",
    "+01",
]
SOUND = [
    "12",
    "-2.5",
    "1e3",
    "2026-11-01T10:00:00Z",
    "2026-11-01 10:00:00.123456+01:00",
    "2026-11-01T10:00:00-0130",
]
"""Columns of these forms alone take the fast path."""


def random_text(rng: random.Random) -> str:
    text = rng.choice([*SOUND, ""])
    if rng.random() < 0.5:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at + rng.randrange(3) :]
    return text


def test_value_of_a_text_does_not_depend_on_its_column() -> None:
    """The fast path through Arrow must not accept more than the grammar."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    grammar = Grammar()
    texts = [*PIECES, *SOUND, *(random_text(rng) for _ in range(120))]
    # Beside texts of no form, each text takes the slow path.
    beside = pa.array([*texts, "-"])
    numbers, times = grammar.numbers(beside), grammar.times(beside)
    fitting = {kind: grammar.fits(kind, beside) for kind in (VALUE_KIND_NUMBER, VALUE_KIND_TIME)}
    for place, text in enumerate(texts):
        for kind, fit in fitting.items():
            assert fits(kind, text) == fit[place], (kind, text)
        flawed = "bad" if numbers.bad[place] else "inexact" if numbers.inexact[place] else None
        flawed = flawed or ("too large" if numbers.too_large[place] else None)
        if text:
            assert number(text) == (flawed or numbers.values[place]), text
        assert time(text) == (
            int(times.micros[place]) if times.has[place] and not times.bad[place] else None
        ), text


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_plain_numbers_in_slices_with_nulls(type_: Any) -> None:
    texts = pa.array(["x", None, "007", "0", "+1", "-0.5", None, "-05", "12", ".5", None], type_)[1:]
    found = Grammar().fits(VALUE_KIND_NUMBER, texts).tolist()
    assert found == [False, False, True, False, True, False, False, True, True, False]
    assert Grammar().fits(VALUE_KIND_NUMBER, texts[-1:]).tolist() == [False]
    assert Grammar().numbers(texts).values[[1, 2, 3, 4, 6, 7, 8]].tolist() == [7, 0, 1, -0.5, -5, 12, 0.5]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_nulls_among_times_are_missing_not_bad(type_: Any) -> None:
    texts = pa.array([None, "2026-11-01T10:00:00Z", None, "2026-11-01T10:00:00+01:00"], type_)
    found = Grammar().times(texts)
    assert found.has.tolist() == [False, True, False, True]
    assert not found.bad.any()
    assert found.micros[[1, 3]].tolist() == [1_793_527_200_000_000, 1_793_523_600_000_000]
