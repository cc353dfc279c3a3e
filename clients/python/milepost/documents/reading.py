"""Tree → message, with the path of every fault.

The tree is proto3 JSON: fields by the names that `milepost.written_form` writes, or by others that
`json_format` takes. Durations may be written as `milepost.durations` reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from milepost._near import did_you_mean
from milepost.documents.text import TOO_DEEP, DocumentError
from milepost.durations import EXPECTED, duration_of
from milepost.written_form import WELL_KNOWN, written_name

M = TypeVar("M", bound=Message)

_DURATION = "google.protobuf.Duration"
_VALUE = "milepost.v1.Value"
_VALUE_FIELDS: Sequence[tuple[type | tuple[type, ...], str]] = (
    (bool, "bool_value"),
    ((int, float), "number_value"),
    (str, "string_value"),
)
"""The field of a bare value. The order matters: a bool is an int."""
_NUMBER = "a number"
_EXPECTED: Mapping[str | int, str] = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: _NUMBER,
    FieldDescriptor.CPPTYPE_FLOAT: _NUMBER,
    FieldDescriptor.CPPTYPE_INT32: _NUMBER,
    FieldDescriptor.CPPTYPE_INT64: _NUMBER,
    FieldDescriptor.CPPTYPE_UINT32: _NUMBER,
    FieldDescriptor.CPPTYPE_UINT64: _NUMBER,
    "google.protobuf.Timestamp": "a time in RFC 3339, like 2026-11-01T10:00:00Z",
}
"""What a field of each kind takes. For others, the error of `json_format` says it."""
_SPECIAL = re.compile(r'[.\[\]"]|^$')
"""Characters of a key that mean something in a path."""
_FAULTY: Any = object()
"""What is read in place of a value that has a fault."""


class MessageReader:
    """Reads messages and collects the faults of all of them."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def raise_if_any_fault(self) -> None:
        """Raises DocumentError with the faults found so far."""
        if self.faults:
            raise DocumentError(self.faults)

    def fault(self, path: str, problem: str) -> None:
        """Adds a fault."""
        self.faults.append((path, problem))

    def message(self, tree: Any, type_: type[M], path: str = "") -> M:
        """The message of a tree, without the parts that have faults."""
        message = type_()
        descriptor: Any = message.DESCRIPTOR
        try:
            return json_format.ParseDict(self._tree(tree, descriptor, path), message)
        except RecursionError:
            self.fault(path, TOO_DEEP)
        except json_format.ParseError as error:
            self.fault(path, str(error))
        return message

    def _tree(self, tree: Any, type_: Descriptor, path: str) -> dict[str, Any]:
        """The tree with the fields' JSON names, and with durations in their JSON form."""
        fields = list(cast(Iterable[FieldDescriptor], type_.fields))
        shown = [written_name(field) for field in fields]
        if not isinstance(tree, dict):
            self.fault(path, _mapping_expected(tree, type_, shown))
            return {}
        spellings = {
            name: field for field in fields for name in (written_name(field), field.json_name, field.name)
        }
        read: dict[str, Any] = {}
        for key, value in tree.items():
            field = spellings.get(key)
            if field is None:
                known = did_you_mean(str(key), shown) or f"; the fields are {', '.join(shown)}"
                self.fault(below(path, str(key)), f"unknown field{known}")
            elif field.json_name in read:
                self.fault(below(path, key), "is given twice")
            # As in JSON, null is a field that is not set.
            elif value is not None:
                read[field.json_name] = self._field(value, field, below(path, written_name(field)))
        for choice in type_.oneofs:
            chosen = [f"`{written_name(field)}`" for field in choice.fields if field.json_name in read]
            if len(chosen) > 1:
                self.fault(path, f"has {' and '.join(chosen)}; only one of them may be set")
                read = {}
        return {name: value for name, value in read.items() if value is not _FAULTY}

    def _field(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        if not field.is_repeated:
            return self._value(value, field, path)
        if _is_map(field):
            return self._plain(value, value, field, path)
        if not isinstance(value, list):
            self.fault(path, "must be a list")
            return _FAULTY
        items = [self._value(item, field, f"{path}[{index}]") for index, item in enumerate(value)]
        return _FAULTY if any(item is _FAULTY for item in items) else items

    def _value(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        inside = field.message_type
        if inside is not None and inside.full_name == _DURATION:
            return self._duration(value, path)
        if inside is not None and not inside.full_name.startswith(WELL_KNOWN):
            return self._tree(value, inside, path)
        if field.enum_type is not None and isinstance(value, str):
            return self._enum(value, field.enum_type, path)
        return self._plain(value, [value] if field.is_repeated else value, field, path)

    def _duration(self, value: Any, path: str) -> Any:
        try:
            if isinstance(value, str):
                return duration_of(value).ToJsonString()
            self.fault(path, f"{EXPECTED}, not {value!r}")
        except ValueError as error:
            self.fault(path, str(error))
        return _FAULTY

    def _enum(self, value: str, enum: EnumDescriptor, path: str) -> Any:
        if value in enum.values_by_name:
            return value
        known = [name for name in enum.values_by_name if not name.endswith("_UNSPECIFIED")]
        self.fault(path, f"must be one of {', '.join(known)}, not {value!r}")
        return _FAULTY

    def _plain(self, value: Any, whole: Any, field: FieldDescriptor, path: str) -> Any:
        """The value, once it is known to be one of the field; `whole` is what the field would be with it."""
        assert field.containing_type is not None
        alone = message_factory.GetMessageClass(field.containing_type)()
        try:
            json_format.ParseDict({field.json_name: whole}, alone)
        except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
            expected = _EXPECTED.get(field.message_type.full_name if field.message_type else field.cpp_type)
            self.fault(path, f"must be {expected}, not {value!r}" if expected else str(error))
            return _FAULTY
        return value


def below(path: str, key: str) -> str:
    """The path of a field of what is at `path`. A key that would not be read as one step is quoted."""
    if _SPECIAL.search(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def _mapping_expected(tree: Any, type_: Descriptor, shown: list[str]) -> str:
    """What belongs in place of a tree that is no mapping. For a bare value it says how to write that one."""
    if type_.full_name == _VALUE:
        for plain, field in _VALUE_FIELDS:
            if isinstance(tree, plain):
                written = f"{{{field}: {json.dumps(tree, ensure_ascii=False)}}}"
                return f"must name the kind of the value, like {written}; the kinds are {', '.join(shown)}"
    return f"must be a mapping with {', '.join(shown)}" if shown else "must be {}"


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
