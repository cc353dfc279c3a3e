"""Which kind of value an Arrow type holds. The service and the readers of files agree by it.

Uses pyarrow: import it where it is needed, not at start.
"""

from __future__ import annotations

import pyarrow as pa

from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_LIST,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)


def kind_of(type_: pa.DataType) -> ValueKind.ValueType | None:
    """The kind of the values of a type; None when no attribute can hold them. Nulls are of strings."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if is_text(type_) or pa.types.is_null(type_):
        return VALUE_KIND_STRING
    if pa.types.is_integer(type_) or is_fractional(type_):
        return VALUE_KIND_NUMBER
    if pa.types.is_boolean(type_):
        return VALUE_KIND_BOOL
    if is_time(type_):
        return VALUE_KIND_TIME
    return VALUE_KIND_LIST if _is_list_of_texts(type_) else None


def is_text(type_: pa.DataType) -> bool:
    """Whether values are strings, in any of Arrow's forms but a dictionary."""
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def is_texts(type_: pa.DataType) -> bool:
    """The same, dictionaries included."""
    return is_text(type_.value_type if pa.types.is_dictionary(type_) else type_)


def is_time(type_: pa.DataType) -> bool:
    """Whether the type by itself says that its values are instants."""
    return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))


def is_fractional(type_: pa.DataType) -> bool:
    """Whether values are numbers that may have a fraction."""
    return bool(pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_list_of_texts(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(is_list) and is_texts(type_.value_type)
