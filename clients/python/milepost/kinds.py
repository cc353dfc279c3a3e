"""What the kinds of values are called."""

from __future__ import annotations

from collections.abc import Mapping

from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_LIST,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)

KIND_NAMES: Mapping[ValueKind.ValueType, str] = {
    VALUE_KIND_STRING: "string",
    VALUE_KIND_NUMBER: "number",
    VALUE_KIND_BOOL: "bool",
    VALUE_KIND_TIME: "time",
    VALUE_KIND_LIST: "list",
}


def is_not_a(kind: ValueKind.ValueType) -> str:
    """ "is not a number", for a message about a value."""
    return f"is not a {KIND_NAMES[kind]}"
