"""Conversion of each Arrow type into the engine's columns, and rejected rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.criteria.model import EventType
from engine.errors import InvalidInput
from engine.event_columns import EventColumns
from engine.values import Kind, Value
from milepost.v1 import ingest_service_pb2 as pb
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
)
from service.arrow import texts
from service.arrow.columns import Converted, convert
from service.arrow.layout import layout_of

SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND


def converted(columns: dict[str, Any], count: int = 0, **header: Any) -> Converted[EventColumns]:
    """Converts columns, adding missing user ids, names and times."""
    rows = count or len(next(iter(columns.values())))
    plain = {
        "user_id": pa.array([f"u{row}" for row in range(rows)]),
        "name": pa.array(["buy"] * rows),
        "time": pa.array([NOON] * rows, pa.timestamp("us", "UTC")),
    }
    batch = pa.RecordBatch.from_pydict({**plain, **columns})
    return convert(batch, layout_of(pb.ImportHeader(input="i", **header), batch.schema.names))


def values(made: Converted[EventColumns], name: str) -> list[tuple[Kind, Value] | None]:
    """The value of an attribute for each row that was kept."""
    found: list[tuple[Kind, Value] | None] = [None] * len(made.columns)
    for column in made.columns.attributes:
        if column.name != name:
            continue
        data = column.data.tolist()
        rows = range(len(found)) if column.rows is None else column.rows.tolist()
        for row, item in zip(rows, data, strict=True):
            assert found[row] is None
            coded = column.kind not in (Kind.NUMBER, Kind.TIME)
            found[row] = column.kind, column.entries[item] if coded else item
    return found


def faults(made: Converted[EventColumns]) -> list[tuple[str, str, str, list[int]]]:
    return [(each.reason, each.field, each.description, each.rows.tolist()) for each in made.faults]


def user_ids(made: Converted[EventColumns]) -> list[str]:
    column = made.columns.user_ids
    return [column.entries[code] for code in column.codes.tolist()]


S, N, B, T, L = Kind.STRING, Kind.NUMBER, Kind.BOOL, Kind.TIME, Kind.LIST
UNION = pa.UnionArray.from_dense(
    pa.array([0, 1, 0, 2], pa.int8()),
    pa.array([0, 0, 1, 0], pa.int32()),
    [pa.array(["a", None]), pa.array([1.5]), pa.array([True])],
)
MANY_ENTRIES = [(S, "x"), None, (S, "y"), (S, "x")]
OF_VIEWS = pa.UnionArray.from_sparse(
    pa.array([0, 1], pa.int8()), [pa.array(["a", "no"], pa.string_view()), pa.array([7, 8], pa.int64())]
)
SPARSE = pa.UnionArray.from_sparse(
    pa.array([0, 1], pa.int8()), [pa.array(["a", "no"]), pa.array([7, 8], pa.int64())]
)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", "", None, "a"]), [(S, "a"), (S, ""), None, (S, "a")]),
        (pa.array(["a", "ü"], pa.large_string()), [(S, "a"), (S, "ü")]),
        (pa.array(["a", "ü"], pa.string_view()), [(S, "a"), (S, "ü")]),
        (pa.array(["b", None, "a"]).dictionary_encode(), [(S, "b"), None, (S, "a")]),
        (pa.DictionaryArray.from_arrays([0, 1, 2], ["x", "x", None]), [(S, "x"), (S, "x"), None]),
        (pa.DictionaryArray.from_arrays([1], ["x", "y", "z"]), [(S, "y")]),
        (pa.DictionaryArray.from_arrays([3, None, 1, 0], ["x", "y", None, "x", "z"]), MANY_ENTRIES),
        (pa.array([1, None, -7], pa.int8()), [(N, 1.0), None, (N, -7.0)]),
        (pa.array([1 << 53, -(1 << 53)], pa.int64()), [(N, 2.0**53), (N, -(2.0**53))]),
        (pa.array([2, 5], pa.uint64()), [(N, 2.0), (N, 5.0)]),
        (pa.array([0.1, None], pa.float64()), [(N, 0.1), None]),
        (pa.array([0.5], pa.float32()), [(N, 0.5)]),
        (pa.array(np.array([0.25], np.float16)), [(N, 0.25)]),
        (pa.array([Decimal("0.30"), None], pa.decimal128(20, 2)), [(N, 0.3), None]),
        (pa.array([Decimal("12345.678901")], pa.decimal256(40, 6)), [(N, 12345.678901)]),
        (pa.array([3, 3]).dictionary_encode(), [(N, 3.0), (N, 3.0)]),
        (pa.array([True, None, False]), [(B, True), None, (B, False)]),
        (pa.array([1, None], pa.timestamp("s")), [(T, SECOND), None]),
        (pa.array([-1], pa.timestamp("ns", "Europe/Berlin")), [(T, -1)]),
        (pa.array([1], pa.timestamp("ms")), [(T, 1_000)]),
        (pa.array([dt.date(1970, 1, 2)]), [(T, 86_400 * SECOND)]),
        (pa.array([1_000], pa.date64()), [(T, SECOND)]),
        (pa.array([["a", "b"], [], None, ["a", "b"]]), [(L, ("a", "b")), (L, ()), None, (L, ("a", "b"))]),
        (pa.array([["x"], ["a"], None])[1:], [(L, ("a",)), None]),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), [(L, ("a", "b")), None]),
        (pa.array([["a"]], pa.large_list(pa.large_string())), [(L, ("a",))]),
        (pa.nulls(2), [None, None]),
        (UNION, [(S, "a"), (N, 1.5), None, (B, True)]),
        (UNION[1:], [(N, 1.5), None, (B, True)]),
        (SPARSE, [(S, "a"), (N, 8.0)]),
        (OF_VIEWS, [(S, "a"), (N, 8.0)]),
    ],
    ids=lambda each: str(each.type).replace(" ", "") if isinstance(each, pa.Array) else "",
)
def test_an_attribute_of_each_type(array: Any, expected: list[tuple[Kind, Value] | None]) -> None:
    made = converted({"x": array})
    assert values(made, "x") == expected
    assert faults(made) == []
    assert made.rows is None
    # The same values as a part of a longer array.
    around = pa.concat_arrays([array, array, array])
    assert values(converted({"x": around[len(array) : 2 * len(array)]}), "x") == expected


@pytest.mark.parametrize(
    ("kind", "array", "expected", "description"),
    [
        (
            VALUE_KIND_NUMBER,
            pa.array(["1", "-2.5e1", ".5", "", "1,5", "0x1", "inf", "nan", " 1", None]),
            {0: 1.0, 1: -25.0, 2: 0.5},
            "is not a number",
        ),
        (
            VALUE_KIND_BOOL,
            pa.array(["true", "FALSE", "yes", None]),
            {0: True, 1: False},
            "must be true or false",
        ),
        (VALUE_KIND_TIME, pa.array(["1970-01-02", "soon", None]), {0: 86_400 * SECOND}, "is not a time"),
        (VALUE_KIND_TIME, pa.array(["1970-01-02", None], pa.string_view()), {0: 86_400 * SECOND}, ""),
        (VALUE_KIND_NUMBER, pa.array(["1", "x"], pa.string_view()), {0: 1.0}, "is not a number"),
        (VALUE_KIND_TIME, pa.array([7, None]), {0: 7}, ""),
        (VALUE_KIND_STRING, pa.array([12, None]), {0: "12"}, ""),
        (VALUE_KIND_STRING, pa.array([True, None]), {0: "true"}, ""),
        (VALUE_KIND_STRING, pa.array([0.5]), {0: "0.5"}, ""),
        (VALUE_KIND_STRING, pa.array([12, 12]).dictionary_encode(), {0: "12", 1: "12"}, ""),
        (VALUE_KIND_BOOL, pa.array([True]), {0: True}, ""),
    ],
)
def test_attribute_read_as_an_explicit_kind(
    kind: int, array: Any, expected: dict[int, Value], description: str
) -> None:
    made = converted({"x": array}, attribute_kinds={"x": kind})
    bad = [row for row, each in enumerate(array.to_pylist()) if each is not None and row not in expected]
    assert faults(made) == ([("INVALID_VALUE", "attributes['x']", description, bad)] if bad else [])
    kept = [row for row in range(len(array)) if row not in bad]
    found = [None if each is None else each[1] for each in values(made, "x")]
    assert dict(zip(kept, found, strict=True)) == {row: expected.get(row) for row in kept}
    assert all(each is None or each[0] == kind for each in values(made, "x"))


def test_inexact_integers_reject_their_rows() -> None:
    made = converted({"x": pa.array([1, (1 << 53) + 1, -(1 << 60), None])})
    assert values(made, "x") == [(N, 1.0), None]
    inexact = "is an integer beyond 2^53, which no number holds exactly"
    assert faults(made) == [("INVALID_VALUE", "attributes['x']", inexact, [1, 2])]
    assert user_ids(made) == ["u0", "u3"]
    assert made.places(np.array([0, 1])).tolist() == [0, 3]


def test_null_in_a_list_rejects_its_row() -> None:
    made = converted({"x": pa.array([["a", None], ["b"], None])})
    assert values(made, "x") == [(L, ("b",)), None]
    assert faults(made) == [("INVALID_VALUE", "attributes['x']", "has a null element", [0])]


def test_long_string_shared_by_rows_is_not_materialised() -> None:
    """More entries than rows; written out they would be two gigabytes."""
    texts_ = ["a" * 1_000_000, *(f"{each}" for each in range(2_000))]
    array = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), texts_)
    before = pa.total_allocated_bytes()
    made = converted({"x": array})
    assert {value and len(str(value[1])) for value in values(made, "x")} == {1_000_000}
    assert pa.total_allocated_bytes() - before < 100_000_000
    # Strings read as numbers or times must be valid.
    for kind in (VALUE_KIND_NUMBER, VALUE_KIND_TIME):
        with pytest.raises(InvalidInput) as refusal:
            converted({"x": array}, attribute_kinds={"x": kind})
        assert refusal.value.reason == "BATCH_TOO_LARGE"
        assert refusal.value.metadata["actual"] == "2000000000"


TIMES_IN_TEXT = {
    "2023-11-14T22:13:20Z": NOON,
    "2023-11-14 22:13:20.5+00:00": NOON + SECOND // 2,
    "2023-11-15t00:13:20.000001+02:00": NOON + 1,
    "2023-11-14T22:13:20.123456789z": NOON + 123_456,
    "2023-11-14T22:13:20": NOON,
    "1969-12-31T23:59:59.9999999Z": -1,
    "0001-01-01T00:00:00Z": -62_135_596_800 * SECOND,
    "9999-12-31T23:59:59.999999Z": 253_402_300_800 * SECOND - 1,
    "2023-11-14": 1_699_920_000 * SECOND,
    "-12": -12,
    "1700000000000000": NOON,
}
NO_TIMES = [
    "2023-02-30T00:00:00Z",
    "2023-11-14T25:00:00Z",
    "14.11.2023",
    "now",
    "20231114T000000Z",
    "1e9",
    " ",
]


def test_times_in_text() -> None:
    texts_ = [*TIMES_IN_TEXT, *NO_TIMES, "", None]
    made = converted({"time": pa.array(texts_)})
    assert made.columns.times.tolist() == list(TIMES_IN_TEXT.values())
    assert faults(made) == [
        ("REQUIRED", "time", "is required", [len(texts_) - 2, len(texts_) - 1]),
        (
            "INVALID_VALUE",
            "time",
            "is not a time",
            [row for row, each in enumerate(texts_) if each in NO_TIMES],
        ),
    ]


@pytest.mark.parametrize("text", TIMES_IN_TEXT)
def test_time_in_text_does_not_depend_on_other_rows(text: str) -> None:
    # Alone, the text may take Arrow's fast path, which rejects columns of mixed forms.
    assert converted({"time": pa.array([text])}).columns.times.tolist() == [TIMES_IN_TEXT[text]]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (pb.TIME_UNIT_UNSPECIFIED, 3_000),
        (pb.TIME_UNIT_SECONDS, 3_000 * SECOND),
        (pb.TIME_UNIT_MILLISECONDS, 3_000_000),
        (pb.TIME_UNIT_MICROSECONDS, 3_000),
        (pb.TIME_UNIT_NANOSECONDS, 3),
    ],
)
@pytest.mark.parametrize("type_", [pa.int32(), pa.int64(), pa.uint64(), pa.string()])
def test_integers_as_times(type_: Any, unit: int, expected: int) -> None:
    made = converted({"time": pa.array([3_000]).cast(type_)}, time_unit=unit)
    assert made.columns.times.tolist() == [expected]


def test_times_out_of_range_do_not_wrap_around() -> None:
    far = [9_000_000_000_000_000_000, -9_000_000_000_000_000_000]
    made = converted({"time": pa.array(far)}, time_unit=pb.TIME_UNIT_SECONDS)
    late, early = made.columns.times.tolist()
    assert late >= 253_402_300_800 * SECOND
    assert early < -62_135_596_800 * SECOND


def test_sliced_batch_is_converted_correctly() -> None:
    user_ids_ = pa.array(["a", None, "b", "", None, "c"])
    times = pa.array([None, 1, None, 3, 4, 5], pa.timestamp("ms"))
    flags = pa.array([None, True, False, None, True, False])
    whole = {"user_id": user_ids_, "time": times, "event_id": pa.array([1, None, 3, 4, None, 6]), "x": flags}
    made = converted({name: array[1:5] for name, array in whole.items()})
    assert user_ids(made) == ["", "", ""]
    assert made.columns.times.tolist() == [1_000, 3_000, 4_000]
    assert made.columns.event_ids == ["", "4", ""]
    assert values(made, "x") == [(B, True), None, (B, True)]
    assert faults(made) == [("REQUIRED", "time", "is required", [1])]


@pytest.mark.parametrize("share", [0.0, texts.DISTINCT_SHARE], ids=["repeated or not", "as by default"])
@pytest.mark.parametrize("array", [pa.array(["b", "a", "c"]), pa.array(["b", "a", "b"])], ids=["no", "yes"])
def test_strings_do_not_depend_on_deduplication(
    array: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "DISTINCT_SHARE", share)
    assert user_ids(converted({"user_id": array})) == array.to_pylist()


def test_user_ids_may_be_integers_and_missing_ones_are_empty() -> None:
    made = converted({"user_id": pa.array([7, None, -1, 7]), "event_id": pa.array([None, 9, None, 1])})
    assert user_ids(made) == ["7", "", "-1", "7"]
    assert made.columns.event_ids == ["", "9", "", "1"]


def test_defaults_replace_nulls_and_empty_strings() -> None:
    made = converted(
        {
            "name": pa.array(["a", None, ""]),
            "where": pa.array([None, "j", ""]),
            "what": pa.array(["screen_view", None, "EVENT_TYPE_SESSION"]),
        },
        default_name="d",
        default_type=3,
        input_column="where",
        type_column="what",
    )
    columns = made.columns
    assert [columns.names.entries[code] for code in columns.names.codes.tolist()] == ["a", "d", "d"]
    assert [columns.inputs.entries[code] for code in columns.inputs.codes.tolist()] == ["i", "j", "i"]
    assert columns.types.tolist() == [EventType.SCREEN_VIEW, EventType.COMMERCE, EventType.SESSION]
    assert columns.attributes == []
    assert columns.event_ids is None


def test_types_may_be_numbers_and_unknown_ones_reject_their_rows() -> None:
    made = converted({"type": pa.array([0, 5, 6, None, -1])}, type_column="type")
    assert made.columns.types.tolist() == [EventType.CUSTOM, EventType.LIFECYCLE, EventType.CUSTOM]
    assert faults(made) == [("INVALID_VALUE", "type", "is not an event type", [2, 4])]
    made = converted({"type": pa.array(["custom", "else"])}, type_column="type")
    assert faults(made) == [("INVALID_VALUE", "type", "is not an event type", [1])]


def test_row_is_rejected_once_for_its_first_fault() -> None:
    made = converted({"time": pa.array([None, "x", "1"]), "n": pa.array([1 << 60, 1 << 60, 1 << 60])})
    assert [(reason, field, rows) for reason, field, _, rows in faults(made)] == [
        ("REQUIRED", "time", [0]),
        ("INVALID_VALUE", "time", [1]),
        ("INVALID_VALUE", "attributes['n']", [2]),
    ]
    assert len(made.columns) == 0


@pytest.mark.parametrize(
    ("columns", "header", "violations"),
    [
        (
            {"x": pa.array([b"a"])},
            {},
            {"arrow['x']": "has the type binary; it must be strings, numbers, bools"},
        ),
        ({"x": pa.array([{"a": 1}])}, {}, {"arrow['x']": "has the type struct<a: int64>; it must be"}),
        ({"x": pa.array([[1]])}, {}, {"arrow['x']": "has the type list<item: int64>; it must be"}),
        ({"x": pa.array([1], pa.duration("s"))}, {}, {"arrow['x']": "has the type duration[s]; it must be"}),
        (
            {"user_id": pa.array([1.5])},
            {},
            {"arrow['user_id']": "has the type double; it must be strings or int"},
        ),
        (
            {"time": pa.array([True])},
            {},
            {"arrow['time']": "has the type bool; it must be timestamps, dates, numbers or"},
        ),
        (
            {"event_id": pa.array([True])},
            {},
            {"arrow['event_id']": "has the type bool; it must be strings or"},
        ),
        (
            {"k": pa.array([1.5])},
            {"type_column": "k"},
            {"arrow['k']": "has the type double; it must be the names"},
        ),
        (
            {
                "x": pa.UnionArray.from_sparse(
                    pa.array([0], pa.int8()), [pa.array(["a"]), pa.array([1], pa.duration("s"))]
                )
            },
            {},
            {"arrow['x']": "has the type duration[s]; it must be"},
        ),
        (
            {"x": pa.array([1])},
            {"user_id_column": "u", "type_column": "t", "attribute_kinds": {"y": VALUE_KIND_NUMBER, "x": 9}},
            {
                "header.user_id_column": "the stream has no column 'u'; it has 'user_id', 'name', 'time'",
                "header.type_column": "the stream has no column 't'",
                "header.attribute_kinds['x']": "is not a value kind",
                "header.attribute_kinds['y']": "the stream has no attribute of this name",
            },
        ),
        (
            {"x": pa.array([1])},
            {"default_type": 17, "time_unit": 17},
            {"header.default_type": "is not an event type", "header.time_unit": "is not a time unit"},
        ),
    ],
)
def test_invalid_columns_are_reported(
    columns: dict[str, Any], header: dict[str, Any], violations: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        converted(columns, **header)
    found = {each.field: each.description for each in refusal.value.violations}
    assert found.keys() == violations.keys()
    for field, start in violations.items():
        assert found[field].startswith(start)


def test_type_that_cannot_be_the_kind_rejects_rows() -> None:
    """A column of an NDJSON file may have a different type in each batch: the import continues."""
    flags = pa.array([True, None])
    found = faults(converted({"x": flags}, attribute_kinds={"x": VALUE_KIND_NUMBER}))
    assert found == [
        ("INVALID_VALUE", "attributes['x']", "has the type bool; it must be numbers or strings", [0])
    ]
    mixed = pa.UnionArray.from_sparse(
        pa.array([0, 1, 1], pa.int8()), [pa.array([True] * 3), pa.array(["", "7", "x"])]
    )
    made = converted({"x": mixed}, attribute_kinds={"x": VALUE_KIND_NUMBER})
    assert [(rows, description) for _, _, description, rows in faults(made)] == [
        ([0], "has the type bool; it must be numbers or strings"),
        ([2], "is not a number"),
    ]
    assert values(made, "x") == [(N, 7.0)]
    lists = pa.array([["a"], None])
    found = faults(converted({"x": lists}, attribute_kinds={"x": VALUE_KIND_STRING}))
    assert [(rows, description) for _, _, description, rows in found] == [
        ([0], "has the type list<item: string>; it must be strings, numbers, bools, timestamps or dates")
    ]


def test_required_columns() -> None:
    with pytest.raises(InvalidInput) as refusal:
        layout_of(pb.ImportHeader(), ["x", "x"])
    assert {each.field: each.description for each in refusal.value.violations} == {
        "arrow": "has more than one column 'x'",
        "header.user_id_column": "the stream has no column 'user_id'; it has 'x', 'x'",
        "header.time_column": "the stream has no column 'time'; it has 'x', 'x'",
        "header.name_column": "the stream has no column 'name'; it has 'x', 'x'",
    }
    layout = layout_of(pb.ImportHeader(default_name="d"), ["user_id", "time", "event_id"])
    assert (layout.name, layout.event_id, layout.attributes) == (None, "event_id", ())
