"""Resolves the header of an import against the columns of its stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.criteria.model import EventType
from engine.errors import InvalidInput, Violation
from engine.limits import IMPORT_COLUMNS_MAX
from engine.values import Kind, Micros
from milepost.grammar import Grammar
from milepost.time_units import UNIT_NANOS
from milepost.v1 import catalog_service_pb2, ingest_service_pb2
from service.convert.data import EVENT_TYPES, UNKNOWN_TYPE
from service.convert.faults import ShapeFaults
from service.convert.times import instant

USER_ID = "user_id"
NAME = "name"
TIME = "time"
EVENT_ID = "event_id"
COLUMNS_LISTED_MAX = 100
"""Columns that an error names."""

_KINDS = {int(kind): kind for kind in Kind}
"""The numbers of `ValueKind` are those of `Kind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The column for each field; None when there is none. `default_time` is in microseconds."""

    user_id: str
    time: str | None
    name: str | None
    event_id: str | None
    type: str | None
    input: str | None
    attributes: tuple[str, ...]
    kinds: Mapping[str, Kind]
    """Attributes to read as a different kind than their type implies."""
    grammar: Grammar
    """How texts are read, and what numbers count as times."""
    default_time: Micros | None
    default_name: str
    default_input: str
    default_type: EventType


class ColumnNames:
    """The column names of a stream, for lookups by the header."""

    def __init__(self, columns: Sequence[str], faults: ShapeFaults) -> None:
        self._columns = frozenset(columns)
        self._listed = ", ".join(map(repr, columns[:COLUMNS_LISTED_MAX]))
        if len(columns) > COLUMNS_LISTED_MAX:
            self._listed += f" and {len(columns) - COLUMNS_LISTED_MAX} more"
        self._faults = faults
        if len(columns) > IMPORT_COLUMNS_MAX:
            faults.add("arrow", f"has {len(columns)} columns; at most {IMPORT_COLUMNS_MAX} are allowed")
        for repeated in (name for name, count in Counter(columns).items() if count > 1):
            faults.add("arrow", f"has more than one column {repeated!r}")

    def find(self, field: str, named: str, default: str = "", *, required: bool = False) -> str | None:
        """The column that a field of the header names, or the default; None when there is none. Adds a fault
        when a required one is missing.
        """
        wanted = named or default
        if wanted in self._columns and wanted:
            return wanted
        if named or required:
            self._faults.add(f"header.{field}", f"the stream has no column {wanted!r}; it has {self._listed}")
        return None


def layout_of(header: ingest_service_pb2.ImportHeader, columns: Sequence[str]) -> Layout:
    """Resolves the columns. Raises InvalidInput with every fault."""
    faults = ShapeFaults()
    column = ColumnNames(columns, faults).find
    user_id = column("user_id_column", header.user_id_column, USER_ID, required=True)
    has_time = header.HasField("default_time")
    time = column("time_column", header.time_column, TIME, required=not has_time)
    name = column("name_column", header.name_column, NAME, required=not header.default_name)
    event_id = column("event_id_column", header.event_id_column, EVENT_ID)
    type_ = column("type_column", header.type_column)
    input_ = column("input_column", header.input_column)
    meant = {user_id, time, name, event_id, type_, input_}
    attributes = tuple(each for each in columns if each not in meant)
    kinds = attribute_kinds(header.attribute_kinds, attributes, faults)
    default_type = EVENT_TYPES.get(header.default_type)
    if default_type is None:
        faults.add("header.default_type", UNKNOWN_TYPE)
    grammar = grammar_of(header, faults)
    default_time = instant(header.default_time, "header.default_time", faults) if has_time else None
    faults.raise_if_any()
    assert user_id is not None
    assert default_type is not None
    return Layout(
        user_id=user_id,
        time=time,
        name=name,
        event_id=event_id,
        type=type_,
        input=input_,
        attributes=attributes,
        kinds=kinds,
        grammar=grammar,
        default_time=default_time,
        default_name=header.default_name,
        default_input=header.input,
        default_type=default_type,
    )


def grammar_of(
    header: ingest_service_pb2.ImportHeader | ingest_service_pb2.ImportUsersHeader, faults: ShapeFaults
) -> Grammar:
    """How strings and integers are read. Adds a fault for an invalid unit or format."""
    unit_nanos = UNIT_NANOS.get(header.time_unit or ingest_service_pb2.TIME_UNIT_MICROSECONDS)
    if unit_nanos is None:
        faults.add("header.time_unit", "is not a time unit")
        return Grammar()
    try:
        return Grammar(header.decimal_comma, header.time_format, unit_nanos)
    except ValueError as error:
        faults.add("header.time_format", str(error))
        return Grammar()


def attribute_kinds(
    given: Mapping[str, catalog_service_pb2.ValueKind.ValueType],
    attributes: Sequence[str],
    faults: ShapeFaults,
) -> dict[str, Kind]:
    """The kinds to read attributes as. Adds a fault for an unknown attribute or kind."""
    kinds = {}
    known = frozenset(attributes)
    for name, number in given.items():
        kind = _KINDS.get(number)
        if name not in known:
            faults.add(f"header.attribute_kinds[{name!r}]", "the stream has no attribute of this name")
        elif kind is None:
            faults.add(f"header.attribute_kinds[{name!r}]", "is not a value kind")
        else:
            kinds[name] = kind
    return kinds


def unfit(column: str, type_: object, wanted: str) -> InvalidInput:
    """The error for a column of the wrong type."""
    return InvalidInput([Violation(f"arrow[{column!r}]", f"has the type {type_}; it must be {wanted}")])
